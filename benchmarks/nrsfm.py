"""NRSfM on one data set: the teacher, the EM that initialises it, and other methods.

python benchmarks/nrsfm.py --dataset=cmu_mocap --seeds=20 --jobs=2
python benchmarks/nrsfm.py --dataset=cmu_mocap --data=FILE --method=EM --cameras=any
python benchmarks/nrsfm.py --dataset=classic --data=FILE

All methods are given the same 2D landmarks and are scored by the same code. A text
below the table explains the columns. Every method and seed runs in a process of its
own, so that its peak memory is its own; the process of the teacher also gives the row
"EM" of its seed. Each result is stored in a file (``--runs``), from which an
interrupted table continues: delete it after a change of the code.

The sign of depth is that of the run (the camera looks down on average), never chosen by
the truth; methods that do not determine it are given the better one. The classic
sequences (``configs/classic.py``) are scored by the metric of Dai et al. (IJCV 2014);
the order of their frames is not used. Each row comes once more with the signs of depth
that ``nrsfm_jax.synchronise_signs`` gives to the same poses.
"""

from __future__ import annotations

import argparse
import copy
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

from benchmarks import deep_nrsfm, factorisation
from benchmarks.common import (
    DATA,
    Row,
    append_line,
    finish,
    kept_results,
    mean_row,
    parse_args,
    set_mh_mocap,
)
from configs import classic, default
from input_pipeline.dataset import open_dataset
from input_pipeline.landmarks import Landmarks, make_landmarks
from losses import metrics
from nrsfm_jax import loop, teacher
from nrsfm_jax.em import FitReport, em_options, expected_pose, fit_shapes, mirror_of
from nrsfm_jax.handedness import synchronise_signs
from nrsfm_jax.train import objective_of
from nrsfm_jax.verdict import judge

