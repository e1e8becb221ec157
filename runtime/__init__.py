"""Devices, files and processes. Imports no other package of this project."""
