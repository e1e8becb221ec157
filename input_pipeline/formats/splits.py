"""From ``config.data`` to the labelled persons of either split. No TensorFlow here."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from input_pipeline.checks.plausible import check_plausible
from input_pipeline.checks.problems import Problem, Reporter
from input_pipeline.formats import coco, dlc, h36m, label_studio, lsp, mpii, sleap, yolo
from input_pipeline.formats.annotations import Labels, Source, index_labels
from input_pipeline.formats.recognise import recognise
from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import Skeleton, read_skeleton

HELD_OUT = 0.1  # the largest part of the pictures that validation takes
READ = {
    "coco": coco.read,
    "mpii": mpii.read,
    "h36m": h36m.read,
    "lsp": lsp.read,
    "dlc": dlc.read,
    "sleap": sleap.read,
    "yolo": yolo.read,
    "label_studio": label_studio.read,
}


def read_splits(settings: DataSettings, *, report: Reporter) -> dict[str, Labels]:
    """Reads ``train`` and, where there is one, ``val``.

    Without labels of its own for validation, up to ``num_val`` pictures, at most a
    tenth, are held out, whole pictures with all their persons, chosen by the seed.
    """
    train = read_index(settings, "train", report=report)
    if settings.separate_val:
        val = read_index(settings, "val", report=report)
        if train and val and train.skeleton.joints != val.skeleton.joints:
            where, kind = str(settings.annotation_file("val")[0]), "skeleton mismatch"
            theirs, ours = val.skeleton.joints, train.skeleton.joints
            value = f"joints {theirs} but training has {ours}"
            remedy = "label both with the same joints in the same order"
            report(Problem(kind, where, "categories", value, remedy))
        found = {"train": train, "val": val}
    elif train is None:
        found = {}
    else:
        found = _hold_out(train, settings)
    return {split: index for split, index in found.items() if index is not None}


def _hold_out(index: Labels, settings: DataSettings) -> dict[str, Labels]:
    images = sorted({person.image_id for person in index.persons})
    count = min(settings.num_val, int(len(images) * HELD_OUT))
    if count == 0:
        return {"train": index}
    order = np.random.default_rng(settings.seed).permutation(len(images))
    held = {images[i] for i in order[:count]}
    train = tuple(p for p in index.persons if p.image_id not in held)
    val = tuple(p for p in index.persons if p.image_id in held)
    return {
        "train": dataclasses.replace(index, persons=train),
        "val": dataclasses.replace(index, persons=val),
    }


def _report_with_format(
    name: str, path: Path, report: Reporter, problem: Problem
) -> None:
    """Reports a problem; of a file that is of another format, together with that."""
    if problem.kind.startswith("not ") or (path.is_dir() and not problem.index):
        other = recognise(path)
        if other not in ("", name):
            remedy = f"this looks like another format: set --config.data.name={other}"
            problem = dataclasses.replace(problem, remedy=remedy)
    report(problem)


def read_index(
    settings: DataSettings, split: str, *, report: Reporter
) -> Labels | None:
    """The usable persons of one annotation file, in the joints that are wanted.

    Returns:
        The labels, or None where the file as a whole cannot be used.

    Raises:
        ValueError: a package that the format needs is not installed.
    """
    path, images = settings.annotation_file(split)
    try:
        given = read_skeleton(settings.skeleton) if settings.skeleton else {}
    except ValueError as error:
        remedy = "name a built-in skeleton or correct the file"
        report(Problem("bad skeleton", "config.data.skeleton", "", str(error), remedy))
        return None
    source = Source(
        path=path,
        images=images,
        split=split,
        box=settings.box,
        min_joints=settings.min_joints,
        report=functools.partial(_report_with_format, settings.name, path, report),
        skeleton=given if isinstance(given, Skeleton) else None,
        changes={} if isinstance(given, Skeleton) else given,
        joint_names=dict(settings.joint_names),
        outside=settings.outside,
        pixel_centre=float(settings.pixel_centre) if settings.pixel_centre else None,
        category=settings.category,
        min_score=settings.min_score,
    )
    found = READ[settings.name](source)
    labels = None if found is None else index_labels(source, found)
    good = labels is not None and check_plausible(source, labels.persons)
    return labels if good else None
