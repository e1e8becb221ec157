"""Reads MPII Human Pose: the JSON of HRNet and mmpose, and the original ``.mat``.

The JSON is a list of persons: ``image``, ``joints`` (16 x, y), ``joints_vis`` (16),
``center``, ``scale`` (of 200 pixels). The ``.mat`` holds ``RELEASE.annolist`` with the
persons of each picture in ``annorect`` and, of each, the labelled joints with their
number in ``annopoints.point``. Both count pixels from 1, at their centre.

https://human-pose.mpi-inf.mpg.de
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from input_pipeline.formats.annotations import Labels, Person, Source
from input_pipeline.formats.json_file import read_json
from input_pipeline.formats.mat_file import as_list, field, number, read_mat, text
from input_pipeline.skeleton import MPII_16

MATLAB_CENTRE_PX = 1.0  # of the first pixel
SCALE_PX = 200.0
JOINTS = MPII_16.num_joints


def read(source: Source) -> Labels | None:
    """The persons of a JSON or ``.mat`` file, numbered in its order."""
    if source.path.suffix.lower() == ".mat":
        release = read_mat(source, "RELEASE")
        if release is None:
            return None
        labels = Labels(MPII_16, pixel_centre=MATLAB_CENTRE_PX)
        found = tuple(_from_release(source, release, labels.skipped))
        return dataclasses.replace(labels, persons=found)
    record = read_json(source)
    if record is None:
        return None
    if not isinstance(record, list) or not record:
        remedy = "use the list of persons that HRNet and mmpose read"
        source.problem("not an MPII file", "", type(record).__name__, remedy)
        return None
    persons = tuple(_from_json(source, record))
    return Labels(MPII_16, persons, pixel_centre=MATLAB_CENTRE_PX)


def _from_json(source: Source, record: Sequence[Any]) -> Iterator[Person]:
    image_ids: dict[str, int] = {}
    for i, person in enumerate(record):
        at = f"[{i}]"
        entry = person if isinstance(person, dict) else {}
        name = entry.get("image")
        xy = _numbers(entry.get("joints"), (JOINTS, 2))
        vis = _numbers(entry.get("joints_vis"), (JOINTS,))
        if not isinstance(name, str) or not name:
            remedy = "give every person an image"
            source.problem("bad image entry", at, person, remedy)
        elif xy is None or vis is None:
            value = ", ".join(f"{k} {entry.get(k)}" for k in ("joints", "joints_vis"))
            remedy = f"MPII has {JOINTS} joints: x and y, and whether it is labelled"
            source.problem("skeleton mismatch", at, value, remedy)
        else:
            image_id = image_ids.setdefault(name, len(image_ids))
            box = _box(entry.get("center"), entry.get("scale"))
            labelled = np.nan_to_num(vis, nan=1.0) > 0
            yield Person(at, i, image_id, name, xy, labelled, None, box)


def _box(at: Any, size: Any) -> np.ndarray:
    centre, scale = _numbers(at, (2,)), _numbers(size, ())
    if centre is None or scale is None:
        return np.zeros(4)
    side = SCALE_PX * float(scale)
    return np.array([*(centre - side / 2), side, side])


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """A float64 array of this shape; None for anything else, text included."""
    try:
        array = np.asarray(value)
        plain = array.dtype.kind in "iuf" and array.shape == shape
        return array.astype(np.float64) if plain else None
    except (ValueError, TypeError, OverflowError):
        return None


def _from_release(
    source: Source, release: Any, skipped: dict[str, int]
) -> Iterator[Person]:
    """The persons of the training pictures; those of the test set have no joints."""
    count = 0
    for i, picture in enumerate(as_list(field(release, "annolist"))):
        name = text(field(field(picture, "image"), "name"))
        for k, rect in enumerate(as_list(field(picture, "annorect"))):
            at = f"RELEASE.annolist({i + 1}).annorect({k + 1})"
            points = as_list(field(field(rect, "annopoints"), "point"))
            if not points:
                skipped["unlabelled"] += 1
                continue
            landmarks = _points(source, at, points)
            if landmarks is None:
                continue
            if not name:
                remedy = "give the picture an image.name"
                source.problem("bad image entry", at, "no image.name", remedy)
                continue
            position = field(rect, "objpos")
            centre = [number(field(position, axis)) for axis in ("x", "y")]
            box = _box(centre, number(field(rect, "scale")))
            yield Person(at, count, i, name, *landmarks, None, box)
            count += 1


def _points(
    source: Source, at: str, points: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray] | None:
    xy = np.zeros((JOINTS, 2))
    labelled = np.zeros(JOINTS, bool)
    for point in points:
        joint = number(field(point, "id"))
        if joint is None or joint not in range(JOINTS) or labelled[int(joint)]:
            remedy = f"number each joint once, from 0 to {JOINTS - 1}"
            source.problem("skeleton mismatch", at, f"point id {joint}", remedy)
            return None
        values = [number(field(point, axis)) for axis in ("x", "y")]
        xy[int(joint)] = [np.nan if v is None else v for v in values]
        labelled[int(joint)] = True
    return np.where(labelled[:, None], xy, 0.0), labelled
