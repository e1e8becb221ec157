"""Which format a file is in, for the message where it was taken for another one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.reading import open_file, read_bytes

_BY_SUFFIX = {
    ".slp": "sleap",
    ".npz": "h36m",
    ".yaml": "yolo",
    ".yml": "yolo",
    ".mat": "mpii",
    ".h5": "dlc",
}
# Of the entries of a list: the format that has all of these fields.
_BY_FIELDS = {
    "mpii": {"image", "joints"},
    "coco": {"keypoints"},
    "label_studio": {"annotations", "data"},
    "tracks": {"frame_id"},
}
# In a folder.
_BY_MEMBER = {
    "labeled-data": "dlc",
    "CollectedData.csv": "dlc",
    "data.yaml": "yolo",
    "Train": "h36m",
    "joints.mat": "lsp",
}


def recognise(path: Path) -> str:
    """The value of ``config.data.name`` for a file or folder; empty where unknown."""
    if path.is_dir():
        found = (
            name for member, name in _BY_MEMBER.items() if (path / member).exists()
        )
        return next(found, "")
    if path.name == "joints.mat":
        return "lsp"
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _of_table(path)
    return _of_json(path) if suffix == ".json" else _BY_SUFFIX.get(suffix, "")


def _of_table(path: Path) -> str:
    try:
        with open_file(path) as file:
            head = file.readline(1000).decode().split(",")
    except (OSError, ValueError):
        return ""
    return "tracks" if "frame_idx" in head else "dlc" if head[0] == "scorer" else ""


def _of_json(path: Path) -> str:
    try:
        record: Any = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return ""
    if isinstance(record, Mapping):
        found = {"annotations": "coco", "instance_info": "tracks", "people": "tracks"}
        return next((found[name] for name in found if name in record), "")
    first = record[0] if isinstance(record, list) and record else None
    fields = set(first) if isinstance(first, Mapping) else set()
    return next((n for n, wanted in _BY_FIELDS.items() if wanted <= fields), "")
