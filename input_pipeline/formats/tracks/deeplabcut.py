"""DeepLabCut's predictions: ``.h5`` and ``.csv``, of one animal and of several."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from input_pipeline.checks.problems import raise_problem
from input_pipeline.formats import dlc
from input_pipeline.formats.annotations import Source
from input_pipeline.formats.tracks.record import (
    CENTRE_PX,
    Tracks,
    check_room,
    make_tracks,
)
from input_pipeline.skeleton import Skeleton


def read(path: Path) -> Tracks:
    """Every frame and individual of one file; labels of pictures as well.

    Raises:
        ValueError: no such table.
    """
    source = Source(path, path.parent, "train", "landmarks", 1, raise_problem)
    table = dlc.read_table(source)
    assert table is not None  # else a problem was raised
    table = dlc.without_unique(source, table)
    individuals = tuple(dict.fromkeys(column[0] for column in table.columns))
    joints = tuple(dict.fromkeys(column[1] for column in table.columns))
    place = {column: i for i, column in enumerate(table.columns)}
    count, P = len(table.pictures), len(joints)
    check_room(path, len(individuals) * count, P)
    values = np.full((len(individuals), count, P, 3), np.nan, np.float32)
    for i, individual in enumerate(individuals):
        for j, joint in enumerate(joints):
            for k, axis in enumerate(("x", "y", "likelihood")):
                column = place.get((individual, joint, axis))
                if column is not None:
                    values[i, :, j, k] = table.values[:, column]
    frames = all(name.isdecimal() for name in table.pictures)
    number = [int(n) for n in table.pictures] if frames else list(range(count))
    values = values.reshape(-1, P, 3)
    return make_tracks(
        path,
        Skeleton.from_names({"name": "deeplabcut", "joints": joints}),
        values[..., :2] + np.float32(CENTRE_PX),
        values[..., 2],
        np.tile(number, len(individuals)),
        individuals=individuals,
        individual=np.repeat(np.arange(len(individuals)), count),
        pictures=() if frames else list(table.pictures) * len(individuals),
    )
