"""The only code that knows devices and disks. Imports nothing else of ours."""
