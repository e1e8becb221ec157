"""New landmarks to 3D: how good the poses are, and how true their error bars.

python benchmarks/lift.py --train=FILE --test=FILE --noise=.02 --tracks

A teacher is trained on the landmarks of the training subjects of one file of motion
(``nrsfm_jax.train``, kept in ``--fits``) and lifts those of another: all its frames, or
of the same file its validation subjects. Seen by cameras around an upright body, as in
training. A text below the table explains the columns.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr

from benchmarks.common import DATA, finish, mean_row, parse_args
from configs import default
from input_pipeline.dataset import open_dataset
from input_pipeline.skeleton import H36M_17
from input_pipeline.sources.motion import frame_order, read_motion
from input_pipeline.synthetic.camera import view_rotation
from losses import metrics
from nrsfm_jax import PoseLifter
from nrsfm_jax.lifting import Lifted
from nrsfm_jax.lifting.batches import TOGETHER
from nrsfm_jax.train import train_and_evaluate

UNITS = {"depth": "mm", "PA": "mm", "MPJPE": "mm", "cost": "ms", "memory": "MB"}
COLUMNS = """\
depth: mean |dz|, scaled by the mean bone length, mean depths aligned
PA: distance of the joints after the best similarity; MPJPE: roots aligned
flip: share of the poses whose depth is mirrored (the sign is the run's own)
covered: share of the joints whose depth lies in the 95 % interval; then by the share of
  the training samples that are less likely: below 2 %, to 20 %, to 50 %, above
rank: Spearman correlation of standard deviation and error, of joints and of poses
found, false: share of the outliers that are hidden, and of the other landmarks
ratio: of the depth error, to that of the landmarks as they are
cost: processor time of a pose more, once all is compiled (with --frames: of all)
memory: the most that the process had"""
# The rows of --table: of the file that was trained on, and of the hard one beside it.
TABLE = (
    (
        "",
        "--noise=.02",
        "--outliers=.05",
        "--perspective=2",
        "--any-rotation",
        "--tracks --samples=1920",
        "--tracks --samples=1920 --noise=.02",
    ),
    ("", "--adapt", "--tracks --samples=1920"),
)
BINS = (0.02, 0.2, 0.5)
SCALE, MIDDLE = 0.4, 500.0  # pixels a mm; where the body is in the picture
HEIGHT_MM, RATE, SECONDS = 1700.0, 30, 2.0
ROLL_DEG, ELEVATIONS_DEG = 5.0, (-10.0, 30.0)


@dataclasses.dataclass(frozen=True)
class Poses:
    """N true poses in the camera frame, mm from the root, and their tracks."""

    truth: np.ndarray  # (N, P, 3)
    track: np.ndarray | None  # (N,)


def main() -> None:
    """Prints a row for the landmarks as they are, and one for what the flags add."""
    args = parse_args(__doc__, add_flags)
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        lifter, depth = trained(args, seed), {}
        for case, plain in cases(args):
            name = case.test.stem + ", any rotation" * case.any_rotation, name_of(case)
            if plain:
                name = name[0], "as they are"
            row = measured(lifter, case, plain=plain, cost=not found)
            if plain:
                depth[name[0]] = row["depth"]
            elif name[0] in depth and "depth" in row:
                row["ratio"] = row["depth"] / depth[name[0]]
            print(f"seed {seed} {name}: {row}", file=sys.stderr, flush=True)
            for metric, value in row.items():
                found.setdefault(name, {}).setdefault(metric, []).append(value)
    rows = [
        mean_row("lift", *name, metric, UNITS.get(metric, ""), values)
        for name, columns in found.items()
        for metric, values in columns.items()
    ]
    finish(rows, args.json, spread="mean [lowest, highest]", footer=COLUMNS)


def cases(args: argparse.Namespace) -> Iterator[tuple[argparse.Namespace, bool]]:
    """Flags, and whether the landmarks are to be as they are."""
    if not args.table:
        yield args, True
        if name_of(args):
            yield args, False
        return
    hard = args.train.with_name(f"{args.train.stem}_hard.npz")
    parser = argparse.ArgumentParser()
    add_flags(parser)
    for file, rows in zip((args.train, hard), TABLE, strict=True):
        for flags in rows:
            given = (
                f"--train={args.train}",
                f"--test={file}",
                f"--samples={args.samples}",
            )
            case = parser.parse_args([*given, *flags.split()])
            yield case, not name_of(case)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    file = DATA / "cmu_mocap17.npz"
    parser.add_argument("--train", type=Path, default=file, help="motion to train on")
    parser.add_argument("--test", type=Path, default=file, help="motion to be lifted")
    parser.add_argument("--noise", type=float, default=0.0, help="share of the box")
    parser.add_argument("--outliers", type=float, default=0.0, help="share of joints")
    parser.add_argument("--tracks", action="store_true", help="of 2 s, 30 a second")
    parser.add_argument(
        "--perspective", type=float, default=0.0, help="distance in body heights"
    )
    parser.add_argument("--adapt", action="store_true", help="to all test landmarks")
    parser.add_argument("--any-rotation", action="store_true", help="of the bodies")
    parser.add_argument("--samples", type=int, default=800, help="poses; 0: all")
    parser.add_argument(
        "--frames", type=int, default=0, help="of one track, for cost and memory alone"
    )
    parser.add_argument("--table", action="store_true", help="all rows of docs/lift.md")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--fits", type=Path, default=Path("runs/benchmarks/lift"), help="kept teachers"
    )


def name_of(args: argparse.Namespace) -> str:
    """What the flags add to the landmarks."""
    parts = {
        f"noise {args.noise:.0%}": args.noise,
        f"outliers {args.outliers:.0%}": args.outliers,
        f"at {args.perspective:g} heights": args.perspective,
        "tracks": args.tracks,
        "adapted": args.adapt,
        f"one track of {args.frames:,} frames": args.frames,
    }
    return ", ".join(name for name, wanted in parts.items() if wanted)


def trained(args: argparse.Namespace, seed: int) -> PoseLifter:
    """The teacher of a seed."""
    config: Any = default.get_config()
    config.seed, config.data.name = seed, "mocap"
    config.data.mocap_file = str(args.train)
    config.data.num_train = 3000 if args.quick else 15_000
    if args.quick:
        config.teacher.steps = 1500
    folder = args.fits / f"{args.train.stem}_{'quick_' * args.quick}{seed}"
    train_and_evaluate(config, folder, open_dataset(config.data))
    return PoseLifter.load(folder)


# --- the poses --------------------------------------------------------------------


def read_poses(args: argparse.Namespace) -> Poses:
    """Frames, or tracks, of the subjects that were not trained on."""
    motion = read_motion(args.test)
    rows = np.arange(len(motion))
    if args.test.resolve() == args.train.resolve():
        rows = np.sort(frame_order(motion, "val", 0))
    rng = np.random.default_rng(11)
    if args.tracks:
        trials = cut_tracks(args.test, motion.positions, rows)
        tracks = one_of_each(list(trials), rng)
        tracks = tracks[: max(1, (args.samples or 10**9) // int(RATE * SECONDS))]
        world = np.concatenate(tracks)
        track = np.repeat(np.arange(len(tracks)), [len(x) for x in tracks])
    else:
        rows = rng.permutation(rows)[: args.samples or None]
        world, track = motion.positions[rows].astype(np.float64), None
    number = np.arange(len(world)) if track is None else track
    count = number[-1] + 1
    if args.any_rotation:
        turns = Rotation.random(count, random_state=5).as_matrix()
    else:
        views = zip(
            rng.uniform(0, 360, count),
            rng.uniform(*ELEVATIONS_DEG, count),
            rng.uniform(-ROLL_DEG, ROLL_DEG, count),
            strict=True,
        )
        turns = np.stack([view_rotation(*view) for view in views])
    truth = (world - world[:, :1]) @ turns[number].transpose(0, 2, 1)
    return Poses(truth, track)


def cut_tracks(
    path: Path, positions: np.ndarray, rows: np.ndarray
) -> Iterator[list[np.ndarray]]:
    """Pieces of each trial at an even rate; frames that were left out are pauses."""
    with np.load(path) as file:
        trial, frame, fps = file["trial"], file["frame"], float(file["fps"])
    longest = int(RATE * SECONDS)
    for name in np.unique(trial[rows]):
        own = rows[trial[rows] == name]
        own = own[np.argsort(frame[own])]
        at = frame[own] / fps
        times = np.arange(at[0], at[-1], 1 / RATE)
        flat = positions[own].reshape(len(own), -1)
        even = np.stack([np.interp(times, at, x) for x in flat.T], 1)
        even = even.reshape(len(times), *positions.shape[1:])
        pieces = [
            even[start : start + longest] for start in range(0, len(even), longest)
        ]
        yield [piece for piece in pieces if len(piece) >= RATE]


def one_of_each(trials: list[list[Any]], rng: np.random.Generator) -> list[Any]:
    """All tracks in random order, a second one of a trial only after one of each."""
    trials = [[trial[i] for i in rng.permutation(len(trial))] for trial in trials]
    order = rng.permutation(len(trials))
    rounds = itertools.zip_longest(*(trials[i] for i in order))
    return [track for each in rounds for track in each if track is not None]


def landmarks(
    truth: np.ndarray, args: argparse.Namespace, *, plain: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(N, P, 2) pixels as a camera and a detector give them, and the outliers."""
    rng = np.random.default_rng(7)
    near = 1.0
    if args.perspective and not plain:
        distance = args.perspective * HEIGHT_MM
        near = distance / (distance + truth[..., 2:])
    xy = truth[..., :2] * near * SCALE + MIDDLE
    low, high = xy.min(1, keepdims=True), xy.max(1, keepdims=True)
    side = (high - low).max(2, keepdims=True)
    wrong = np.zeros(xy.shape[:2], bool)
    if not plain:
        xy = xy + args.noise * side * rng.normal(size=xy.shape)
        wrong = rng.random(wrong.shape) < args.outliers
        anywhere = (low + high) / 2 + side * rng.uniform(-0.5, 0.5, xy.shape)
        xy = np.where(wrong[..., None], anywhere, xy)
    return xy, wrong


# --- the scores -------------------------------------------------------------------


def measured(
    lifter: PoseLifter, args: argparse.Namespace, *, plain: bool, cost: bool
) -> dict[str, float]:
    """One row."""
    poses = read_poses(args)
    if args.frames and not plain:
        return long_track(lifter, poses, args)
    xy, wrong = landmarks(poses.truth, args, plain=plain)
    track = None if plain else poses.track
    if args.adapt and not plain:
        lifter = lifter.adapt(adapting(args))
    found = lifter(xy, track=track)
    row = accuracy(found.keypoints_3d, poses.truth) | calibration(found, poses.truth)
    if wrong.any():
        row["found"] = float(found.outlier[wrong].mean())
        row["false"] = float(found.outlier[~wrong].mean())
    row |= {"noise": found.noise, "focal": found.focal or np.inf}
    return row | ({"cost": cost_ms(lifter, xy)} if cost else {})


def long_track(
    lifter: PoseLifter, poses: Poses, args: argparse.Namespace
) -> dict[str, float]:
    """Of the poses again and again; the memory is the most that the process had."""
    rows = np.resize(np.arange(len(poses.truth)), args.frames)
    xy, _ = landmarks(poses.truth[rows], args, plain=False)
    began = time.process_time()
    lifter(xy, track=np.zeros(len(xy), int))
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cost": seconds / len(xy) * 1000, "memory": peak}


def cost_ms(lifter: PoseLifter, xy: np.ndarray) -> float:
    """Of a frame more: what is done once a call costs the same for any number."""
    seconds = []
    for count in (TOGETHER, TOGETHER, 3 * TOGETHER):
        began = time.process_time()
        lifter(np.resize(xy, (count, *xy.shape[1:])), focal=np.inf, noise=0.005)
        seconds.append(time.process_time() - began)
    return (seconds[2] - seconds[1]) / (2 * TOGETHER) * 1000


def adapting(args: argparse.Namespace) -> np.ndarray:
    """All landmarks of the test file, each frame seen once."""
    every = argparse.Namespace(**vars(args) | {"samples": 0, "tracks": False})
    return landmarks(read_poses(every).truth, args, plain=False)[0]


def accuracy(pose: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The errors of the poses."""
    scaled = metrics.scale_by_bone_length(pose, truth, edges=H36M_17.edges)
    found = {
        "depth": metrics.depth_error(scaled, truth),
        "PA": metrics.pa_mpjpe(pose, truth),
        "MPJPE": metrics.mpjpe(scaled, truth, root=H36M_17.root),
        "flip": metrics.flipped(pose, truth),
    }
    return {name: float(np.mean(values)) for name, values in found.items()}


def calibration(found: Lifted, truth: np.ndarray) -> dict[str, float]:
    """Of the depth about the middle of the body, in pixels."""
    z, true = found.keypoints_3d[..., 2], SCALE * truth[..., 2]
    error = np.abs(z - z.mean(1, keepdims=True) - true + true.mean(1, keepdims=True))
    sd = found.keypoints_3d_std[..., 2]
    inside = error < 1.96 * sd
    out = {"covered": float(inside.mean())}
    bins = np.digitize(found.evidence_quantile, BINS)
    for i, edge in enumerate((*BINS, 1.0)):
        if (bins == i).any():
            out[f"to {edge:g}"] = float(inside[bins == i].mean())
    out["rank, joints"] = float(spearmanr(sd.ravel(), error.ravel())[0])
    out["rank, poses"] = float(spearmanr(sd.mean(1), error.mean(1))[0])
    return out


if __name__ == "__main__":
    main()
