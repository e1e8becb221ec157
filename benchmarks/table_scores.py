"""Errors of every sample, ratios and paired differences with their intervals.

The only part of the tables that reads 3D, after all trainings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from input_pipeline.dataset import Dataset
from input_pipeline.landmarks import Landmarks
from losses import metrics
from runtime import teacher_file

METRICS = ("PA-MPJPE", "MPJPE", "depth")


class Split(NamedTuple):
    """What one split is judged by."""

    landmarks: Landmarks
    truth_mm: np.ndarray
    action: np.ndarray


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval (Student's t); NaN for one seed."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        digits = 3 if abs(self.mean) < 2 else 1
        text = f"{self.mean:.{digits}f}"
        if self.n == 1:
            return text
        return f"{text} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def split_of(data: Dataset, name: str) -> Split:
    """Landmarks and 3D truth of a split, in the same order.

    Raises:
        ValueError: the data set has no 3D.
    """
    truth = data.truth(name)
    if truth is None:
        raise ValueError(f"{data.settings.name} has no 3D truth to score against")
    return Split(data.landmarks(name), truth.positions_mm, np.asarray(truth.action))


def errors(pose: np.ndarray, split: Split) -> dict[str, np.ndarray]:
    """Errors (N,) in mm of poses (N, P, 3) in patch units, with both kinds of xy.

    ``MPJPE`` and ``depth`` after scaling by the mean bone length; ``MPJPE`` with the
    roots moved together; ``depth`` the mean |dz| of centred depths; ``PA-MPJPE`` by a
    similarity without reflection. Labelled joints count, as in ``losses.scores``.
    """
    marks, truth = split.landmarks, split.truth_mm
    annotated = pose.copy()
    annotated[..., :2] = np.where(
        marks.labelled[..., None], marks.patch, annotated[..., :2]
    )
    found: dict[str, np.ndarray] = {}
    options: Any = {"labelled": marks.labelled}
    edges, root = marks.skeleton.edges, marks.skeleton.root
    for kind, poses in (("own xy", pose), ("annotated xy", annotated)):
        scaled = metrics.scale_by_bone_length(poses, truth, edges=edges, **options)
        values = {
            "PA-MPJPE": metrics.pa_mpjpe(poses, truth, **options),
            "MPJPE": metrics.mpjpe(scaled, truth, root=root, **options),
            "depth": metrics.depth_error(scaled, truth, **options),
        }
        found |= {f"{kind}: {name}": np.asarray(x) for name, x in values.items()}
    return found


def predicted(folder: Path, name: str) -> np.ndarray:
    """(N, P, 3) poses that a stage left for a split."""
    with np.load(folder / f"predictions_{name}.npz") as file:
        return file["pose"]


def lifted_pose(teacher: Path, name: str, split: Split) -> np.ndarray:
    """Landmarks as given, and the depth that students learn from."""
    depth = teacher_file.read(teacher).labels(name)["depth"]  # at its sign
    return np.concatenate([split.landmarks.patch, depth[..., None]], axis=-1)


def mean_depth(pose: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``pose`` (N, P, 3) with the mean of both depths, each centred.

    Examples:
        >>> a, b = np.zeros((1, 2, 3)), np.ones((1, 2, 3))
        >>> b[0, 0, 2] = 5
        >>> mean_depth(a, b)[0].tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
    """
    depths = [z - z.mean(axis=1, keepdims=True) for z in (pose[..., 2], other[..., 2])]
    return np.concatenate([pose[..., :2], np.mean(depths, axis=0)[..., None]], axis=-1)


def interval(values: Sequence[float]) -> Interval:
    """The mean of one figure for each seed, with its interval.

    Examples:
        >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484, 3]
    """
    v = np.asarray(values, float)
    mean, n = float(v.mean()), len(v)
    if n < 2:
        return Interval(mean, np.nan, np.nan, n)
    half = float(stats.t.ppf(0.975, n - 1) * v.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


Errors = Mapping[int, Mapping[str, np.ndarray]]  # seed -> name -> (N,)


def mean_error(of_seeds: Errors, name: str) -> Interval:
    """Over the samples, then over the seeds."""
    return interval([float(e[name].mean()) for e in of_seeds.values()])


def ratio(of_seeds: Errors, to: Errors, name: str) -> Interval:
    """Of the mean errors, seed by seed; ``to`` may have only one."""
    return interval([a.mean() / b.mean() for a, b in pairs(of_seeds, to, name)])


def difference(of_seeds: Errors, to: Errors, name: str) -> Interval:
    """Mean of the differences of every sample, in mm."""
    return interval([(a - b).mean() for a, b in pairs(of_seeds, to, name)])


def pairs(of_seeds: Errors, to: Errors, name: str) -> Iterator[Any]:
    """Errors, and those of the same seed or of the only one there is."""
    only = next(iter(to.values())) if len(to) == 1 else None
    for seed, errors in of_seeds.items():
        partner = to.get(seed, only)
        if partner:
            yield errors[name], partner[name]


def by_quartile(of_seeds: Errors, name: str, order: np.ndarray) -> list[Interval]:
    """:func:`mean_error` in the four quarters of the samples by ``order``."""
    quarter = np.searchsorted(np.quantile(order, (0.25, 0.5, 0.75)), order)
    return [mean_error(_rows(of_seeds, quarter == q), name) for q in range(4)]


def _rows(of_seeds: Errors, rows: np.ndarray) -> dict[int, dict[str, np.ndarray]]:
    return {s: {n: v[rows] for n, v in e.items()} for s, e in of_seeds.items()}


def by_action(of_seeds: Errors, name: str, action: np.ndarray) -> dict[str, Interval]:
    """:func:`mean_error` of each action, and the plain mean of the actions."""
    names = sorted(set(action.tolist()))
    table = {str(a): mean_error(_rows(of_seeds, action == a), name) for a in names if a}
    means = [
        np.mean([e[name][action == a].mean() for a in names]) for e in of_seeds.values()
    ]
    return table | {"average": interval([float(m) for m in means])}
