"""Reads COCO keypoints JSON.

https://cocodataset.org/#format-data: ``categories`` name the joints and the
skeleton, ``annotations`` hold ``keypoints`` as x1 y1 v1 x2 y2 v2 ... with v = 0
unlabelled, 1 labelled but hidden, 2 labelled and seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.formats.annotations import Labels, Person, Source
from input_pipeline.formats.json_file import read_json, whole_number
from input_pipeline.skeleton import Skeleton


def read(source: Source) -> Labels | None:
    """The persons of one file, in the order of its annotations.

    Crowds and persons that say ``num_keypoints: 0``, or have no keypoints, are left
    out and counted. Categories without keypoints are passed over.
    """
    record = read_json(source)
    if record is None:
        return None
    for key in ("images", "annotations", "categories"):
        if not isinstance(record, dict) or not isinstance(record.get(key), list):
            remedy = "use the COCO keypoints format: images, annotations, categories"
            source.problem("not a COCO file", "", f"no list {key!r}", remedy)
            return None
    category = _category(source, record)
    if category is None:
        return None
    try:
        bones = category.get("skeleton") or ()
        edges = [(int(a) - 1, int(b) - 1) for a, b in bones]  # counted from 1
        named = {"name": category.get("name", "coco"), "edges": edges}
        skeleton = Skeleton.from_names(named | {"joints": category["keypoints"]})
    except (ValueError, TypeError, OverflowError) as error:
        remedy = "correct the category's keypoints and skeleton (counted from 1)"
        source.problem("bad skeleton", "categories", error, remedy)
        return None
    pictures = read_pictures(source, record["images"])
    labels = Labels(skeleton)
    found = _marks(source, record, skeleton, category, pictures, labels.skipped)
    # Read to the end here: what is left out is counted on the way.
    return dataclasses.replace(labels, persons=tuple(found))


def _category(source: Source, record: dict[str, Any]) -> Mapping[str, Any] | None:
    """The one category that has keypoints and is used."""
    named = [
        c for c in record["categories"] if isinstance(c, Mapping) and c.get("keypoints")
    ]
    if not named:
        remedy = "add 'keypoints': [names] and 'skeleton' to the category"
        source.problem("no skeleton", "categories", "no category has keypoints", remedy)
        return None
    # As text: what is no number must not stop the comparison.
    used = {
        str(a.get("category_id")) for a in record["annotations"] if isinstance(a, dict)
    }
    several = [c for c in named if str(c.get("id")) in used] or named
    if len(several) > 1:
        names = [c.get("name") for c in several]
        remedy = "keep the annotations of one category in a file"
        source.problem("several skeletons", "categories", names, remedy)
        return None
    return several[0]


def read_pictures(
    source: Source, images: Sequence[Any]
) -> dict[int, tuple[str, tuple[int, int] | None]]:
    """Picture id -> file name and size."""
    pictures: dict[int, tuple[str, tuple[int, int] | None]] = {}
    for i, image in enumerate(images):
        entry = image if isinstance(image, Mapping) else {}
        key, name = whole_number(entry.get("id")), entry.get("file_name")
        if key is None or not isinstance(name, str) or not name:
            remedy = "give every image a whole number as its id and a file_name"
            source.problem("bad image entry", f"images[{i}]", image, remedy)
        elif key in pictures:
            remedy = "give every image an id of its own"
            source.problem("duplicate id", f"images[{i}]", key, remedy)
        else:
            width = whole_number(entry.get("width"))
            height = whole_number(entry.get("height"))
            pictures[key] = name, ((width, height) if width and height else None)
    return pictures


def _marks(
    source: Source,
    record: dict[str, Any],
    skeleton: Skeleton,
    category: Mapping[str, Any],
    pictures: dict[int, tuple[str, tuple[int, int] | None]],
    skipped: dict[str, int],
) -> Iterator[Person]:
    for i, annotation in enumerate(record["annotations"]):
        entry = annotation if isinstance(annotation, Mapping) else {}
        at = f"annotations[{i}]" + (f" (id {entry['id']})" if "id" in entry else "")
        sample_id = whole_number(entry.get("id"))
        if sample_id is None:
            remedy = "give every annotation a whole number as its id"
            source.problem("bad annotation", at, annotation, remedy)
        elif entry.get("iscrowd"):
            skipped["crowd"] += 1
        elif entry.get("num_keypoints", 1) == 0 or not entry.get("keypoints"):
            skipped["unlabelled"] += 1
        elif entry.get("category_id", category.get("id")) != category.get("id"):
            remedy = "name its keypoints in 'categories', or remove the annotation"
            source.problem("unknown category", at, entry["category_id"], remedy)
        else:
            landmarks = _landmarks(source, at, entry["keypoints"], skeleton)
            image_id = whole_number(entry.get("image_id"))
            if landmarks is None:
                continue
            if image_id is None or image_id not in pictures:
                remedy = "add the image to 'images' or remove the annotation"
                source.problem("unknown image", at, entry.get("image_id"), remedy)
                continue
            name, size = pictures[image_id]
            box = read_box(entry.get("bbox"))
            yield Person(at, sample_id, image_id, name, *landmarks, size, box)


def _landmarks(
    source: Source, at: str, values: Any, skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray] | None:
    """xy (J, 2) with zeros where unlabelled, and labelled (J,)."""
    expected = 3 * skeleton.num_joints
    if not isinstance(values, list) or len(values) != expected:
        found = len(values) if isinstance(values, list) else type(values).__name__
        remedy = f"the skeleton {skeleton.name!r} needs {expected} (x, y, v a joint)"
        source.problem("skeleton mismatch", at, f"{found} keypoint numbers", remedy)
        return None
    array = _numbers(values).reshape(-1, 3)
    labelled = np.nan_to_num(array[:, 2], nan=1.0) > 0
    bad = np.flatnonzero(labelled & ~np.isfinite(array).all(axis=1))
    if bad.size:
        j = int(bad[0])
        remedy = "write finite numbers, or 0 0 0 for an unlabelled joint"
        value = f"joint {j} ({skeleton.joints[j]}) is {values[3 * j : 3 * j + 3]}"
        source.problem("NaN", at, value, remedy)
        return None
    return np.where(labelled[:, None], array[:, :2], 0.0), labelled


def read_box(box: Any) -> np.ndarray:
    """(4,) of a ``bbox``; zeros where there is none, NaN where it is no numbers."""
    if box is None:
        return np.zeros(4)
    whole = isinstance(box, list) and len(box) == 4
    return _numbers(box) if whole else np.full(4, np.nan)


def _numbers(values: list[Any]) -> np.ndarray:
    # Text is no number, even where Python could read one from it.
    numbers = [v if type(v) in (int, float) else np.nan for v in values]
    try:
        return np.array(numbers, np.float64)
    except OverflowError:
        return np.full(len(values), np.nan)
