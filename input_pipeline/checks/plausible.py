"""Whether landmarks can be pixels, x before y, at all: mistakes of a whole file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from input_pipeline.formats.annotations import Person, Source, joints_outside

TINY_PX = 4.0  # no set of pictures has bodies that small
BEYOND_BOX = 0.1  # of the box's longer side that landmarks may lie beyond it


def check_plausible(source: Source, persons: Sequence[Person]) -> bool:
    """Reports bodies of no size and exchanged axes; True where there is neither."""
    extents = [np.ptp(p.keypoints[p.labelled], axis=0).max() for p in persons]
    median = float(np.median(extents))
    several = sum(person.labelled.sum() > 1 for person in persons)
    if median < TINY_PX and several * 2 > len(persons):
        points = np.concatenate([p.keypoints[p.labelled] for p in persons])
        span = f"{points.min():.3g} to {points.max():.3g}"
        value = f"the median body spans {median:.2g}, the coordinates are {span}"
        remedy = "write pixels: relative places times the picture's width and height"
        source.problem("are these pixels?", "all persons", value, remedy)
        return False
    fits = [_fits(p, p.keypoints) for p in persons]
    turned = [_fits(p, p.keypoints[:, ::-1]) for p in persons]
    better = sum(a is False and b is True for a, b in zip(fits, turned, strict=True))
    if better * 2 > sum(fit is not None for fit in fits):
        value = f"{better} of {len(persons)} bodies fit their box or picture only so"
        remedy = "write x before y"
        source.problem("x and y exchanged?", "all persons", value, remedy)
        return False
    return True


def _fits(person: Person, keypoints: np.ndarray) -> bool | None:
    """Whether landmarks lie in the box, else in the picture; None: neither is known."""
    person = dataclasses.replace(person, keypoints=keypoints, reach=0.0)
    if person.box[2:].min() > 0:
        return beyond_box(keypoints[person.labelled], person.box) <= BEYOND_BOX
    if person.size is None:
        return None
    return not joints_outside(person, person.size).any()


def beyond_box(points: np.ndarray, box: np.ndarray) -> float:
    """How far landmarks lie outside an annotated box, over its longer side."""
    side = float(box[2:].max())
    if not side > 0:
        return 0.0
    outside = np.maximum(box[:2] - points, points - (box[:2] + box[2:]))
    return float(outside.max()) / side
