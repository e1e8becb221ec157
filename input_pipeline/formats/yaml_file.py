"""YAML of users, read as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_yaml(path: Path) -> dict[str, Any]:
    """The record that a file holds; empty where it holds something else.

    Raises:
        OSError: the file is missing or unreadable.
        ValueError: it is no YAML.
    """
    import yaml

    try:
        record = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return record if isinstance(record, dict) else {}
