"""Labelled persons, whatever format they come from. No TensorFlow here.

A reader (``coco``, ``mpii``, ``h36m``, ``lsp``, ``dlc``, ``sleap`` ...) turns one file
into :class:`Labels`, in the joints and pixels of the file. :func:`index_labels` brings
them to the wanted joints by name, checks every person and says what is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.checks.problems import Problem, Reporter
from input_pipeline.frames import is_there, picture_size
from input_pipeline.skeleton import Skeleton, match_joints, well_known

# Annotation tools round to whole pixels, so a landmark may lie just outside.
BORDER_PX = 2.0
CENTRE_PX = 0.5  # of the first pixel, in the convention of ``input_pipeline.crops``
# No picture is that large; beyond it float32 could not tell one pixel from the next.
FAR_PX = 1e6
OUTSIDE_REMEDY = (
    "correct it, or set --config.data.outside=drop (such landmarks are unlabelled) or "
    "=keep (they are taken as they are)"
)
JOINT_NAMES = """--config.data.joint_names='{"in the file": "in the skeleton"}'"""
DROPPED = "landmarks outside the picture"
OTHER_CATEGORY = "other category"
LABELLED = 1e-9  # the least third number of a labelled joint
SKIPPED = ("crowd", "unlabelled", "too few joints")


@dataclasses.dataclass(frozen=True)
class Person:
    """One labelled person, in the joints of the file and then in those wanted.

    Args:
        at: where in the file, e.g. ``"annotations[12] (id 40)"``.
        sample_id: unique in the file.
        image_id: of the picture, shared by the persons in it.
        name: of the picture, relative to the folder of the pictures.
        keypoints: (J, 2) pixels, in the convention of the file and then in that of
            ``input_pipeline.crops``; and so is ``box``.
        labelled: (J,) bool.
        size: (width, height) of the picture, where the file tells it.
        box: (4,) x, y, width, height; zeros where the file has none.
        file: of the picture; what it can be: ``input_pipeline.frames``.
        reach: how far outside landmarks may lie, in sizes of the picture.
    """

    at: str
    sample_id: int
    image_id: int
    name: str
    keypoints: np.ndarray
    labelled: np.ndarray
    size: tuple[int, int] | None = None
    box: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(4))
    file: Path = Path()
    reach: float = 0.0


@dataclasses.dataclass(frozen=True)
class Labels:
    """One file: its joints and bones, its persons, and what was left out.

    ``pixel_centre`` is where the file has, or is said to have, the centre of the first
    pixel.
    """

    skeleton: Skeleton
    persons: Sequence[Person] = ()
    skipped: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(SKIPPED, 0)
    )
    pixel_centre: float = CENTRE_PX


@dataclasses.dataclass(frozen=True)
class Source:
    """One file to read, and how.

    Args:
        path: the annotation file (or folder).
        images: the folder that the names of pictures are relative to.
        split: ``"train"`` or ``"val"``, for formats that hold both.
        box: ``"landmarks"`` or ``"annotation"``: whose area must not be zero.
        min_joints: the fewest labelled joints of a person.
        report: receives every :class:`Problem`.
        skeleton: the joints to bring the labels to; None: those of the file.
        changes: to the skeleton of the file, see ``Skeleton.changed``.
        joint_names: joint of the file -> joint of ``skeleton``, where names differ.
        outside: what is done with landmarks outside of the picture: ``"error"``,
            ``"drop"`` or ``"keep"``, up to one size of the picture.
        pixel_centre: where the centre of the first pixel is; None: as the format says.
        category: name or id of the only category to read; empty: any.
        min_score: landmarks with a lower score count as unlabelled.
    """

    path: Path
    images: Path
    split: str
    box: str
    min_joints: int
    report: Reporter
    skeleton: Skeleton | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    joint_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    outside: str = "error"
    pixel_centre: float | None = None
    category: str = ""
    min_score: float = 0.6

    def problem(
        self, kind: str, index: str, value: Any, remedy: str, fatal: bool = True
    ) -> None:
        """Reports a problem of this file; the value is cut to a readable length."""
        text = str(value)
        text = text if len(text) <= 300 else f"{text[:300]}..."
        text = text.encode("utf-8", "backslashreplace").decode()
        text = " ".join(text.split())
        self.report(Problem(kind, str(self.path), index, text, remedy, fatal))


def least_labelled(source: Source, thirds: np.ndarray) -> float:
    """The least third number of a labelled joint; says so where they are scores.

    Args:
        source: of the file.
        thirds: (n,) what the file has for all joints beside x and y.
    """
    positive = thirds[thirds > 0]
    if not (positive % 1).any():
        return LABELLED
    few = int((positive < source.min_score).sum())
    value = (
        f"the third numbers are scores: {few} of {len(positive)} landmarks are below "
        f"{source.min_score:g} and count as unlabelled"
    )
    remedy = "set --config.data.min_score if that is not wanted"
    source.problem("scores", "keypoints", value, remedy, fatal=False)
    return source.min_score


def index_labels(source: Source, labels: Labels) -> Labels | None:
    """The usable persons of a file, with the joints that are wanted.

    Persons without a labelled joint of the skeleton or with fewer than
    ``min_joints`` are left out and counted.

    Returns:
        The labels, or None where nobody can be used.
    """
    try:
        own = well_known(labels.skeleton).changed(source.changes)
        skeleton = source.skeleton or own
        places = match_joints(labels.skeleton.joints, skeleton, source.joint_names)
    except ValueError as error:
        remedy = f"name the pairs by {JOINT_NAMES}, or change the skeleton"
        source.problem("skeleton mismatch", "joints", error, remedy)
        return None
    _note_joints(source, labels.skeleton.joints, skeleton.joints, places)
    first = next(iter(labels.persons), None)
    if (
        first
        and not source.images.is_dir()
        and not is_there(source.images / first.name)
    ):
        remedy = "set --config.data.images to the folder of the pictures"
        source.problem("missing folder", str(source.images), "no such folder", remedy)
        return None
    skipped = dict(labels.skipped)
    persons: dict[int, Person] = {}
    for found in labels.persons:
        person = _usable(source, found, labels, places, skipped)
        if person is None or not _check_person(source, person, skeleton):
            continue
        if person.sample_id in persons:
            remedy = "give every annotation an id of its own"
            source.problem("duplicate id", person.at, person.sample_id, remedy)
            continue
        persons[person.sample_id] = person
    if not persons:
        remedy = "label the landmarks of at least one person"
        value = ", ".join(f"{n} {why}" for why, n in skipped.items()) or "0 persons"
        source.problem("no labelled person", "annotations", value, remedy)
        return None
    centre = labels.pixel_centre if source.pixel_centre is None else source.pixel_centre
    return Labels(skeleton, tuple(persons.values()), skipped, centre)


def _note_joints(
    source: Source, found: Sequence[str], wanted: Sequence[str], places: np.ndarray
) -> None:
    """Joints that only the file or only the skeleton has."""
    absent = [joint for joint, p in zip(wanted, places, strict=True) if p < 0]
    unused = [joint for i, joint in enumerate(found) if i not in {*places}]
    for kind, names in (("joints not in file", absent), ("joints not used", unused)):
        if names:
            remedy = f"name pairs by {JOINT_NAMES} if that is not wanted"
            source.problem(kind, "joints", ", ".join(names), remedy, fatal=False)


def _usable(
    source: Source,
    found: Person,
    labels: Labels,
    places: np.ndarray,
    skipped: dict[str, int],
) -> Person | None:
    """One person in the wanted joints and pixels; None where it cannot be used."""
    if not found.labelled.any():
        remedy = "label a joint, or set num_keypoints to 0 to leave the person out"
        source.problem("no labelled joint", found.at, "none is labelled", remedy)
        return None
    near = np.abs(np.nan_to_num(found.keypoints, nan=np.inf)) < FAR_PX
    bad = np.flatnonzero(found.labelled & ~near.all(axis=1))
    if bad.size:
        j = int(bad[0])
        remedy = "write finite pixels, or mark the joint as unlabelled"
        joint = labels.skeleton.joints[j]
        value = f"{joint} is at {found.keypoints[j].tolist()}"
        source.problem("impossible coordinate", found.at, value, remedy)
        return None
    labelled = (places >= 0) & found.labelled[places]
    centre = source.pixel_centre
    shift = CENTRE_PX - (labels.pixel_centre if centre is None else centre)
    keypoints = np.where(labelled[:, None], found.keypoints[places] + shift, 0.0)
    box = np.where(np.abs(found.box) < FAR_PX, found.box, np.nan)
    box[:2] += shift
    person = dataclasses.replace(
        found,
        keypoints=keypoints.astype(np.float32),
        labelled=labelled,
        box=box.astype(np.float32),
        file=source.images / found.name,
        reach=float(source.outside == "keep"),
    )
    if source.outside == "drop":
        person = _without_outside(person, skipped)
    if person.labelled.sum() < source.min_joints:
        skipped["too few joints" if person.labelled.any() else "unlabelled"] += 1
        return None
    return person


def _without_outside(person: Person, skipped: dict[str, int]) -> Person:
    """The person without its landmarks outside of the picture, which are counted."""
    outside = joints_outside(person, person.size or picture_size(person.file))
    if not outside.any():
        return person
    skipped[DROPPED] = skipped.get(DROPPED, 0) + int(outside.sum())
    keypoints = np.where(outside[:, None], np.float32(0), person.keypoints)
    labelled = person.labelled & ~outside
    return dataclasses.replace(person, keypoints=keypoints, labelled=labelled)


def _check_person(source: Source, person: Person, skeleton: Skeleton) -> bool:
    """Reports what is wrong with one person; True where it can be used."""
    outside = text_outside(person, person.size, skeleton)
    if outside:
        source.problem(
            "landmark outside the picture", person.at, outside, OUTSIDE_REMEDY
        )
        return False
    landmarks = source.box == "landmarks"
    points = person.keypoints[person.labelled]
    extent = np.ptp(points, axis=0) if landmarks else person.box[2:]
    # Landmarks may lie on a line; a box has two sides.
    side = extent.max() if landmarks else extent.min()
    if not np.isfinite(person.box).all() or side <= 0:
        remedy = (
            "label a second joint elsewhere, or set --config.data.min_joints=2"
            if landmarks
            else "give the person a bbox, or set --config.data.box=landmarks"
        )
        value = f"{source.box} box {extent.tolist()}, annotated {person.box.tolist()}"
        source.problem("zero-area box", person.at, value, remedy)
        return False
    if not is_there(person.file):
        remedy = "set --config.data.images to the folder of the pictures, or add it"
        source.problem("missing file", person.at, person.file, remedy)
        return False
    return True


def joints_outside(person: Person, size: tuple[int, int] | None) -> np.ndarray:
    """(P,) bool: labelled landmarks outside a (width, height) picture."""
    if size is None:
        return np.zeros_like(person.labelled)
    beyond = BORDER_PX + person.reach * np.asarray(size, np.float64)
    low, high = -beyond, np.asarray(size, np.float64) + beyond
    outside = ((person.keypoints < low) | (person.keypoints > high)).any(axis=1)
    return person.labelled & outside


def text_outside(
    person: Person, size: tuple[int, int] | None, skeleton: Skeleton
) -> str:
    """The first labelled landmark outside of a picture, in words; empty for none."""
    bad = np.flatnonzero(joints_outside(person, size))
    if not bad.size:
        return ""
    j = int(bad[0])
    x, y = person.keypoints[j]
    where = f"{skeleton.joints[j]} at ({x:g}, {y:g})"
    exchanged = dataclasses.replace(person, keypoints=person.keypoints[:, ::-1])
    fits = not joints_outside(exchanged, size).any()
    hint = "; with x and y exchanged all would be inside" if fits else ""
    return f"{where}, {person.name} is {size}{hint}"
