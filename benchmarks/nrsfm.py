"""NRSfM on one data set: the teacher, the EM that starts it, and what both must beat.

python benchmarks/nrsfm.py --dataset=cmu_mocap --seeds=5

All rows see the same 2D landmarks and are scored by the same code: MPJPE and depth
error after scaling by the mean bone length, PA-MPJPE by a similarity without
reflection, flip fraction as the share of samples whose depth is mirrored. The sign of
depth is that of the run (the camera looks down on average), never chosen by the truth;
rigid, low rank and the plain teacher leave it open, and are given the better one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import factorisation
from benchmarks.classic import classic_rows
from benchmarks.common import DATA, Row, finish, parse_args, summarise
from configs import default
from input_pipeline.ground_truth import read_ground_truth
from input_pipeline.landmarks import Landmarks, read_landmarks
from losses import metrics
from nrsfm_jax import teacher, train
from nrsfm_jax.gaussian_mixture import expected_pose, fit_shapes
from nrsfm_jax.objective import Objective

UNITS = {
    "mpjpe": "mm",
    "pa_mpjpe": "mm",
    "depth_error": "mm",
    "flip_fraction": "",
    "seconds": "s",
    "peak_memory": "MiB",
}
SEEDLESS = ("z = 0", "rigid", "low rank")
EITHER_SIGN = ("rigid", "low rank", "plain teacher")
PUBLISHED = (256, 128, 64, 32, 16, 8)
OURS = tuple(default.get_config().teacher.dictionary_sizes)
_MISSING_STREAM = 99  # seeds the choice of removed landmarks
DATASETS = ("cmu_mocap", "mh_mocap", "mannequin", "classic")


def main() -> None:
    """Runs every method for every seed and prints the table."""
    args = parse_args(__doc__, add_flags)
    if args.dataset == "classic":
        finish(classic_rows(args), args.json)
        return
    data = data_config(args)
    landmarks = read_landmarks(data, "train")
    truth = read_ground_truth(data, "train")
    if truth is None:
        sys.exit("error: this data set has no 3D truth to score against")
    truth = truth.align(landmarks.sample_ids)
    scored, landmarks = landmarks.visible, without(landmarks, args.missing)
    steps = 1500 if args.quick else args.steps
    methods = {
        "z = 0": zero_depth,
        "rigid": functools.partial(factorised, method=factorisation.rigid),
        "low rank": functools.partial(factorised, method=factorisation.low_rank),
        "EM, 1 Gaussian": functools.partial(em_alone, components=1),
        "EM": functools.partial(em_alone, components=10),
        "plain teacher": functools.partial(teacher_depth, steps=steps, guided=False),
        "teacher": functools.partial(teacher_depth, steps=steps, guided=True),
    }
    chosen = args.method or list(methods)
    rows: list[Row] = []
    case = args.dataset
    if args.missing:
        case = f"{case}, {args.missing:.0%} missing"
    for name in chosen:
        repeats = 1 if name in SEEDLESS else (2 if args.quick else args.seeds)
        scores = [
            run(
                methods[name],
                landmarks,
                truth,
                scored,
                args.first_seed + i,
                name in EITHER_SIGN,
            )
            for i in range(repeats)
        ]
        for metric, unit in UNITS.items():
            values = [score[metric] for score in scores]
            rows.append(summarise("nrsfm", case, name, metric, unit, values))
            print(name, metric, *(f"{v:.4g}" for v in values), flush=True)
    finish(rows, args.json)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument("--dataset", choices=DATASETS, default="cmu_mocap")
    parser.add_argument("--data", type=Path, help="a file of cmu_mocap17.npz's layout")
    parser.add_argument("--method", action="append", help="only these rows")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--samples", type=int, default=15_000)
    parser.add_argument(
        "--missing",
        type=float,
        default=0.0,
        help="share of the landmarks removed at random; all joints are scored",
    )


def data_config(args: argparse.Namespace) -> ConfigDict:
    """``config.data`` of the data set that the flags name."""
    data = default.get_config().data
    data.num_train = 3000 if args.quick else args.samples
    if args.dataset == "cmu_mocap":
        data.name = "mocap"
        data.mocap_file = str(args.data or DATA / "cmu_mocap17.npz")
    elif args.dataset == "mh_mocap":
        folder = DATA / "mh_mocap"
        data.name = "coco"
        for field, suffix in (("", "train"), ("_val", "val")):
            data[f"annotations{field}"] = str(
                folder / f"person_keypoints_{suffix}.json"
            )
            data[f"images{field}"] = str(folder / f"images_{suffix}")
            data[f"ground_truth{field}"] = str(folder / f"gt3d_{suffix}.npz")
    elif not args.quick:
        data.num_train = 4000
    return data


def without(landmarks: Landmarks, share: float) -> Landmarks:
    """The landmarks less a random share of them, the same for every method and seed."""
    if share == 0:
        return landmarks
    drop = np.random.default_rng(_MISSING_STREAM).random(landmarks.visible.shape)
    visible = landmarks.visible & (drop >= share)
    keypoints = np.where(visible[..., None], landmarks.keypoints, np.float32(0))
    return dataclasses.replace(landmarks, keypoints=keypoints, visible=visible)


def run(
    method: Any,
    landmarks: Landmarks,
    truth: Any,
    scored: np.ndarray,
    seed: int,
    either_sign: bool,
) -> dict[str, float]:
    """One method and seed: the metrics, the seconds and the peak memory so far.

    ``scored`` (N, P) are the joints that count, whether the method saw them or not.
    """
    began = time.monotonic()
    pose = method(landmarks, seed)
    seconds = time.monotonic() - began
    measure = functools.partial(
        metrics.evaluate_poses,
        truth_mm=truth.positions_mm,
        edges=landmarks.skeleton.edges,
        root=landmarks.skeleton.root,
        visible=scored,
    )
    scores = measure(pose)
    if either_sign and scores["flip_fraction"] > 0.5:
        scores = measure(pose * np.array([1, 1, -1], np.float32))
    return {
        "mpjpe": scores["mpjpe_mm"],
        "pa_mpjpe": scores["pa_mpjpe_mm"],
        "depth_error": scores["depth_error_mm"],
        "flip_fraction": scores["flip_fraction"],
        "seconds": seconds,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def zero_depth(landmarks: Landmarks, seed: int) -> np.ndarray:
    """The annotated landmarks in the picture plane."""
    W, _ = landmarks.centred
    return np.concatenate([W, np.zeros_like(W[..., :1])], axis=-1)


def factorised(landmarks: Landmarks, seed: int, *, method: Any) -> np.ndarray:
    """A factorisation; there is nothing random in it."""
    W, _ = landmarks.centred
    return factorisation.camera_frame(*method(W))


def em_alone(landmarks: Landmarks, seed: int, *, components: int) -> np.ndarray:
    """The annotated landmarks with the depth of the Gaussian shapes."""
    key = jax.random.split(jax.random.key(seed))[0]
    return _em_pose(landmarks, key, components)


def _em_pose(landmarks: Landmarks, key: jax.Array, components: int = 10) -> np.ndarray:
    W, _ = landmarks.centred
    shape = fit_shapes(W, landmarks.visible, key=key, components=components)
    return expected_pose(shape, W, landmarks.visible)[0]


def teacher_depth(
    landmarks: Landmarks, seed: int, *, steps: int, guided: bool
) -> np.ndarray:
    """The teacher's own reconstruction.

    Guided: the recipe of configs/default.py. Plain: Section 3 as published, with the
    published dictionaries and nothing but Eq. 4.
    """
    W, _ = landmarks.centred
    em_key, fit_key = jax.random.split(jax.random.key(seed))
    first = _em_pose(landmarks, em_key) if guided else None
    W = W if first is None else first[..., :2]
    fitted = train.fit(
        W,
        landmarks.visible,
        key=fit_key,
        em_depth=None if first is None else first[..., 2],
        objective=Objective(steps=steps),
        dictionary_sizes=OURS if guided else PUBLISHED,
    )
    record = teacher.from_params(
        fitted.params, skeleton=landmarks.skeleton.to_dict(), config={}, depth_sign=1
    )
    split = record.reconstruct(W, landmarks.visible, landmarks.sample_ids)
    return split.poses(record.dictionary)


if __name__ == "__main__":
    main()
