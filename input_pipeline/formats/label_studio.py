"""Reads keypoints of Label Studio: the exports JSON and JSON-MIN.

A keypoint is a region with a label and a place in per cent of the picture. Keypoints
with the same ``parentID``, which is a rectangle around a body, are one body; those
without are one body of the picture. The picture is found by the end of its address.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np

from input_pipeline.formats.annotations import Labels, Person, Source
from input_pipeline.formats.json_file import plain_numbers, read_json, whole_number
from input_pipeline.frames import is_file
from input_pipeline.skeleton import Skeleton

LABELS = "keypointlabels"
_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # of the name of an uploaded picture


def read(source: Source) -> Labels | None:
    """The bodies of all tasks, in their order, numbered from 0."""
    record = read_json(source)
    if record is None:
        return None
    tasks = [task for task in _list(record) if isinstance(task, Mapping)]
    regions = [list(_regions(task)) for task in tasks]
    joints = dict.fromkeys(_label(r) for some in regions for r in some if _label(r))
    if not joints:
        remedy = "export the project as JSON or JSON-MIN, with labelled keypoints"
        source.problem("not a Label Studio file", "", "no keypoint", remedy)
        return None
    skeleton = Skeleton.from_names({"name": "label studio", "joints": [*joints]})
    labels = Labels(skeleton)
    found = _bodies(source, tasks, regions, skeleton, labels.skipped)
    numbered = (dataclasses.replace(p, sample_id=i) for i, p in enumerate(found))
    return dataclasses.replace(labels, persons=tuple(numbered))


def _regions(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Keypoints and rectangles of a task, of its last annotation."""
    annotations = _list(task.get("annotations") or task.get("completions"))
    done = [
        _list(a.get("result"))
        for a in annotations
        if isinstance(a, Mapping) and not a.get("was_cancelled")
    ]
    # JSON-MIN has the values of a task's regions as lists of it.
    given = done[-1] if done else [r for v in task.values() for r in _list(v)]
    for region in given:
        if isinstance(region, Mapping):
            value = region.get("value")
            yield {**region, **value} if isinstance(value, Mapping) else region


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _label(region: Mapping[str, Any]) -> str:
    names = _list(region.get(LABELS))
    return str(names[0]) if len(names) == 1 else ""


def _bodies(
    source: Source,
    tasks: Sequence[Mapping[str, Any]],
    regions: Sequence[Sequence[Mapping[str, Any]]],
    skeleton: Skeleton,
    skipped: dict[str, int],
) -> Iterator[Person]:
    for number, (task, some) in enumerate(zip(tasks, regions, strict=True)):
        at = f"[{number}] (id {task.get('id', number)})"
        marks = [region for region in some if _label(region)]
        if not marks:
            skipped["unlabelled"] += 1
            continue
        name = _picture(source, task)
        if not name:
            remedy = "give the task the address of its picture as 'image'"
            source.problem("bad image entry", at, task.get("data", task), remedy)
            continue
        rectangles = {str(r.get("id")): r for r in some if "rectanglelabels" in r}
        parents = collections.defaultdict(list)
        for mark in marks:
            parent = str(mark.get("parentID"))
            parents[parent if parent in rectangles else ""].append(mark)
        for parent, group in parents.items():
            body = _body(source, at, group, skeleton)
            if body is not None:
                xy, labelled, size = body
                box = _box(rectangles.get(parent), size)
                yield Person(at, 0, number, name, xy, labelled, size, box)


def _body(
    source: Source, at: str, marks: Sequence[Mapping[str, Any]], skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]] | None:
    """xy (J, 2) pixels, labelled (J,) and the picture's size; None after a report."""
    xy = np.zeros((skeleton.num_joints, 2))
    labelled = np.zeros(skeleton.num_joints, bool)
    size = (0, 0)
    for mark in marks:
        joint, wide, high = _label(mark), *_size(mark)
        j = skeleton.joints.index(joint)
        place = plain_numbers([mark.get("x"), mark.get("y")])
        if labelled[j]:
            value = f"{joint} twice in one body"
            remedy = (
                "draw a rectangle around each body and make it the keypoints' parent"
            )
            source.problem("several bodies", at, value, remedy)
            return None
        if (
            not np.isfinite(place).all()
            or not wide
            or not high
            or mark.get("image_rotation")
        ):
            value = f"{joint} at {place.tolist()} per cent of {wide} x {high}"
            remedy = "give x, y, original_width and original_height, without a rotation"
            source.problem("impossible coordinate", at, value, remedy)
            return None
        size = (wide, high)
        xy[j], labelled[j] = place / 100 * size, True
    return xy, labelled, size


def _size(region: Mapping[str, Any]) -> tuple[int, int]:
    names = ("original_width", "original_height")
    wide, high = (whole_number(region.get(name)) or 0 for name in names)
    return max(wide, 0), max(high, 0)


def _box(region: Mapping[str, Any] | None, size: tuple[int, int]) -> np.ndarray:
    names = ("x", "y", "width", "height")
    values = plain_numbers([(region or {}).get(name) for name in names])
    return np.nan_to_num(values) / 100 * np.array([*size, *size])


def _picture(source: Source, task: Mapping[str, Any]) -> str:
    """Name of the picture: the end of its address that is there, else its last part."""
    data = task.get("data")
    record = data if isinstance(data, Mapping) else task
    texts = [v for v in record.values() if isinstance(v, str)]
    named = [record.get("image"), record.get("img"), *texts]
    address = next((v for v in named if isinstance(v, str) and "." in v), "")
    parts = unquote(address).rpartition("?d=")[2].split("?")[0].split("/")
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    tails.append(_PREFIX.sub("", parts[-1]))
    return next((t for t in tails if t and is_file(source.images / t)), parts[-1])
