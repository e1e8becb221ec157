"""The four classic NRSfM sequences, in the metric of Dai et al. (IJCV 2014).

Called by ``benchmarks/nrsfm.py --dataset=classic``; the settings are those of
``configs/classic.py``. The camera of these sequences turns about the vertical, five
degrees a frame: the views' prior says "level, any yaw" (72 even ones), and the order of
the frames is not used. The published methods assume no such axis; the row with a free
grid of rotations assumes none either.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common import DATA, Row, append_line, finish, run_jobs, summarise
from configs import classic as config_of_a_sequence
from input_pipeline.dataset import open_dataset
from input_pipeline.ground_truth import read_ground_truth
from input_pipeline.landmarks import read_landmarks
from losses.metrics import dai_error
from nrsfm_jax import train
from nrsfm_jax.em import em_options, expected_pose, fit_shapes

# Published by Dai et al., for the block matrix method.
PUBLISHED = {"drink": 0.0266, "pickup": 0.1731, "yoga": 0.1150, "stretch": 0.1034}
UNITS = {"error": "", "seconds": "s", "peak_memory": "MiB"}
METHODS = ("z = 0", "EM, free rotation", "EM", "teacher")
COLUMNS = """\
error: mean distance of the points after one rotation or reflection of all frames,
  over the standard deviation of a frame's points along an axis (Dai et al. 2014)
z = 0, EM: the landmarks given, depth alone is estimated; teacher: its own poses
seconds, peak memory: of the fit; of the whole process"""


def table(args: argparse.Namespace) -> None:
    """Every method on every sequence, beside the published errors."""
    rows: list[Row] = []
    chosen = args.method or METHODS
    unknown = sorted(set(chosen) - set(METHODS))
    if unknown:
        sys.exit(f"error: no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    for name, published in PUBLISHED.items():
        rows.append(summarise("nrsfm", name, "published", "error", "", [published]))
        wanted = [
            (method, args.first_seed + i)
            for method in chosen
            for i in range(1 if method == "z = 0" else args.seeds)
        ]
        records = run_jobs(
            Path(__file__).with_name("nrsfm.py"),
            _protocol(args, name),
            wanted,
            args.runs,
            jobs=args.jobs,
        )
        for method in dict.fromkeys(record["method"] for record in records):
            runs = [r["metrics"] for r in records if r["method"] == method]
            for metric, unit in UNITS.items():
                values = [run[metric] for run in runs]
                rows.append(summarise("nrsfm", name, method, metric, unit, values))
    finish(rows, args.json, footer=COLUMNS)


def _protocol(args: argparse.Namespace, sequence: str) -> dict[str, Any]:
    return {
        "dataset": "classic",
        "sequence": sequence,
        "data": str(args.data or ""),
        "steps": args.steps,
    }


def work(args: argparse.Namespace) -> None:
    """One method with one seed on one sequence; the result is appended to the file."""
    config = sequence_config(args.data or DATA / "nrsfm_classic.npz", args.sequence)
    config.seed = args.first_seed
    if args.steps:
        config.teacher.steps = args.steps
    began = time.monotonic()
    error = solve(args.worker, config)
    cost = {
        "seconds": time.monotonic() - began,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    record = {
        "protocol": _protocol(args, args.sequence),
        "method": args.worker,
        "seed": args.first_seed,
        "metrics": {"error": error} | cost,
    }
    append_line(args.runs, record)


def sequence_config(path: Path, sequence: str) -> Any:
    """``configs/classic.py`` for one sequence of a file."""
    config: Any = config_of_a_sequence.get_config()
    config.data.mocap_file, config.data.sequence = str(path), sequence
    return config


def solve(method: str, config: Any) -> float:
    """The error of one method."""
    if method == "teacher":
        # The progress of a run is not part of the table.
        with (
            tempfile.TemporaryDirectory() as workdir,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            results = train.train_and_evaluate(
                config, workdir, open_dataset(config.data)
            )
        return results["train"]["dai_error"]
    if method == "EM, free rotation":
        config.teacher.em.views = "free"
    landmarks = read_landmarks(config.data, "train")
    W, _ = landmarks.centred
    if method == "z = 0":
        pose = np.concatenate([W, np.zeros_like(W[..., :1])], axis=-1)
    else:
        key = jax.random.split(jax.random.key(config.seed))[0]
        shape = fit_shapes(W, key=key, **em_options(config.teacher.em))
        pose = expected_pose(shape, W, chunk=256)[0]
    truth = read_ground_truth(config.data, "train")
    assert truth is not None  # a sequence comes with its 3D
    return dai_error(pose * landmarks.half_side[:, None, None], truth.positions_mm)
