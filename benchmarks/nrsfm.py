"""NRSfM on one data set: the teacher, the EM that starts it, and what both must beat.

python benchmarks/nrsfm.py --dataset=cmu_mocap --seeds=20 --jobs=2

All rows see the same 2D landmarks and are scored by the same code; what the columns
mean stands under the table. Every method and seed runs in a process of its own, so
that its peak memory is its own (the teacher's process gives the row "EM" of its seed
on the way); each result is kept in a file (``--runs``), from which an interrupted table
goes on: delete it after a change of the code.

The sign of depth is that of the run (the camera looks down on average), never chosen
by the truth; methods that leave it open are given the better of the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import classic, deep_nrsfm, factorisation
from benchmarks.common import (
    DATA,
    Row,
    append_line,
    finish,
    parse_args,
    run_jobs,
    summarise,
)
from configs import default
from input_pipeline.ground_truth import read_ground_truth
from input_pipeline.landmarks import Landmarks, read_landmarks
from losses import metrics
from nrsfm_jax import loop, teacher
from nrsfm_jax.em import GaussianMixture, expected_pose, fit_shapes, mirror_of
from nrsfm_jax.loss import Objective

UNITS = {
    "mpjpe": "mm",
    "pa_mpjpe": "mm",
    "depth_error": "mm",
    "unsigned_depth": "mm",
    "flip_fraction": "",
    "coherent": "seeds",
    "seconds": "s",
    "peak_memory": "MiB",
}
COLUMNS = """\
MPJPE: mean distance of the joints, scaled by the mean bone length, roots together
PA-MPJPE: after the best similarity (rotation, scale, shift), no reflection
depth error: mean |dz|, scaled by the mean bone length, mean depths together
unsigned depth: the same, the sign of every single sample chosen by the truth
flip fraction: share of the samples whose depth is mirrored (<z, z_true> < 0)
coherent: seeds with a flip fraction under 5 %
seconds: wall clock of the fit and of all poses; compiled programs are kept between
  the seeds, so that the highest includes compiling, the lowest does not
peak memory: of the whole process, interpreter and data included (z = 0 shows those)
EM, z = 0: the landmarks given, depth alone is estimated; the others: their own poses
sign: {signs} get the better global sign, the others have their own"""
PUBLISHED = (256, 128, 64, 32, 16, 8)
OURS = tuple(default.get_config().teacher.dictionary_sizes)
STEPS = int(default.get_config().teacher.steps)
COHERENT = 0.05
_MISSING_STREAM = 99  # seeds the choice of removed landmarks
DATASETS = ("cmu_mocap", "mh_mocap", "mannequin", "classic")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A data set to be solved, and beside it the 3D that scores the solution.

    ``scored`` (N, P) are the joints that count, whether a method saw them or not.
    """

    landmarks: Landmarks
    truth_mm: np.ndarray
    scored: np.ndarray
    held_out: Landmarks


# Name of the row, (N, P, 3) in the camera's frame, and scores that need no truth.
Stage = tuple[str, np.ndarray, Callable[[], dict[str, float]] | None]


@dataclasses.dataclass(frozen=True)
class Method:
    """A row: ``solve(problem, seed, args)`` gives (N, P, 3), or its stages.

    Attributes:
        seeds: which flag says how often it runs; None: nothing in it is random.
        either_sign: it leaves the sign of depth open.
        by_default: runs where ``--method`` names nothing.
    """

    solve: Callable[[Problem, int, argparse.Namespace], Any]
    seeds: str | None = "seeds"
    either_sign: bool = False
    by_default: bool = True


