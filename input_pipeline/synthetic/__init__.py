"""Embedded data: people and animals in varied poses, drawn without any download."""
