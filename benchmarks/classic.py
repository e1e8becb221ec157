"""The four classic NRSfM sequences, in the metric of Dai et al. (IJCV 2014).

Called by ``benchmarks/nrsfm.py --dataset=classic``. The camera of these sequences
turns about the vertical, five degrees a frame: the views' prior says "level, any yaw"
(72 even ones), and the order of the frames is not used. The published methods assume
no such axis; the row with a free rotation grid assumes none either.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.common import DATA, Row, summarise
from nrsfm_jax import teacher, train
from nrsfm_jax.gaussian_mixture import as_mixture, expected_depth
from nrsfm_jax.gaussian_shape import fit_gaussian_shape
from nrsfm_jax.objective import Objective
from nrsfm_jax.views import rotation_views

# Published by Dai et al., for the block matrix method.
PUBLISHED = {"drink": 0.0266, "pickup": 0.1731, "yoga": 0.1150, "stretch": 0.1034}
# Exact landmarks: the noise falls to a thousandth of the picture.
LAST_SIGMA = 0.002
NUM_YAWS = 72
NUM_ROTATIONS = 500

Method = Callable[[np.ndarray, int], np.ndarray]


def classic_rows(args: argparse.Namespace) -> list[Row]:
    """Every method on every sequence, the error of each seed."""
    methods: dict[str, Method] = {
        "z = 0": lambda W, seed: with_depth(W, np.zeros(W.shape[:2])),
        "EM, free rotation": functools.partial(em, free=True),
        "EM": em,
        "teacher": functools.partial(teacher_pose, steps=args.steps),
    }
    rows: list[Row] = []
    for name, published in PUBLISHED.items():
        truth = read_sequence(args.data or DATA / "nrsfm_classic.npz", name)
        rows.append(_row(name, "Dai et al., published", "error", "", [published]))
        for method in args.method or methods:
            repeats = 1 if method == "z = 0" else args.seeds
            errors, seconds = [], []
            for seed in range(args.first_seed, args.first_seed + repeats):
                began = time.monotonic()
                pose = methods[method](truth[..., :2].copy(), seed)
                seconds.append(time.monotonic() - began)
                errors.append(dai_error(pose, truth))
            rows.append(_row(name, method, "error", "", errors))
            rows.append(_row(name, method, "seconds", "s", seconds))
            print(name, method, *(f"{e:.4f}" for e in errors), flush=True)
    return rows


def _row(case: str, method: str, metric: str, unit: str, values: list[float]) -> Row:
    return summarise("nrsfm", case, method, metric, unit, values)


def read_sequence(path: Path, name: str) -> np.ndarray:
    """(F, P, 3) in the camera frame, centred, the largest image coordinate 1."""
    with np.load(path) as arrays:
        if f"{name}_X" not in arrays:
            raise ValueError(f"{path} has no '{name}_X'; it holds {arrays.files}")
        X = arrays[f"{name}_X"].transpose(0, 2, 1).astype(np.float64)
    X = X - X.mean(axis=1, keepdims=True)
    return (X / np.abs(X[..., :2]).max()).astype(np.float32)


def dai_error(pose: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of the points over sigma, after one rotation or reflection of all.

    sigma is the standard deviation of a frame's points along an axis, averaged over
    axes and frames: ``sum_fp e_fp / (sigma F P)``.

    >>> truth = np.random.default_rng(0).normal(size=(5, 7, 3))
    >>> bool(dai_error(truth * [1, 1, -1], truth) < 1e-6)
    True
    """
    pose = np.float64(pose) - pose.mean(axis=1, keepdims=True)
    truth = np.float64(truth) - truth.mean(axis=1, keepdims=True)
    U, _, Vt = np.linalg.svd(pose.reshape(-1, 3).T @ truth.reshape(-1, 3))
    distance = np.linalg.norm(pose @ (U @ Vt) - truth, axis=-1)
    return float(distance.mean() / truth.std(axis=1).mean())


def with_depth(W: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The given landmarks with a depth."""
    return np.concatenate([W, z[..., None]], axis=-1, dtype=np.float32)


def em(W: np.ndarray, seed: int, *, free: bool = False) -> np.ndarray:
    """The landmarks with the depth of one Gaussian; a few hundred frames allow no
    more."""
    return with_depth(W, _em_depth(W, seed, free))


def _em_depth(W: np.ndarray, seed: int, free: bool) -> np.ndarray:
    shape = fit_gaussian_shape(
        W,
        key=jax.random.key(seed),
        elevations_deg=(0.0,),
        num_yaws=NUM_YAWS,
        level_iterations=100,
        last_sigma=LAST_SIGMA,
        views=rotation_views(NUM_ROTATIONS) if free else None,
    )
    return expected_depth(as_mixture(shape), W, chunk=256)[0]


def teacher_pose(W: np.ndarray, seed: int, *, steps: int) -> np.ndarray:
    """The teacher's own reconstruction, guided by the EM."""
    visible = np.ones(W.shape[:2], bool)
    fitted = train.fit(
        W,
        visible,
        key=jax.random.key(seed),
        em_depth=_em_depth(W, seed, free=False),
        objective=Objective(steps=steps),
    )
    record = teacher.from_params(fitted.params, skeleton={}, config={})
    split = record.reconstruct(W, visible, np.arange(len(W)))
    return split.poses(record.dictionary)