UNITS = {
    "error": "",
    "mpjpe": "mm",
    "pa_mpjpe": "mm",
    "depth_error": "mm",
    "unsigned_depth": "mm",
    "flip_fraction": "",
    "coherent": "seeds",
    "changed": "",
    "bimodality": "",
    "split": "",
    "trusted": "",
    "seconds": "s",
    "cpu_seconds": "s",
    "peak_memory": "MiB",
}
COLUMNS = """\
error: mean distance of the points after one rotation or reflection of all frames,
  over the standard deviation of a frame's points along an axis (Dai et al. 2014)
MPJPE: mean distance of the joints, scaled by the mean bone length, roots aligned
PA-MPJPE: after the best similarity (rotation, scale, shift), no reflection
depth error: mean |dz|, scaled by the mean bone length, mean depths aligned
unsigned depth: the same, with the sign of every sample chosen by the truth
flip fraction: share of the samples whose depth is mirrored (<z, z_true> < 0)
coherent: seeds with a flip fraction under 5 %
changed: share of the samples whose sign of depth the handedness of the others turns
bimodality, split: whether the poses have a handedness at all (.75 and .95 and more)
trusted: the verdict of a training run, 1 coherent, 0 not trusted, .5 uncertain
seconds, cpu_seconds: of the fit and of all poses; compiled programs are kept between
  the seeds, so that the highest value includes compilation and the lowest does not
peak memory: of the whole process, interpreter and data included (z = 0 shows those)
EM, z = 0: given the landmarks, they estimate only the depth; the others: their poses
sign: {signs} get the better global sign, the others have their own"""
# Errors by Dai et al., for the block matrix method.
CLASSIC = {"drink": 0.0266, "pickup": 0.1731, "yoga": 0.1150, "stretch": 0.1034}
PUBLISHED_SIZES = (256, 128, 64, 32, 16, 8)
COHERENT = 0.05
_MISSING_STREAM, _CAMERA_STREAM = 99, 98  # seeds of removed landmarks, of cameras
SYNCHRONISED = " + synchronised signs"
CAMERAS = ("around", "any", "above", "front40", "front90")
DATASETS = ("cmu_mocap", "mh_mocap", "mannequin", "classic")
MIRROR = np.array([1, 1, -1], np.float32)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A data set to be solved, and beside it the 3D that scores the solution.

    ``scored`` (N, P) are the joints that count, whether a method saw them or not.
    """

    config: Any
    landmarks: Landmarks
    truth_mm: np.ndarray
    scored: np.ndarray


Stages = Iterator[tuple[str, np.ndarray, FitReport | None]]


@dataclasses.dataclass(frozen=True)
class Method:
    """A row: ``solve(problem, seed)`` gives a stage, or several in turn.

    A stage is its name, "" for the row's own, its (N, P, 3) poses in the camera frame
    and what the EM that they come from says of itself, if there is one.

    Attributes:
        seeds: which flag says how often it runs; None: nothing in it is random.
        either_sign: it leaves the sign of depth open.
    """

    solve: Callable[[Problem, int], Stages]
    seeds: str | None = "seeds"
    either_sign: bool = False


def main() -> None:
    """Runs what is not yet in the file of results and prints the table."""
    args = parse_args(__doc__, add_flags)
    args.runs = args.runs or Path("runs/benchmarks") / f"{args.dataset}.jsonl"
    if args.worker:
        return work(args)
    chosen = args.method or BY_DEFAULT[args.dataset == "classic"]
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        sys.exit(f"error: no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    rows: list[Row] = []
    for case in cases(args):
        if case.sequence in CLASSIC:
            error = [CLASSIC[case.sequence]]
            rows.append(
                mean_row("nrsfm", case_name(case), "published", "error", "", error)
            )
        wanted = [(name, seed) for name in chosen for seed in seeds_of(name, case)]
        records = kept_results(
            Path(__file__), protocol(case), wanted, args.runs, jobs=args.jobs
        )
        rows += table_rows(records, case_name(case))
    if not rows:
        sys.exit("error: no run ended well")
    signs = ", ".join(name for name, m in METHODS.items() if m.either_sign)
    footer = COLUMNS.format(signs=signs)
    return finish(rows, args.json, spread="mean [lowest, highest]", footer=footer)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.add_argument("--dataset", choices=DATASETS, default="cmu_mocap")
    parser.add_argument("--data", type=Path, help="a file of the data set's layout")
    parser.add_argument("--sequence", help="of the classic ones; all by default")
    parser.add_argument("--method", action="append", help="only these rows")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--baseline-seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--runs", type=Path, help="the file that keeps the results")
    parser.add_argument("--steps", type=int, help="of the teacher")
    parser.add_argument(
        "--samples", type=int, help="15,000; of --data all that are there"
    )
    parser.add_argument(
        "--cameras",
        choices=CAMERAS,
        default="around",
        help="cmu_mocap: around an upright body, in any rotation, from 60 to 90 degrees"
        " above, or within so many degrees of yaw of its front",
    )
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


# --- the problem ---------------------------------------------------------------------


def cases(args: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """The arguments of every data set that the table shows."""
    sequences = [args.sequence]
    if args.dataset == "classic" and not args.sequence:
        with np.load(args.data or DATA / "nrsfm_classic.npz") as file:
            sequences = [n.removesuffix("_X") for n in file if n.endswith("_X")]
    for sequence in sequences:
        yield argparse.Namespace(**vars(args) | {"sequence": sequence})


def protocol(args: argparse.Namespace) -> dict[str, Any]:
    """What two results must share to stand in one table."""
    names = ("dataset", "samples", "missing", "elevations", "quick", "sequence")
    names = (*names, "cameras")
    kept = {name: getattr(args, name) for name in names}
    steps = config_of(args).teacher.steps
    return kept | {"steps": steps, "data": str(args.data or "")}


def case_name(args: argparse.Namespace) -> str:
    """The data set, and what differs from its usual form."""
    missing = f"{args.missing:.0%} missing" if args.missing else ""
    grid = f"EM at {args.elevations}" if args.elevations else ""
    cameras = "" if args.cameras == "around" else f"cameras {args.cameras}"
    named = args.sequence or (args.data.stem if args.data else args.dataset)
    return ", ".join(filter(None, (named, missing, grid, cameras)))


def seeds_of(name: str, args: argparse.Namespace) -> list[int]:
    """The seeds that a row has."""
    flag = METHODS[name].seeds
    count = 1 if flag is None else getattr(args, flag)
    count = min(count, 2) if args.quick else count
    return [args.first_seed + i for i in range(count)]


def config_of(args: argparse.Namespace) -> Any:
    """The config of a run of main.py with the data set that the flags name."""
    config: Any = (classic if args.dataset == "classic" else default).get_config()
    data, steps = config.data, config.teacher.steps
    config.teacher.steps = args.steps or (min(steps, 1500) if args.quick else steps)
    if args.elevations:
        grid = tuple(float(e) for e in args.elevations.split(","))
        config.teacher.em.views, config.teacher.em.elevations_deg = "upright", grid
    every = 0 if args.data else 15_000  # 0: as many as there are
    data.num_train = args.samples or (3000 if args.quick else every)
    if args.cameras != "around":
        data.elevation_deg = (60.0, 90.0) if args.cameras == "above" else (0.0, 0.0)
    if args.dataset == "classic":
        data.mocap_file = str(args.data or DATA / "nrsfm_classic.npz")
        data.sequence = args.sequence
    elif args.dataset == "cmu_mocap":
        data.name = "mocap"
        data.mocap_file = str(args.data or DATA / "cmu_mocap17.npz")
    elif args.dataset == "mh_mocap":
        set_mh_mocap(data, args.data or DATA / "mh_mocap")
    elif not args.quick:
        data.num_train = 4000
    return config


def load(args: argparse.Namespace) -> Problem:
    """Landmarks, a share of them removed where asked for, and the truth."""
    config = config_of(args)
    dataset = open_dataset(config.data)
    landmarks, truth = dataset.landmarks("train"), dataset.truth("train")
    if truth is None:
        raise ValueError(f"{args.dataset} has no 3D truth to score against")
    positions = truth.positions_mm
    if args.cameras not in ("around", "above"):
        landmarks, positions = seen_by(args.cameras, landmarks, positions)
    remaining = without(landmarks, args.missing)
    return Problem(config, remaining, positions, landmarks.labelled)


def seen_by(
    cameras: str, landmarks: Landmarks, positions: np.ndarray
) -> tuple[Landmarks, np.ndarray]:
    """Level bodies in any rotation, or with their front within some degrees of yaw."""
    rng, n = np.random.default_rng(_CAMERA_STREAM), len(landmarks)
    if cameras == "any":
        turns = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
        turns = turns * np.linalg.det(turns)[:, None, None]
    else:
        left, right = (landmarks.skeleton.joints.index(j) for j in ("LHip", "RHip"))
        hips = positions[:, left] - positions[:, right]
        wide = np.deg2rad(float(cameras.removeprefix("front"))) / 2
        yaw = np.arctan2(hips[:, 2], hips[:, 0]) + rng.uniform(-wide, wide, n)
        elevation = np.deg2rad(rng.uniform(-10, 30, n))
        turns = _about(1, yaw) @ _about(0, -elevation)
    turned = (positions @ turns).astype(np.float32)
    middle = landmarks.centre.mean(axis=0)
    scale = np.float32(middle.mean() / 1000)
    seen = make_landmarks(
        skeleton=landmarks.skeleton,
        sample_ids=landmarks.sample_ids,
        keypoints=turned[..., :2] * scale + middle,
        labelled=landmarks.labelled,
        boxes=None,
        names=landmarks.names,
        padding=1.25,
    )
    return seen, turned


def _about(axis: int, angle: np.ndarray) -> np.ndarray:
    """(N, 3, 3) rotations of row vectors about a coordinate axis."""
    a, b = (i for i in range(3) if i != axis)
    turn = np.tile(np.eye(3), (len(angle), 1, 1))
    turn[:, a, a] = turn[:, b, b] = np.cos(angle)
    turn[:, a, b], turn[:, b, a] = -np.sin(angle), np.sin(angle)
    return turn


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
    truth, skeleton = problem.truth_mm, problem.landmarks.skeleton
    if problem.config.data.name == "sequence":
        half_side = problem.landmarks.half_side[:, None, None]
        return {"error": metrics.dai_error(pose * half_side, truth)}
    options: dict[str, Any] = {"edges": skeleton.edges, "labelled": problem.scored}
    score = functools.partial(
        metrics.evaluate_poses, truth_mm=truth, root=skeleton.root, **options
    )
    scores = score(pose)
    if either_sign and scores["flip_fraction"] > 0.5:
        scores = score(pose * MIRROR)
    flipped = metrics.flipped(pose, truth, labelled=problem.scored)
    turned = np.where(np.reshape(flipped, (-1, 1, 1)), pose * MIRROR, pose)
    scaled = metrics.scale_by_bone_length(turned, truth, **options)
    unsigned = metrics.depth_error(scaled, truth, labelled=problem.scored)
    return {
        "mpjpe": scores["mpjpe_mm"],
        "pa_mpjpe": scores["pa_mpjpe_mm"],
        "depth_error": scores["depth_error_mm"],
        "unsigned_depth": float(np.mean(unsigned)),
        "flip_fraction": scores["flip_fraction"],
    }


def work(args: argparse.Namespace) -> None:
    """One method with one seed; the results are appended to the file of results."""
    problem = load(args)
    began, cpu = time.monotonic(), time.process_time()
    stages = []
    for name, pose, fit in METHODS[args.worker].solve(problem, args.first_seed):
        # In KiB, on Linux; what the errors need comes after all stages.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cost = {"seconds": time.monotonic() - began, "peak_memory": peak}
        cost["cpu_seconds"] = time.process_time() - cpu
        stages.append((name or args.worker, pose, fit, cost))
    for name, pose, fit, cost in stages:
        edges, either_sign = problem.landmarks.skeleton.edges, METHODS[name].either_sign
        signs, report = synchronise_signs(np.asarray(pose, np.float64), edges)
        scores = {n: getattr(report, n) for n in ("changed", "bimodality", "split")}
        if fit is not None:
            verdict = judge(fit, report, training_nats=0.0, held_out_nats=None)
            scores["trusted"] = {True: 1.0, None: 0.5, False: 0.0}[verdict.trusted]
        tied = np.concatenate([pose[..., :2], pose[..., 2:] * signs[:, None, None]], -1)
        for suffix, shown in (("", pose), (SYNCHRONISED, tied)):
            found = measure(shown, problem, either_sign=either_sign)
            record = {"protocol": protocol(args), "method": name + suffix}
            record["seed"] = args.first_seed
            append_line(args.runs, record | {"metrics": found | scores | cost})


def table_rows(records: list[dict[str, Any]], case: str) -> list[Row]:
    """Mean and range of every metric of every method."""
    rows = []
    for name in dict.fromkeys(record["method"] for record in records):
        runs = [r["metrics"] for r in records if r["method"] == name]
        for metric, unit in UNITS.items():
            values = [run[metric] for run in runs if metric in run]
            if metric == "coherent" and "flip_fraction" in runs[0]:
                values = [sum(run["flip_fraction"] < COHERENT for run in runs)]
            if values:
                row = mean_row("nrsfm", case, name, metric, unit, values)
                rows.append(dataclasses.replace(row, n=len(runs)))
    return rows


# --- the methods ---------------------------------------------------------------------


def zero_depth(problem: Problem, seed: int) -> Stages:
    """The annotated landmarks in the picture plane."""
    W, _ = problem.landmarks.centred
    yield "", np.concatenate([W, np.zeros_like(W[..., :1])], axis=-1), None


def factorised(problem: Problem, seed: int, *, method: Any) -> Stages:
    """A factorisation; there is nothing random in it."""
    W, _ = problem.landmarks.centred
    yield "", factorisation.camera_frame(*method(W)), None


def deep(problem: Problem, seed: int) -> Stages:
    """The network of Kong and Lucey."""
    W, _ = problem.landmarks.centred
    yield "", deep_nrsfm.solve(W, problem.landmarks.labelled, seed=seed), None


def keys_of(seed: int) -> tuple[jax.Array, jax.Array]:
    """The keys of the EM and of the teacher, the same as in a run of main.py."""
    first, second = jax.random.split(jax.random.key(seed))
    return first, second


def em_pose(
    problem: Problem, seed: int, **changed: Any
) -> tuple[np.ndarray, FitReport]:
    """The annotated landmarks with the depth of the Gaussian shapes."""
    marks, em = problem.landmarks, copy.deepcopy(problem.config.teacher.em)
    em.update(changed)
    options = em_options(em) | {"mirror": mirror_of(marks.skeleton)}
    W, _ = marks.centred
    options |= {"edges": marks.skeleton.edges, "key": keys_of(seed)[0]}
    shapes, report = fit_shapes(W, marks.labelled, **options)
    return expected_pose(shapes, W, marks.labelled)[0], report


def em_alone(problem: Problem, seed: int, **changed: Any) -> Stages:
    """The EM, some of its settings changed."""
    yield "", *em_pose(problem, seed, **changed)


def plain_teacher(problem: Problem, seed: int) -> Stages:
    """Section 3 as published: the published dictionaries and nothing but Eq. 4."""
    W, _ = problem.landmarks.centred
    yield "", teacher_pose(problem, seed, W, PUBLISHED_SIZES), None


def guided_teacher(problem: Problem, seed: int) -> Stages:
    """The recipe of the configs; its EM is the row of that name."""
    first, report = em_pose(problem, seed)
    yield "EM", first, report
    sizes = tuple(problem.config.teacher.dictionary_sizes)
    yield "", teacher_pose(problem, seed, first[..., :2], sizes, first[..., 2]), report


def teacher_pose(
    problem: Problem,
    seed: int,
    W: np.ndarray,
    sizes: tuple[int, ...],
    em_depth: np.ndarray | None = None,
) -> np.ndarray:
    """The own poses of a teacher that is trained on W."""
    marks, settings = problem.landmarks, problem.config.teacher
    objective = objective_of(settings, len(W))
    init_key, key = jax.random.split(keys_of(seed)[1])
    state = loop.init_state(
        init_key,
        num_landmarks=W.shape[1],
        dictionary_sizes=sizes,
        objective=objective,
    )
    state = loop.fit(
        state, W, marks.labelled, key=key, em_depth=em_depth, objective=objective
    )
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
    "Deep-NRSfM": Method(deep, seeds="baseline_seeds", either_sign=True),
    "plain teacher": Method(plain_teacher, either_sign=True),
    "EM, 1 Gaussian": Method(functools.partial(em_alone, components=1)),
    "EM, level camera": Method(
        functools.partial(em_alone, views="upright", elevations_deg=(0.0,), num_yaws=72)
    ),
    "EM": Method(em_alone),
    "teacher": Method(guided_teacher),
}
# Of the usual data sets, and of the classic sequences.
BY_DEFAULT = (
    ("z = 0", "rigid", "low rank", "Deep-NRSfM", "EM", "teacher"),
    ("z = 0", "EM, level camera", "EM", "teacher"),
)


if __name__ == "__main__":
    main()
