"""A survey of a labelled data set: counts, sizes and unusual samples.

Nothing here stops a training; unusual samples are reported as notes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.checks.plausible import BEYOND_BOX, beyond_box
from input_pipeline.checks.problems import Problem, Reporter
from input_pipeline.checks.suspects import Swap, suspected_swaps
from input_pipeline.crops import landmark_boxes
from input_pipeline.formats.annotations import Labels, Person
from input_pipeline.skeleton import Skeleton

SMALL_PX = 16.0  # bodies below show a network next to nothing


class Look(NamedTuple):
    """What decoding a picture told: (width, height) and a digest of the file."""

    size: tuple[int, int]
    digest: str


@dataclasses.dataclass(frozen=True)
class Survey:
    """One split in numbers.

    Args:
        persons: usable samples.
        pictures: they are in.
        joints: joint -> samples in which it is labelled.
        complete: samples with all joints labelled.
        picture_px: least, median and largest longer side of the pictures; empty
            where none was decoded.
        body_px: the same of the tight box around the landmarks.
        swaps: rows with left and right suspected exchanged, most certain first.
    """

    persons: int
    pictures: int
    joints: dict[str, int]
    complete: int
    picture_px: tuple[float, ...]
    body_px: tuple[float, ...]
    swaps: tuple[Swap, ...]


def survey(index: Labels, looks: Mapping[Path, Look]) -> Survey:
    """Counts and sizes of one split, and the suspected exchanges of its labels."""
    keypoints = np.stack([person.keypoints for person in index.persons])
    labelled = np.stack([person.labelled for person in index.persons])
    return Survey(
        picture_px=three([max(look.size) for look in looks.values()]),
        swaps=tuple(suspected_swaps(keypoints, labelled, index.skeleton)),
        pictures=len({person.file for person in index.persons}),
        **counted(keypoints, labelled, index.skeleton),
    )


def counted(
    keypoints: np.ndarray, labelled: np.ndarray, skeleton: Skeleton
) -> dict[str, Any]:
    """What a :class:`Survey` says of (N, P, 2) landmarks alone."""
    boxes = landmark_boxes(keypoints, labelled)
    counts = labelled.sum(axis=0).tolist()
    return {
        "persons": len(keypoints),
        "joints": dict(zip(skeleton.joints, counts, strict=True)),
        "complete": int(labelled.all(axis=1).sum()),
        "body_px": three(boxes[:, 2:].max(axis=1).tolist()),
    }


def three(values: Sequence[float]) -> tuple[float, ...]:
    """The least, the median and the largest; empty where there are none."""
    if not values:
        return ()
    return tuple(float(v) for v in np.quantile(values, (0.0, 0.5, 1.0)))


def note_oddities(
    index: Labels,
    found: Survey,
    looks: Mapping[Path, Look],
    where: str,
    report: Reporter,
) -> None:
    """Notes on exchanged sides, odd boxes, small bodies and repeated samples."""

    def note(kind: str, at: str, value: str, remedy: str) -> None:
        report(Problem(kind, where, at, value, remedy, fatal=False))

    for swap in found.swaps:
        person = index.persons[swap.row]
        joints = index.skeleton.joints
        sides = ", ".join(f"{joints[a]}/{joints[b]}" for a, b in swap.pairs)
        value = f"{sides} in {person.name} (gain {swap.gain:.0f})"
        remedy = "look at it in sheet_suspects.png"
        note("left and right exchanged?", person.at, value, remedy)
    for person in index.persons:
        points = person.keypoints[person.labelled]
        extent = float(np.ptp(points, axis=0).max())
        if extent < SMALL_PX:
            value = f"the landmarks span {extent:.1f} pixels in {person.name}"
            note("small body", person.at, value, "leave it out if it cannot be seen")
        beyond = beyond_box(points, person.box)
        if beyond > BEYOND_BOX:
            value = f"landmarks up to {beyond:.0%} of its side outside the box"
            note("box does not fit", person.at, value, "correct the box or landmarks")
    first: dict[tuple[Any, ...], Person] = {}  # by the picture's bytes and landmarks
    for person in index.persons:
        look = looks.get(person.file)
        picture = look.digest if look else str(person.file)
        key = (picture, person.keypoints.tobytes(), person.labelled.tobytes())
        one = first.setdefault(key, person)
        if one is not person:
            value = f"the same picture and landmarks as {one.at} ({one.name})"
            note("duplicate sample", person.at, value, "remove one of the two")
