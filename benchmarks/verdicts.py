"""Does the verdict know? Objects and cameras that nobody tuned to, wrong ones included.

python -m benchmarks.verdicts --seeds=5 --json=verdicts.json

Each set is fitted by the EM with the default settings, and the verdict of the fit is
printed beside the error that the truth shows. ``depth`` is the mean |dz| over that of
z = 0, with the better one sign of all depths; ``flip`` is the share of the samples with
the other sign. Half of z = 0 and a flip below .05 count as right. Two sets are real
photographs (the folder ``real`` of the data), the others are made here; that of
exchanged sides is undetectable in principle (docs/teacher.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.common import DATA, Row, finish, make_parser, mean_row
from input_pipeline.skeleton import H36M_17
from input_pipeline.sources.motion import load_motion
from input_pipeline.synthetic.animal import SKELETON, draw_animal
from nrsfm_jax.em import expected_pose, fit_shapes
from nrsfm_jax.em.coherent import recentred
from nrsfm_jax.em.views import rotation_views, upright_views
from nrsfm_jax.verdict import judge


@dataclasses.dataclass(frozen=True)
class Case:
    """``X`` (N, P, 3) camera frame, z away; the landmarks that are known; bones."""

    X: np.ndarray
    labelled: np.ndarray
    edges: tuple[tuple[int, int], ...] | None = None

    def landmarks(self) -> tuple[np.ndarray, np.ndarray]:
        """W (N, P, 2) in patch units, and half a side of each patch."""
        xy = np.where(self.labelled[..., None], self.X[..., :2], np.nan)
        half = 0.625 * (np.nanmax(xy, 1) - np.nanmin(xy, 1)).max(1)
        return recentred(self.X[..., :2] / half[:, None, None], self.labelled).W, half


def from_views(
    S: np.ndarray, views: np.ndarray, rng: np.random.Generator, **more: object
) -> Case:
    """Body-frame shapes, each from a random one of the views."""
    X = S @ views[rng.integers(len(views), size=len(S))]
    labelled = np.ones(X.shape[:2], bool)
    return Case(**{"X": X - X.mean(1, keepdims=True), "labelled": labelled, **more})


def people(rng: np.random.Generator, count: int, kind: str) -> Case:
    """Motion capture from all around; ``few``, or with its sides exchanged in half."""
    motion = load_motion(str(DATA / "cmu_mocap17.npz"))
    S = motion.positions[rng.permutation(len(motion.positions))[:count]]
    if kind == "exchanged":
        turned = (rng.random(len(S)) < 0.5)[:, None, None]
        S = np.where(turned, S[:, H36M_17.flip_permutation], S)
    views = upright_views(np.arange(-10.0, 31, 5).tolist(), 72)
    return from_views(S, views, rng, edges=H36M_17.edges)


def animals(rng: np.random.Generator, count: int, kind: str) -> Case:
    """Four-legged animals of 23 joints: 30 % hidden, or all seen from above."""
    elevation = (60.0, 90.0) if kind == "above" else (-10.0, 30.0)
    draw = functools.partial(
        draw_animal, split="train", size=16, elevation_deg=elevation
    )
    first = int(rng.integers(100_000))
    drawn = [draw(first + i) for i in range(count)]
    X = np.stack([each.positions_mm for each in drawn]).astype(np.float64)
    labelled = np.ones(X.shape[:2], bool)
    if kind == "hidden":
        labelled = ~np.stack([each.hidden for each in drawn])
        labelled &= rng.random(labelled.shape) < 0.7 / labelled.mean()
    rows = labelled.sum(1) >= 3
    return Case(X[rows], labelled[rows], SKELETON.edges)


def box(rng: np.random.Generator, count: int) -> Case:
    """A rigid box of eight named corners in any rotation."""
    corners = np.stack(np.meshgrid([-1, 1], [-0.6, 0.6], [-0.4, 0.4]), -1).reshape(8, 3)
    return from_views(np.tile(corners, (count, 1, 1)), rotation_views(5000), rng)


def worm(rng: np.random.Generator, count: int) -> Case:
    """A chain of twelve points that bends any way: its own mirror image."""
    turns = np.cumsum(0.35 * rng.normal(size=(count, 12, 2)), axis=1)
    step = np.stack(
        [
            np.cos(turns[..., 0]) * np.cos(turns[..., 1]),
            np.sin(turns[..., 1]),
            np.sin(turns[..., 0]) * np.cos(turns[..., 1]),
        ],
        axis=-1,
    )
    return from_views(np.cumsum(step, axis=1), rotation_views(5000), rng)


def mask(rng: np.random.Generator, count: int) -> Case:
    """A face-like mask of 40 points that deforms and turns by 20 degrees."""
    S = rng.normal(size=(40, 3)) * (1, 1.3, 0.1)
    S[:, 2] += 1 - 0.25 * S[:, 0] ** 2 - 0.15 * S[:, 1] ** 2
    ways = 0.12 * rng.normal(size=(3, 40, 3))
    S = S + np.einsum("nk,kpa->npa", rng.normal(size=(count, 3)), ways)
    yaws = upright_views((0.0,), 360)
    return from_views(S, yaws[np.arange(-10, 11)], rng)


def mouse(rng: np.random.Generator, count: int, view: str) -> Case:
    """Photographs of a mouse from one side that never changes."""
    file = np.load(DATA / "real" / "mirror_mouse" / "truth.npz")
    X = file[f"positions_{view}_px"].astype(np.float64)
    X[..., :2] = file[f"keypoints_{view}_px"]
    labelled = np.isfinite(X).all(-1)
    rows = labelled.all(1)
    return Case(X[rows], labelled[rows], tuple(map(tuple, file["edges"].tolist())))


def fly(rng: np.random.Generator, count: int, side: str) -> Case:
    """Photographs of a fly by three cameras on one side."""
    file = np.load(DATA / "real" / "fly" / "truth.npz")
    joints = np.arange(19) + (0 if side == "right" else 19)
    scale = file["scale_px_per_mm"][:, None, None]
    X = file["positions_mm"][:, joints] * scale
    X[..., :2] = file["keypoints_px"][:, joints]
    labelled = file["trusted"][:, joints] & np.isfinite(X).all(-1)
    rows = labelled.sum(1) >= 10
    return Case(np.where(np.isfinite(X), X, 0)[rows], labelled[rows])


SETS: dict[str, tuple[Callable[..., Case], int]] = {
    "people": (functools.partial(people, kind=""), 4000),
    "people, 50 samples": (functools.partial(people, kind=""), 50),
    "people, sides exchanged": (functools.partial(people, kind="exchanged"), 4000),
    "animal, 30 % hidden": (functools.partial(animals, kind="hidden"), 2000),
    "animal from above": (functools.partial(animals, kind="above"), 2000),
    "box": (box, 2000),
    "worm": (worm, 2000),
    "mask": (mask, 2000),
    "mouse, side": (functools.partial(mouse, view="side"), 90),
    "mouse, below": (functools.partial(mouse, view="below"), 90),
    "fly, right": (functools.partial(fly, side="right"), 45),
    "fly, left": (functools.partial(fly, side="left"), 45),
}


def measure(case: Case, seed: int) -> tuple[dict[str, float], str]:
    """The figures of one fit, and the text of its verdict."""
    W, half = case.landmarks()
    key = jax.random.split(jax.random.key(seed))[0]
    shapes, report = fit_shapes(W, case.labelled, key=key, edges=case.edges)
    pose = expected_pose(shapes, W, case.labelled)[0]
    nats = float(shapes.log_likelihood)
    verdict = judge(report, report.after, training_nats=nats, held_out_nats=None)
    z = np.where(case.labelled, pose[..., 2] * half[:, None], np.nan)
    true = np.where(case.labelled, case.X[..., 2], np.nan)
    z, true = (x - np.nanmean(x, 1, keepdims=True) for x in (z, true))
    flipped = np.nansum(z * true, axis=1) < 0
    flip = float(min(flipped.mean(), 1 - flipped.mean()))
    sign = 1 if flipped.mean() <= 0.5 else -1
    depth = float(np.nanmean(np.abs(sign * z - true)) / np.nanmean(np.abs(true)))
    return {
        "depth": depth,
        "flip": flip,
        "right": float(depth <= 0.5 and flip < 0.05),
        "trusted": {True: 1.0, None: 0.5, False: 0.0}[verdict.trusted],
        "turning": report.turning_nats,
        "changed": report.before.changed,
        "bimodality": report.after.bimodality,
        "split": report.after.split,
    }, verdict.text


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument("--set", action="append", choices=SETS, help="only these")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)


def main() -> None:
    """Fits every set with every seed and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    add_flags(parser)
    args = parser.parse_args()
    rows: list[Row] = []
    for name in args.set or SETS:
        make, count = SETS[name]
        found = []
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            figures, text = measure(make(np.random.default_rng(seed), count), seed)
            print(f"{name}, seed {seed}: depth {figures['depth']:.2f}. {text}\n")
            found.append(figures)
        for metric in found[0]:
            values = [figures[metric] for figures in found]
            rows.append(mean_row("verdicts", name, "EM", metric, "", values))
    finish(rows, args.json, spread="mean [lowest, highest]")


if __name__ == "__main__":
    main()
