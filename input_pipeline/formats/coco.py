"""Reads COCO keypoints JSON, and lists of detections (``coco_forms``).

https://cocodataset.org/#format-data: ``categories`` name the joints and the
skeleton, ``annotations`` hold ``keypoints`` as x1 y1 v1 x2 y2 v2 ... with v = 0
unlabelled, 1 labelled but hidden, 2 labelled and seen. Where a third number is a
fraction, all are scores, with a threshold. Categories with the same joints are one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.formats.annotations import (
    OTHER_CATEGORY,
    Labels,
    Person,
    Source,
    least_labelled,
)
from input_pipeline.formats.coco_forms import as_record
from input_pipeline.formats.json_file import plain_numbers, read_json, whole_number
from input_pipeline.skeleton import Skeleton


def read(source: Source) -> Labels | None:
    """The persons of one file, in the order of its annotations.

    Crowds and persons that say ``num_keypoints: 0``, or have no keypoints, are left
    out and counted. Categories without keypoints are passed over.
    """
    found = read_json(source)
    record = None if found is None else as_record(source, found)
    if record is None:
        return None
    categories = _categories(source, record)
    skeleton = None if categories is None else _skeleton(source, categories)
    if categories is None or skeleton is None:
        return None
    pictures = read_pictures(source, record["images"])
    least = _note_numbers(source, record["annotations"])
    labels = Labels(skeleton)
    ids = {str(category.get("id")) for category in categories}
    if source.skeleton and not source.category:
        ids = set()  # of whatever category
    marks = _marks(source, record, skeleton, ids, pictures, labels.skipped, least=least)
    # Read to the end here: what is left out is counted on the way.
    return dataclasses.replace(labels, persons=tuple(marks))


def _categories(source: Source, record: dict[str, Any]) -> list[Any] | None:
    """The categories to read, all with the same joints; empty where none is named."""
    chosen = [
        c
        for c in record["categories"]
        if isinstance(c, Mapping)
        and source.category in ("", str(c.get("name")), str(c.get("id")))
    ]
    if source.category and not chosen:
        names = [c.get("name") for c in record["categories"] if isinstance(c, Mapping)]
        remedy = "set --config.data.category to one of them, or leave it empty"
        source.problem("unknown category", source.category, f"not in {names}", remedy)
        return None
    named = [c for c in chosen if c.get("keypoints")]
    if not named and source.skeleton:
        return chosen
    if not named:
        remedy = (
            "add 'keypoints': [names] and 'skeleton' to the category, or set "
            "--config.data.skeleton with the joints in the order of the file"
        )
        source.problem("no skeleton", "categories", "no category has keypoints", remedy)
        return None
    # As text: what is no number must not stop the comparison.
    used = {
        str(a.get("category_id")) for a in record["annotations"] if isinstance(a, dict)
    }
    several = [c for c in named if str(c.get("id")) in used] or named
    names = ", ".join(str(c.get("name")) for c in several)
    remedy = "set --config.data.category to one of them"
    if any(c["keypoints"] != several[0]["keypoints"] for c in several):
        source.problem("several skeletons", "categories", names, remedy)
        return None
    if len(several) > 1:
        value = f"{names} have the same joints and are read as one"
        remedy += " if that is not wanted"
        source.problem("several categories", "categories", value, remedy, fatal=False)
    return several


def _skeleton(source: Source, categories: Sequence[Any]) -> Skeleton | None:
    """That of the categories; where one is given, only the names of its joints."""
    category = categories[0] if categories else {}
    bones = [] if source.skeleton else category.get("skeleton") or []
    fields = {k: category[k] for k in ("left_right", "root") if k in category}
    try:
        edges = bones_from_0(bones)
        named = {"name": category.get("name", "coco"), "edges": edges}
        found = Skeleton.from_names(
            named | fields | {"joints": category.get("keypoints")}
        )
    except (ValueError, TypeError, OverflowError) as error:
        if source.skeleton:  # its joints, in the order of the file
            return source.skeleton
        remedy = (
            "correct the category's keypoints and skeleton (bones are counted from 1, "
            "or from 0 where one is 0), or set --config.data.skeleton"
        )
        source.problem("bad skeleton", "categories", error, remedy)
        return None
    if edges and any(0 in pair for pair in bones):
        remedy = "nothing to do"
        value = "a bone begins at 0: bones are counted from 0"
        source.problem("bones from 0", "categories", value, remedy, fatal=False)
    return found


def bones_from_0(bones: Iterable[Sequence[Any]]) -> list[tuple[int, int]]:
    """The bones of a category, which are counted from 1, or from 0 where one is 0.

    Raises:
        ValueError: a bone of other than two whole numbers.
    """
    pairs = [(_bone_end(a), _bone_end(b)) for a, b in bones]
    first = int(not any(0 in pair for pair in pairs))
    return [(a - first, b - first) for a, b in pairs]


def _bone_end(joint: Any) -> int:
    number = whole_number(joint)
    if number is None:
        raise ValueError(f"a bone ends at {joint!r}, which is no whole number")
    return number


def _note_numbers(source: Source, annotations: Sequence[Any]) -> float:
    """Says what the numbers mean; the least third number of a labelled joint."""
    found = [a.get("keypoints") for a in annotations if isinstance(a, Mapping)]
    flat = [v for k in found if isinstance(k, list) for v in k[: len(k) // 3 * 3]]
    table = plain_numbers(flat).reshape(-1, 3)
    table = table[np.isfinite(table).all(axis=1) & (table[:, 2] > 0)]
    if len(table) and source.pixel_centre is None and not (table[:, :2] % 1).any():
        value = "all coordinates are whole numbers, and taken as they are"
        remedy = "if they number pixels from 0, set --config.data.pixel_centre=0"
        source.problem("whole numbers", "keypoints", value, remedy, fatal=False)
    return least_labelled(source, table[:, 2])


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
            width, height = (
                whole_number(entry.get(side) or 0) for side in ("width", "height")
            )
            if width is None or height is None or min(width, height) < 0:
                remedy = "give width and height as whole numbers, or neither"
                source.problem("bad image entry", f"images[{i}]", image, remedy)
                continue
            pictures[key] = name, ((width, height) if width and height else None)
    return pictures


def _marks(
    source: Source,
    record: dict[str, Any],
    skeleton: Skeleton,
    categories: set[str],
    pictures: dict[int, tuple[str, tuple[int, int] | None]],
    skipped: dict[str, int],
    *,
    least: float,
) -> Iterator[Person]:
    for i, annotation in enumerate(record["annotations"]):
        entry = annotation if isinstance(annotation, Mapping) else {}
        at = f"annotations[{i}]" + (f" (id {entry['id']})" if "id" in entry else "")
        sample_id = whole_number(entry.get("id"))
        if sample_id is None:
            remedy = "give every annotation a whole number as its id"
            source.problem("bad annotation", at, annotation, remedy)
        elif (field := _odd_field(entry)) is not None:
            remedy = "iscrowd is 0 or 1, num_keypoints a whole number; or leave it out"
            source.problem("bad annotation", at, f"{field}: {entry[field]!r}", remedy)
        elif entry.get("iscrowd"):
            skipped["crowd"] += 1
        elif entry.get("num_keypoints", 1) == 0 or not entry.get("keypoints"):
            skipped["unlabelled"] += 1
        elif categories and str(entry.get("category_id", "")) not in {"", *categories}:
            if source.category:
                skipped[OTHER_CATEGORY] = skipped.get(OTHER_CATEGORY, 0) + 1
                continue
            remedy = "name its keypoints in 'categories', or remove the annotation"
            source.problem("unknown category", at, entry["category_id"], remedy)
        elif landmarks := _landmarks(source, at, entry["keypoints"], skeleton, least):
            image_id = whole_number(entry.get("image_id"))
            if image_id is None or image_id not in pictures:
                remedy = "add the image to 'images' or remove the annotation"
                source.problem("unknown image", at, entry.get("image_id"), remedy)
                continue
            name, size = pictures[image_id]
            box = read_box(entry.get("bbox"))
            yield Person(at, sample_id, image_id, name, *landmarks, size, box)


def _odd_field(annotation: Mapping[str, Any]) -> str | None:
    """The name of a field that is nearly right, and whose meaning would be a guess."""
    crowd, count = annotation.get("iscrowd") or 0, annotation.get("num_keypoints")
    if not isinstance(crowd, bool) and whole_number(crowd) not in (0, 1):
        return "iscrowd"
    odd = count is not None and whole_number(count) is None
    return "num_keypoints" if odd else None


def _landmarks(
    source: Source, at: str, values: Any, skeleton: Skeleton, least: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """xy (J, 2) with zeros where unlabelled, and labelled (J,)."""
    expected = 3 * skeleton.num_joints
    if not isinstance(values, list) or len(values) != expected:
        found = len(values) if isinstance(values, list) else type(values).__name__
        remedy = f"the skeleton {skeleton.name!r} needs {expected} (x, y, v a joint)"
        source.problem("skeleton mismatch", at, f"{found} keypoint numbers", remedy)
        return None
    array = plain_numbers(values).reshape(-1, 3)
    labelled = np.nan_to_num(array[:, 2], nan=1.0) >= least
    bad = np.flatnonzero(labelled & ~np.isfinite(array).all(axis=1))
    if bad.size:
        j = int(bad[0])
        remedy = "write finite numbers, or 0 0 0 for an unlabelled joint"
        value = f"{skeleton.joints[j]} is {values[3 * j : 3 * j + 3]}"
        source.problem("NaN", at, value, remedy)
        return None
    return np.where(labelled[:, None], array[:, :2], 0.0), labelled


def read_box(box: Any) -> np.ndarray:
    """(4,) of a ``bbox``; zeros where there is none, NaN where it is no numbers."""
    if box is None:
        return np.zeros(4)
    whole = isinstance(box, list) and len(box) == 4
    return plain_numbers(box) if whole else np.full(4, np.nan)