def main() -> None:
    """Runs what is not yet in the file of results and prints the table."""
    args = parse_args(__doc__, add_flags)
    if args.runs is None:
        args.runs = Path("runs/benchmarks") / f"{args.dataset}.jsonl"
    if args.dataset == "classic":
        return classic.work(args) if args.worker else classic.table(args)
    args.steps = args.steps or STEPS
    if args.worker:
        return work(args)
    chosen = args.method or [name for name, m in METHODS.items() if m.by_default]
    for name in chosen:
        if name not in METHODS:
            sys.exit(f"error: no method {name!r}; there are {', '.join(METHODS)}")
    wanted = [(name, seed) for name in chosen for seed in seeds_of(name, args)]
    records = run_jobs(
        Path(__file__), protocol(args), wanted, args.runs, jobs=args.jobs
    )
    if not records:
        sys.exit("error: no run ended well")
    rows = table_rows(records, case_name(args))
    signs = ", ".join(name for name, m in METHODS.items() if m.either_sign)
    finish(rows, args.json, footer=COLUMNS.format(signs=signs))
    return None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument("--dataset", choices=DATASETS, default="cmu_mocap")
    parser.add_argument("--data", type=Path, help="a file of the data set's layout")
    parser.add_argument("--method", action="append", help="only these rows")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--baseline-seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--runs", type=Path, help="the file that keeps the results")
    parser.add_argument("--steps", type=int, help="of the teacher")
    parser.add_argument("--samples", type=int, default=15_000)
    parser.add_argument(
        "--missing",
        type=float,
        default=0.0,
        help="share of the landmarks removed at random; all joints are scored",
    )
    parser.add_argument(
        "--elevations",
        help="elevations of the EM's grid in degrees, as 10,20,30,40,50",
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--sequence", help=argparse.SUPPRESS)


# --- the problem ---------------------------------------------------------------------


def protocol(args: argparse.Namespace) -> dict[str, Any]:
    """What two results must share to stand in one table."""
    names = ("dataset", "samples", "missing", "steps", "elevations", "quick")
    kept = {name: getattr(args, name) for name in names}
    return kept | {"data": str(args.data or "")}


def case_name(args: argparse.Namespace) -> str:
    """The data set, and what differs from its usual form."""
    name = args.dataset
    if args.missing:
        name = f"{name}, {args.missing:.0%} missing"
    return f"{name}, EM at {args.elevations}" if args.elevations else name


def seeds_of(name: str, args: argparse.Namespace) -> list[int]:
    """The seeds that a row has."""
    flag = METHODS[name].seeds
    count = 1 if flag is None else getattr(args, flag)
    count = min(count, 2) if args.quick else count
    return [args.first_seed + i for i in range(count)]


def data_config(args: argparse.Namespace) -> ConfigDict:
    """``config.data`` of the data set that the flags name."""
    data = default.get_config().data
    data.num_train = 3000 if args.quick else args.samples
    if args.dataset == "cmu_mocap":
        data.name = "mocap"
        data.mocap_file = str(args.data or DATA / "cmu_mocap17.npz")
    elif args.dataset == "mh_mocap":
        folder = args.data or DATA / "mh_mocap"
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


def load(args: argparse.Namespace) -> Problem:
    """Landmarks, a share of them removed where asked for, and the truth."""
    data = data_config(args)
    landmarks = read_landmarks(data, "train")
    truth = read_ground_truth(data, "train")
    if truth is None:
        raise ValueError(f"{args.dataset} has no 3D truth to score against")
    return Problem(
        landmarks=without(landmarks, args.missing),
        truth_mm=truth.align(landmarks.sample_ids).positions_mm,
        scored=landmarks.labelled,
        held_out=read_landmarks(data, "val"),
    )


def without(landmarks: Landmarks, share: float) -> Landmarks:
    """The landmarks less a random share of them, the same for every method and seed."""
    if share == 0:
        return landmarks
    drop = np.random.default_rng(_MISSING_STREAM).random(landmarks.labelled.shape)
    labelled = landmarks.labelled & (drop >= share)
    keypoints = np.where(labelled[..., None], landmarks.keypoints, np.float32(0))
    return dataclasses.replace(landmarks, keypoints=keypoints, labelled=labelled)


def measure(
    pose: np.ndarray, problem: Problem, *, either_sign: bool = False
) -> dict[str, float]:
    """The columns that need the truth."""
    score = functools.partial(
        metrics.evaluate_poses,
        truth_mm=problem.truth_mm,
        edges=problem.landmarks.skeleton.edges,
        root=problem.landmarks.skeleton.root,
        labelled=problem.scored,
    )
    mirror = np.array([1, 1, -1], np.float32)
    scores = score(pose)
    if either_sign and scores["flip_fraction"] > 0.5:
        scores = score(pose * mirror)
    flipped = metrics.flipped(pose, problem.truth_mm, labelled=problem.scored)
    turned = np.where(np.reshape(flipped, (-1, 1, 1)), pose * mirror, pose)
    scaled = metrics.scale_by_bone_length(
        turned,
        problem.truth_mm,
        edges=problem.landmarks.skeleton.edges,
        labelled=problem.scored,
    )
    unsigned = metrics.depth_error(scaled, problem.truth_mm, labelled=problem.scored)
    return {
        "mpjpe": scores["mpjpe_mm"],
        "pa_mpjpe": scores["pa_mpjpe_mm"],
        "depth_error": scores["depth_error_mm"],
        "unsigned_depth": float(np.mean(unsigned)),
        "flip_fraction": scores["flip_fraction"],
    }


# --- one process ---------------------------------------------------------------------


def work(args: argparse.Namespace) -> None:
    """One method with one seed; the results are appended to the file of results."""
    problem = load(args)
    began = time.monotonic()
    stages = []
    for name, pose, scores in solved(problem, args):
        seconds = time.monotonic() - began
        # In KiB, on Linux; what scores and errors need comes after all stages.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        stages.append((name, pose, scores, {"seconds": seconds, "peak_memory": peak}))
    for name, pose, scores, cost in stages:
        either_sign = METHODS[name].either_sign
        record = {
            "protocol": protocol(args),
            "method": name,
            "seed": args.first_seed,
            "metrics": measure(pose, problem, either_sign=either_sign) | cost,
            "scores": scores() if scores else {},
        }
        append_line(args.runs, record)


def solved(problem: Problem, args: argparse.Namespace) -> Iterator[Stage]:
    """The stages of a method; the teacher's first one is the row "EM" of its seed."""
    result = METHODS[args.worker].solve(problem, args.first_seed, args)
    if isinstance(result, np.ndarray):
        yield args.worker, result, None
    else:
        yield from result


def table_rows(records: list[dict[str, Any]], case: str) -> list[Row]:
    """Mean and range of every metric of every method."""
    rows = []
    for name in dict.fromkeys(record["method"] for record in records):
        runs = [r["metrics"] for r in records if r["method"] == name]
        coherent = sum(run["flip_fraction"] < COHERENT for run in runs)
        for metric, unit in UNITS.items():
            # A result that was kept by an earlier version may lack a column.
            values = [run[metric] for run in runs if metric in run]
            if metric == "coherent":
                values = [coherent]
            if values:
                row = summarise("nrsfm", case, name, metric, unit, values)
                rows.append(dataclasses.replace(row, n=len(runs)))
    return rows


# --- the methods ---------------------------------------------------------------------


def zero_depth(problem: Problem, seed: int, args: argparse.Namespace) -> np.ndarray:
    """The annotated landmarks in the picture plane."""
    W, _ = problem.landmarks.centred
    return np.concatenate([W, np.zeros_like(W[..., :1])], axis=-1)


def factorised(
    problem: Problem, seed: int, args: argparse.Namespace, *, method: Any
) -> np.ndarray:
    """A factorisation; there is nothing random in it."""
    W, _ = problem.landmarks.centred
    return factorisation.camera_frame(*method(W))


def learned(
    problem: Problem, seed: int, args: argparse.Namespace, *, module: Any
) -> np.ndarray:
    """A network of others, trained by what it minimises."""
    marks = problem.landmarks
    options = {"steps": module.STEPS // 10} if args.quick else {}
    return module.solve(marks.centred[0], marks.labelled, seed=seed, **options)


def em_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags change in the EM."""
    if not args.elevations:
        return {}
    return {"elevations_deg": tuple(float(e) for e in args.elevations.split(","))}


def em_shapes(
    marks: Landmarks, key: jax.Array, args: argparse.Namespace, components: int = 10
) -> GaussianMixture:
    """The fit of the EM."""
    W, _ = marks.centred
    options = {"components": components, "mirror": mirror_of(marks.skeleton)}
    return fit_shapes(W, marks.labelled, key=key, **options, **em_options(args))


def em_alone(
    problem: Problem, seed: int, args: argparse.Namespace, *, components: int
) -> Iterator[Stage]:
    """The annotated landmarks with the depth of the Gaussian shapes."""
    marks = problem.landmarks
    shape = em_shapes(marks, em_key(seed), args, components)
    pose = expected_pose(shape, marks.centred[0], marks.labelled)[0]
    name = "EM" if components > 1 else "EM, 1 Gaussian"
    yield name, pose, functools.partial(em_scores, shape, problem)


def em_key(seed: int) -> jax.Array:
    """The key of the EM, the same as in a run of main.py."""
    return jax.random.split(jax.random.key(seed))[0]


def em_scores(shape: GaussianMixture, problem: Problem) -> dict[str, float]:
    """Minus the log-likelihood a sample, of the fit and of samples it has not seen."""
    held_out = problem.held_out
    log_p = expected_pose(shape, held_out.centred[0], held_out.labelled)[1]
    return {
        "em_nats": -float(shape.log_likelihood),
        "em_nats_held_out": -float(np.mean(log_p)),
    }


def plain_teacher(problem: Problem, seed: int, args: argparse.Namespace) -> np.ndarray:
    """Section 3 as published: the published dictionaries and nothing but Eq. 4."""
    marks, key = problem.landmarks, jax.random.split(jax.random.key(seed))[1]
    W, labelled = marks.centred[0], marks.labelled
    objective = Objective(steps=steps_of(args))
    state = loop.fit(
        W, labelled, key=key, objective=objective, dictionary_sizes=PUBLISHED
    )
    return reconstructed(state, W, marks)


def guided_teacher(
    problem: Problem, seed: int, args: argparse.Namespace
) -> Iterator[Stage]:
    """The recipe of configs/default.py; its EM is the row of that name."""
    marks, key = problem.landmarks, jax.random.split(jax.random.key(seed))[1]
    shape = em_shapes(marks, em_key(seed), args)
    first = expected_pose(shape, marks.centred[0], marks.labelled)[0]
    scores = functools.partial(em_scores, shape, problem)
    yield "EM", first, scores
    state = loop.fit(
        first[..., :2],
        marks.labelled,
        key=key,
        em_depth=first[..., 2],
        objective=Objective(steps=steps_of(args)),
        dictionary_sizes=OURS,
    )
    yield "teacher", reconstructed(state, first[..., :2], marks), scores


def steps_of(args: argparse.Namespace) -> int:
    """Steps of the teacher's training."""
    return min(args.steps, 1500) if args.quick else args.steps


def reconstructed(
    state: loop.TrainState, W: np.ndarray, marks: Landmarks
) -> np.ndarray:
    """The teacher's own poses."""
    record = teacher.Teacher(state.params, skeleton=marks.skeleton.to_dict())
    split = record.reconstruct(W, marks.labelled, marks.sample_ids)
    return split.poses(record.dictionary)


METHODS = {
    "z = 0": Method(zero_depth, seeds=None),
    "rigid": Method(
        functools.partial(factorised, method=factorisation.rigid),
        seeds=None,
        either_sign=True,
    ),
    "low rank": Method(
        functools.partial(factorised, method=factorisation.low_rank),
        seeds=None,
        either_sign=True,
    ),
    "Deep-NRSfM": Method(
        functools.partial(learned, module=deep_nrsfm),
        seeds="baseline_seeds",
        either_sign=True,
    ),
    "plain teacher": Method(plain_teacher, either_sign=True, by_default=False),
    "EM, 1 Gaussian": Method(
        functools.partial(em_alone, components=1), by_default=False
    ),
    "EM": Method(functools.partial(em_alone, components=10)),
    "teacher": Method(guided_teacher),
}


if __name__ == "__main__":
    main()
