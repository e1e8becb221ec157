"""COCO in other forms: lists of detections become a record, others get a message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.formats.annotations import Source
from input_pipeline.formats.json_file import whole_number
from runtime.reading import read_bytes

FORM = (
    "write images: [{'id': 1, 'file_name': ...}], annotations: [{'id': 1, 'image_id': "
    "1, 'category_id': 1, 'keypoints': [x1, y1, v1, x2, ...]}] and whole ids"
)

_KINDS = {dict: "an object", str: "text"}


def as_record(source: Source, found: Any) -> dict[str, Any] | None:
    """A record with the lists images, annotations and categories; None after a report.

    A list of detections takes its pictures from ``file_name`` (and ``frame``), or from
    the file beside it that has the ``images`` of its ``image_id``; its joints from that
    file, or from ``about.json``, which ``--stage=predict`` writes.
    """
    detections = isinstance(found, list) and bool(found)
    if detections and all(isinstance(e, Mapping) and "keypoints" in e for e in found):
        return _of_detections(source, found)
    record: dict[str, Any] = dict(found) if isinstance(found, dict) else {}
    if source.skeleton:
        record.setdefault("categories", [])
    for key in ("images", "annotations", "categories"):
        if key not in record:
            remedy = "use the COCO keypoints format: images, annotations, categories"
            source.problem("not a COCO file", "", f"no list {key!r}", remedy)
            return None
    if form := _other_form(record):
        source.problem("another form of COCO", "", form, FORM)
        return None
    return record


def _other_form(record: Mapping[str, Any]) -> str:
    """What the whole file writes otherwise, in words; empty where nothing."""
    said = [
        f"{key!r} is {_KINDS.get(type(record[key]), 'a value')} and no list"
        for key in ("images", "annotations", "categories")
        if not isinstance(record[key], list)
    ]
    for key in ("images", "annotations"):
        value = record[key] if isinstance(record[key], list) else []
        entries = [entry for entry in value if isinstance(entry, Mapping)]
        if entries and not any("id" in entry for entry in entries):
            said.append(f"the {key} have no id")
        elif entries and all(isinstance(entry.get("id"), str) for entry in entries):
            said.append(f"the ids of the {key} are text, {entries[0]['id']!r}")
        keypoints = [k for k in (e.get("keypoints") for e in entries) if k]
        if keypoints and all(isinstance(k, list) and _nested(k) for k in keypoints):
            said.append(f"'keypoints' are nested, [{keypoints[0][0]}, ...]")
    return "; ".join(said)


def _nested(keypoints: Sequence[Any]) -> bool:
    return all(isinstance(point, list) for point in keypoints)


def _of_detections(source: Source, entries: list[Any]) -> dict[str, Any] | None:
    if all(isinstance(entry.get("file_name"), str) for entry in entries):
        names = [_name(entry) for entry in entries]
        ids = {name: i for i, name in enumerate(dict.fromkeys(names))}
        images = [{"id": i, "file_name": name} for name, i in ids.items()]
        annotations = [
            {**entry, "id": i, "image_id": ids[name]}
            for i, (entry, name) in enumerate(zip(entries, names, strict=True))
        ]
        about = _json(source.path.parent / "about.json").get("skeleton")
        categories = [] if about is None else [_category(about)]
    else:
        beside = _images_beside(source.path, entries)
        if beside is None:
            remedy = "put the COCO file with the 'images' of these ids beside it"
            value = "a list of detections by image_id"
            source.problem("no pictures", "", value, remedy)
            return None
        images, categories = beside["images"], beside.get("categories", [])
        annotations = [{**entry, "id": i} for i, entry in enumerate(entries)]
    for annotation in annotations:
        annotation.pop("num_keypoints", None)
    lists = {"images": images, "annotations": annotations}
    return lists | {"categories": categories}


def _name(entry: Mapping[str, Any]) -> str:
    frame = whole_number(entry.get("frame"))
    return entry["file_name"] + ("" if frame is None else f"#{frame}")


def _category(skeleton: Any) -> dict[str, Any]:
    """The category of a skeleton that ``about.json`` holds."""
    record = skeleton if isinstance(skeleton, Mapping) else {}
    bones = record.get("edges") or ()
    try:
        counted = [[int(a) + 1, int(b) + 1] for a, b in bones]
    except (TypeError, ValueError):
        counted = []
    return {**record, "id": 1, "keypoints": record.get("joints"), "skeleton": counted}


def _images_beside(path: Path, entries: Sequence[Any]) -> dict[str, Any] | None:
    """The COCO file in the folder that has all images of the detections."""
    wanted = {whole_number(entry.get("image_id")) for entry in entries}
    for file in sorted(path.parent.glob("*.json")):
        record = _json(file) if file != path else {}
        images = record.get("images")
        listed = images if isinstance(images, list) else []
        ids = {whole_number(i.get("id")) for i in listed if isinstance(i, Mapping)}
        if wanted <= ids - {None}:
            return record
    return None


def _json(file: Path) -> dict[str, Any]:
    """What a file beside the labels holds; empty where it is none of that kind."""
    try:
        record = json.loads(read_bytes(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
