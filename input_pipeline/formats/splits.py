"""The training and validation persons of a labelled data set. No TensorFlow here."""

from __future__ import annotations

import dataclasses

import numpy as np

from input_pipeline.checks.problems import Problem, Reporter
from input_pipeline.formats.annotations import Index
from input_pipeline.formats.readers import read_index
from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import Skeleton

HELD_OUT = 0.1  # the largest part of the pictures that validation takes


def read_splits(settings: DataSettings, *, report: Reporter) -> dict[str, Index]:
    """Reads ``train`` and, where there is one, ``val``.

    Without labels of its own for validation, up to ``num_val`` pictures, at most a
    tenth, are held out, whole pictures with all their persons, chosen by the seed.
    """
    train = read_index(settings, "train", report=report)
    if settings.separate_val:
        val = read_index(settings, "val", report=report)
        if train and val:
            _check_same_skeleton(settings, train.skeleton, val.skeleton, report)
        found = {"train": train, "val": val}
    elif train is None:
        found = {}
    else:
        found = _hold_out(train, settings)
    return {split: index for split, index in found.items() if index is not None}


def _check_same_skeleton(
    settings: DataSettings, train: Skeleton, val: Skeleton, report: Reporter
) -> None:
    if train.joints != val.joints:
        report(
            Problem(
                "skeleton mismatch",
                str(settings.annotation_file("val")[0]),
                "categories",
                f"joints {val.joints} but training has {train.joints}",
                "label both with the same joints in the same order",
            )
        )


def _hold_out(index: Index, settings: DataSettings) -> dict[str, Index]:
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
