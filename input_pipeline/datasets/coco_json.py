"""Reads COCO keypoints JSON and says what is wrong with it. No TensorFlow here.

https://cocodataset.org/#format-data: ``categories`` name the joints and the
skeleton, ``annotations`` hold ``keypoints`` as x1 y1 v1 x2 y2 v2 ... with v = 0
unlabelled, 1 labelled but hidden, 2 labelled and seen.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from input_pipeline.problems import Problem, Reporter
from input_pipeline.skeleton import BUILT_IN, Skeleton

# Annotation tools round to whole pixels, so a landmark may lie just outside.
BORDER_PX = 1.0


@dataclasses.dataclass(frozen=True)
class Person:
    """One labelled person: keypoints (P,2) px, visible (P,), box (4,) x y w h."""

    sample_id: int
    image_id: int
    file: Path
    name: str
    size: tuple[int, int] | None
    keypoints: np.ndarray
    visible: np.ndarray
    box: np.ndarray


@dataclasses.dataclass(frozen=True)
class CocoIndex:
    """What a file holds: its skeleton, its usable persons, and what was left out."""

    skeleton: Skeleton
    persons: tuple[Person, ...]
    skipped: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Scan:
    """What the checks of one file share."""

    path: Path
    images: Path
    box: str
    min_joints: int
    report: Reporter

    def problem(
        self, kind: str, index: str, value: Any, remedy: str, fatal: bool = True
    ) -> None:
        self.report(Problem(kind, str(self.path), index, str(value), remedy, fatal))


def scan_coco(
    path: Path, images: Path, *, box: str, min_joints: int, report: Reporter
) -> CocoIndex | None:
    """Reads one annotation file, in the order of its annotations.

    Crowds, persons that say ``num_keypoints: 0`` and those with fewer than
    ``min_joints`` labelled joints are left out and counted.

    Args:
        path: the JSON file.
        images: the folder that ``file_name`` is relative to.
        box: ``"landmarks"`` or ``"annotation"``: whose area must not be zero.
        min_joints: the fewest labelled joints of a person.
        report: receives every :class:`Problem`.

    Returns:
        The index, or None where the file as a whole cannot be used.
    """
    scan = _Scan(path, images, box, min_joints, report)
    record = _load(scan)
    skeleton = _read_skeleton(scan, record) if record else None
    if record is None or skeleton is None:
        return None
    pictures = _read_images(scan, record["images"])
    skipped = {"crowd": 0, "unlabelled": 0, "too few joints": 0}
    persons = []
    seen: set[int] = set()
    for i, annotation in enumerate(record["annotations"]):
        person = _read_person(scan, i, annotation, skeleton, pictures, skipped)
        if person is None:
            continue
        if person.sample_id in seen:
            remedy = "give every annotation an id of its own"
            scan.problem("duplicate id", _at(i, annotation), person.sample_id, remedy)
            continue
        seen.add(person.sample_id)
        persons.append(person)
    if not persons:
        remedy = "label the landmarks of at least one person"
        scan.problem("no labelled person", "annotations", f"skipped {skipped}", remedy)
        return None
    return CocoIndex(skeleton, tuple(persons), skipped)


def check_picture(
    person: Person, annotations: Path, *, report: Reporter
) -> tuple[bytes, Image.Image] | None:
    """Decodes a person's picture.

    Returns:
        The file's bytes and the decoded picture, or None after a report.
    """
    where = f"picture of annotation id {person.sample_id}"
    try:
        encoded = person.file.read_bytes()
        picture = Image.open(io.BytesIO(encoded))
        picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        remedy = "replace the picture or remove it from the annotations"
        problem = Problem(
            "image does not decode", str(person.file), where, str(error), remedy
        )
        report(problem)
        return None
    if person.size is not None and picture.size != person.size:
        value = f"is {picture.size} but {annotations} says {person.size}"
        remedy = "correct width and height, or the picture (EXIF turns are not applied)"
        report(Problem("size differs", str(person.file), where, value, remedy))
        return None
    if person.size is None:
        outside = _outside(person.keypoints, person.visible, picture.size)
        if outside is not None:
            remedy = "correct the coordinates or set v to 0"
            value = f"joint {outside} at {person.keypoints[outside].tolist()}"
            report(Problem("landmark outside", str(person.file), where, value, remedy))
            return None
    return encoded, picture


def _at(i: int, annotation: Any) -> str:
    has_id = isinstance(annotation, Mapping) and "id" in annotation
    return f"annotations[{i}]" + (f" (id {annotation['id']})" if has_id else "")


def _load(scan: _Scan) -> dict[str, Any] | None:
    if not scan.path.is_file():
        field = "set --config.data.annotations to the COCO keypoints JSON"
        scan.problem("missing file", "", "no such file", field)
        return None
    try:
        record = json.loads(scan.path.read_bytes())
    except ValueError as error:
        remedy = "write the file again as UTF-8 JSON"
        scan.problem("not JSON", "", error, remedy)
        return None
    for key in ("images", "annotations", "categories"):
        if not isinstance(record, dict) or not isinstance(record.get(key), list):
            remedy = "use the COCO keypoints format: images, annotations, categories"
            scan.problem("not a COCO file", "", f"no list {key!r}", remedy)
            return None
    return record


def _read_skeleton(scan: _Scan, record: dict[str, Any]) -> Skeleton | None:
    named = [
        c for c in record["categories"] if isinstance(c, Mapping) and c.get("keypoints")
    ]
    if not named:
        remedy = "add 'keypoints': [names] and 'skeleton' to the category"
        scan.problem("no skeleton", "categories", "no category has keypoints", remedy)
        return None
    used = {a.get("category_id") for a in record["annotations"] if isinstance(a, dict)}
    several = [c for c in named if c.get("id") in used] or named
    if len(several) > 1:
        names = [c.get("name") for c in several]
        remedy = "keep the annotations of one category in a file"
        scan.problem("several skeletons", "categories", names, remedy)
        return None
    try:
        return _well_known(Skeleton.from_coco_category(several[0]))
    except (ValueError, TypeError) as error:
        remedy = "correct the category's keypoints and skeleton (counted from 1)"
        scan.problem("bad skeleton", "categories", error, remedy)
        return None


def _well_known(skeleton: Skeleton) -> Skeleton:
    """The built-in skeleton of the same joints and bones, which knows its root."""
    bones = {frozenset(edge) for edge in skeleton.edges}
    for known in BUILT_IN.values():
        known_bones = {frozenset(edge) for edge in known.edges}
        if known.joints == skeleton.joints and known_bones == bones:
            return known
    return skeleton


def _read_images(scan: _Scan, images: Sequence[Any]) -> dict[int, Mapping[str, Any]]:
    pictures: dict[int, Mapping[str, Any]] = {}
    for i, image in enumerate(images):
        if not isinstance(image, Mapping) or not {"id", "file_name"} <= set(image):
            remedy = "give every image an id and a file_name"
            scan.problem("bad image entry", f"images[{i}]", image, remedy)
        elif image["id"] in pictures:
            remedy = "give every image an id of its own"
            scan.problem("duplicate id", f"images[{i}]", image["id"], remedy)
        else:
            pictures[image["id"]] = image
    return pictures


def _read_person(
    scan: _Scan,
    i: int,
    annotation: Any,
    skeleton: Skeleton,
    pictures: dict[int, Mapping[str, Any]],
    skipped: dict[str, int],
) -> Person | None:
    at = _at(i, annotation)
    if not isinstance(annotation, Mapping) or not isinstance(annotation.get("id"), int):
        remedy = "give every annotation a whole number as its id"
        scan.problem("bad annotation", at, annotation, remedy)
        return None
    if annotation.get("iscrowd"):
        skipped["crowd"] += 1
        return None
    if annotation.get("num_keypoints", 1) == 0 or not annotation.get("keypoints"):
        skipped["unlabelled"] += 1
        return None
    landmarks = _read_landmarks(scan, at, annotation, skeleton)
    if landmarks is None:
        return None
    keypoints, visible = landmarks
    if 0 < visible.sum() < scan.min_joints:
        skipped["too few joints"] += 1
        return None
    picture = pictures.get(annotation.get("image_id", -1))
    if picture is None:
        remedy = "add the image to 'images' or remove the annotation"
        scan.problem("unknown image", at, annotation.get("image_id"), remedy)
        return None
    file = scan.images / str(picture["file_name"])
    size = _size(picture)
    box = _read_box(annotation)
    person = Person(
        sample_id=annotation["id"],
        image_id=int(picture["id"]),
        file=file,
        name=str(picture["file_name"]),
        size=size,
        keypoints=keypoints,
        visible=visible,
        box=box,
    )
    return person if _check_person(scan, at, person) else None


def _read_landmarks(
    scan: _Scan, at: str, annotation: Mapping[str, Any], skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray] | None:
    """keypoints (P, 2) with zeros where unlabelled, and visible (P,)."""
    values = annotation["keypoints"]
    expected = 3 * skeleton.num_joints
    if not isinstance(values, list) or len(values) != expected:
        found = len(values) if isinstance(values, list) else type(values).__name__
        remedy = f"the skeleton {skeleton.name!r} needs {expected} (x, y, v a joint)"
        scan.problem("skeleton mismatch", at, f"{found} keypoint numbers", remedy)
        return None
    try:
        array = np.asarray(values, np.float64).reshape(-1, 3)
    except (TypeError, ValueError):
        array = np.full((skeleton.num_joints, 3), np.nan)
    visible = np.nan_to_num(array[:, 2], nan=1.0) > 0
    bad = np.flatnonzero(visible & ~np.isfinite(array).all(axis=1))
    if bad.size:
        j = int(bad[0])
        remedy = "write finite numbers, or 0 0 0 for an unlabelled joint"
        value = f"joint {j} ({skeleton.joints[j]}) is {array[j].tolist()}"
        scan.problem("NaN", at, value, remedy)
        return None
    keypoints = np.where(visible[:, None], array[:, :2], 0.0).astype(np.float32)
    return keypoints, visible


def _check_person(scan: _Scan, at: str, person: Person) -> bool:
    """Reports what is wrong with one person; True where it can be used."""
    points = person.keypoints[person.visible]
    if not len(points):
        remedy = "label a joint, or set num_keypoints to 0 to leave the person out"
        scan.problem("no labelled joint", at, "all v are 0", remedy)
        return False
    outside = _outside(person.keypoints, person.visible, person.size)
    if outside is not None:
        where = f"joint {outside} at {person.keypoints[outside].tolist()}"
        value = f"{where}, {person.name} is {person.size}"
        remedy = "correct the coordinates or set v to 0"
        scan.problem("landmark outside the picture", at, value, remedy)
        return False
    extent = np.ptp(points, axis=0) if scan.box == "landmarks" else person.box[2:]
    if not np.isfinite(person.box).all() or extent.max() <= 0:
        remedy = (
            "label a second joint elsewhere, or set --config.data.min_joints=2"
            if scan.box == "landmarks"
            else "give the person a bbox, or set --config.data.box=landmarks"
        )
        scan.problem("zero-area box", at, f"{scan.box} box {extent.tolist()}", remedy)
        return False
    if not person.file.is_file():
        remedy = "set --config.data.images to the folder of the pictures, or add it"
        scan.problem("missing file", at, person.file, remedy)
        return False
    return True


def _outside(
    keypoints: np.ndarray, visible: np.ndarray, size: tuple[int, int] | None
) -> int | None:
    """Index of the first labelled landmark outside a (width, height) picture."""
    if size is None:
        return None
    low, high = -BORDER_PX, np.asarray(size) + BORDER_PX
    bad = visible & ((keypoints < low) | (keypoints > high)).any(axis=1)
    return int(np.flatnonzero(bad)[0]) if bad.any() else None


def _size(picture: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = picture.get("width"), picture.get("height")
    return (int(width), int(height)) if width and height else None


def _read_box(annotation: Mapping[str, Any]) -> np.ndarray:
    """(4,) bbox; zeros where the annotation has none, NaN where it is no numbers."""
    box = annotation.get("bbox") or [0, 0, 0, 0]
    try:
        return np.asarray(box, np.float32).reshape(4)
    except (TypeError, ValueError):
        return np.full(4, np.nan, np.float32)
