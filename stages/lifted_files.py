"""Lifted tracks as a tracker would write them: DeepLabCut's 3D tables, and ``.npz``."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from input_pipeline.formats.hdf5 import write_frame
from input_pipeline.formats.tracks.record import CENTRE_PX, Tracks
from input_pipeline.skeleton import Skeleton
from nrsfm_jax import Lifted
from runtime.files import write_npz
from stages.metric import metric_scale

# Of what this module writes, for :func:`runtime.files.own_outputs`.
NAMES = ("lifted.npz", "*_3D.csv", "*_3D.h5")
SCORER = "nrsfm_distill"


def write_lifted(
    folder: Path,
    tracks: Tracks,
    pieces: np.ndarray,
    lifted: Lifted,
    skeleton: Skeleton,
    length: tuple[tuple[int, int], float] | None,
) -> None:
    """Writes ``lifted.npz``, and ``<name>_3D.csv`` and ``.h5`` of each file.

    The tables have one row a frame from 0 on and columns x, y, z of every individual
    and joint: x and y in pixels of the picture with the centre of the first one at 0,
    as DeepLabCut has it, z relative to the root joint; with a known length all three
    relative to the root in millimetres. Frames that were not lifted are empty.
    """
    scale, arrays = None, {}
    points = lifted.keypoints_3d
    if length is not None:
        scale = metric_scale(points, skeleton.edges, *length)
        arrays["keypoints_3d_mm"] = points * scale[:, None, None]
    for name in ("keypoints_3d", "keypoints_3d_std", "keypoints", "outlier"):
        arrays[name] = getattr(lifted, name)
    for name in ("depth_flip_probability", "log_evidence", "evidence_quantile"):
        arrays[name] = getattr(lifted, name)
    write_npz(
        folder / "lifted.npz",
        **arrays,
        score=tracks.score,
        frame=tracks.frame,
        individual=np.array(tracks.individuals)[tracks.individual],
        video=np.array(tracks.files)[tracks.file],
        picture=np.array(tracks.pictures),
        track=pieces,
        joints=np.array(skeleton.joints),
        edges=np.array(skeleton.edges).reshape(-1, 2),
    )
    if "keypoints_3d_mm" in arrays:
        xyz = arrays["keypoints_3d_mm"]
    else:
        xyz = np.concatenate([lifted.keypoints - CENTRE_PX, points[..., 2:]], -1)
    names = _names(tracks.files)
    for file, name in enumerate(names):
        rows = np.flatnonzero(tracks.file == file)
        levels, columns, values = _table(tracks, rows, xyz[rows], skeleton)
        write_frame(folder / f"{name}_3D.h5", levels, columns, values)
        _write_csv(folder / f"{name}_3D.csv", levels, columns, values)


def _names(files: Sequence[str]) -> list[str]:
    """A name for each, without its folder and suffix, numbered where two share one."""
    found: list[str] = []
    for file in files:
        stem, count = Path(file).stem[:100], 1
        name = stem
        while name in found:
            count += 1
            name = f"{stem}_{count}"
        found.append(name)
    return found


def _table(
    tracks: Tracks, rows: np.ndarray, xyz: np.ndarray, skeleton: Skeleton
) -> tuple[list[str], list[tuple[str, ...]], np.ndarray]:
    """Header levels, columns, and values (frames, columns), NaN where empty."""
    named: list[int] = np.unique(tracks.individual[rows]).tolist()
    several = len(named) > 1
    levels = ["scorer", *(["individuals"] if several else []), "bodyparts", "coords"]
    columns = [
        (SCORER, *([tracks.individuals[i]] if several else []), joint, axis)
        for i in named
        for joint in skeleton.joints
        for axis in "xyz"
    ]
    frame = tracks.frame[rows]
    width = 3 * skeleton.num_joints
    values = np.full((int(frame.max()) + 1, len(columns)), np.nan)
    for k, i in enumerate(named):
        own = tracks.individual[rows] == i
        values[frame[own], k * width : (k + 1) * width] = xyz[own].reshape(-1, width)
    return levels, columns, values


def _write_csv(
    path: Path,
    levels: Sequence[str],
    columns: Sequence[tuple[str, ...]],
    values: np.ndarray,
) -> None:
    def rows() -> Iterator[list[str]]:
        for level, names in zip(levels, zip(*columns, strict=True), strict=True):
            yield [level, *names]
        for i, row in enumerate(values):
            yield [str(i), *("" if np.isnan(v) else f"{v:.3f}" for v in row)]

    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows())
