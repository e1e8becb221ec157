"""A teacher trained on landmarks from disk: its speed against memory, its memory.

    python -m benchmarks.teacher_stream [--samples=1000000] [--threads=1] [--rounds=15]
    python -m benchmarks.teacher_stream --memory [--samples=1000000] [--steps=300]

The first times ``STEPS`` steps of ``stream.fit_stream`` on landmark shards, the start
of its thread and all reading included, against ``STEPS`` steps of the loop of
``train.fit`` on the same samples in memory, in one process and in turns.

``--memory`` runs ``main.py --stage=teacher`` on a folder of N / 10 and on one of N
samples, EM, training, cameras and codes of all samples and evaluation included, and
reports the peak resident memory of each run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common import Row, finish, median_row, parse_args
from benchmarks.teacher_speed import (
    LANDMARKS,
    OBJECTIVE,
    dictionary_sizes,
    in_turns,
    limit_threads,
)
from input_pipeline.landmark_shards import LandmarkWriter, open_split, write_array
from input_pipeline.landmark_shards import ShardedArray as Sharded
from input_pipeline.skeleton import H36M_17
from nrsfm_jax import landmark_folder, stream, train
from runtime.devices import DataParallel

NAME = "teacher_stream"
ROOT = Path(__file__).resolve().parents[1]
STEPS = 100  # to a measurement: as many as between two lines of metrics
PIECE = 50_000


def write_landmarks(folder: Path, count: int) -> None:
    """Random bodies that bend, seen from all around; 1 in 20 landmarks is missing."""
    rng = np.random.default_rng(0)
    rest = rng.normal(size=(LANDMARKS, 3)) * (60, 120, 60)
    bends = rng.normal(size=(6, LANDMARKS, 3)) * 25
    with LandmarkWriter(folder, H36M_17) as writer:
        for split, total in (("val", 1000), ("train", count)):
            for start in range(0, total, PIECE):
                n = min(PIECE, total - start)
                S = rest + np.tensordot(rng.normal(size=(n, 6)), bends, 1)
                yaw = rng.uniform(0, 2 * np.pi, (n, 1))
                x = S[..., 0] * np.cos(yaw) + S[..., 2] * np.sin(yaw)
                keypoints = np.stack([x, S[..., 1]], -1).astype(np.float32) + 500
                labelled = rng.random((n, LANDMARKS)) < 0.95
                labelled[:, :2] = True
                writer.add(split, keypoints, labelled, np.arange(start, start + n))


def open_samples(folder: Path) -> landmark_folder.Split:
    """The training split, with a pose on disk in place of what the EM would expect."""
    records = open_split(folder, "train").records
    path, shape = folder / "pose.npy", (len(records), LANDMARKS, 3)
    parts = landmark_folder.pose_parts(
        records,
        slice(0, len(records)),
        lambda W, labelled: np.concatenate([W, W[..., :1]], -1),
    )
    write_array(path, parts, shape, np.float32)
    return landmark_folder.Split(records, Sharded([path]))


def start_state(objective: Any) -> train.TrainState:
    return train.init_state(
        jax.random.key(0),
        num_landmarks=LANDMARKS,
        dictionary_sizes=dictionary_sizes(),
        population=1,
        objective=objective,
    )


def from_disk(split: landmark_folder.Split, batch_size: int) -> Callable[[], Any]:
    """``STEPS`` steps of ``fit_stream``, from the start again at every call."""
    objective = dataclasses.replace(OBJECTIVE, batch_size=batch_size, steps=STEPS)
    state = start_state(objective)

    def run() -> Any:
        batches = landmark_folder.batches(
            split, batch_size=batch_size, key=jax.random.key(1)
        )
        done = stream.fit_stream(batches, state, objective=objective, chunk=STEPS)
        return jax.block_until_ready(done.params)

    return run


def in_memory(split: landmark_folder.Split, batch_size: int) -> Callable[[], Any]:
    """``STEPS`` steps of the loop of ``fit``."""
    objective = dataclasses.replace(OBJECTIVE, batch_size=batch_size, steps=STEPS)
    bound = functools.partial(train._resident_steps, objective=objective)
    step = DataParallel(bound, mode="jit", devices=jax.devices()[:1])
    slots = step.shard(np.arange(batch_size, dtype=np.int32))
    data, key = step.replicate((split.rows(slice(None)), jax.random.key(1)))
    state = start_state(objective)

    def run() -> Any:
        stop = step.replicate(np.int32(STEPS))
        done, metrics = step(step.replicate(state), slots, (data, stop, key))
        np.asarray(metrics["loss"])
        return jax.block_until_ready(done.params)

    return run


def both_clocks(
    ways: dict[str, Callable[[], Any]], *, rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(rounds,) seconds of each, and seconds of processor, in turns."""
    processor: dict[str, list[float]] = {name: [] for name in ways}

    def clocked(name: str) -> None:
        start = time.process_time()
        ways[name]()
        processor[name].append(time.process_time() - start)

    timed = {name: functools.partial(clocked, name) for name in ways}
    wall = in_turns(timed, rounds=rounds)
    return wall, {name: np.array(values) for name, values in processor.items()}


def speed_rows(count: int, *, rounds: int) -> list[Row]:
    """Both batch sizes, disk against memory."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_landmarks(folder, count)
        split = open_samples(folder)
        for batch_size in (128, 1024):
            ways = {
                "memory": in_memory(split, batch_size),
                "disk": from_disk(split, batch_size),
            }
            for run in ways.values():
                run()
            turns = rounds if batch_size == 128 else max(3, rounds // 3)
            timed, processor = both_clocks(ways, rounds=turns)
            for name, seconds in timed.items():
                case = f"{count} samples, batch {batch_size}"
                row = functools.partial(median_row, NAME, case, name)
                share = seconds / timed["memory"]
                work = processor[name] / processor["memory"]
                rows += [
                    row("step", "ms", 1e3 * seconds / STEPS),
                    row("speed", "samples/s", batch_size * STEPS / seconds),
                    row("time against memory", "x", share),
                    row("processor time against memory", "x", work),
                ]
    return rows


def peak_memory(folder: Path, workdir: Path, steps: int) -> tuple[float, float]:
    """Peak resident MB and seconds of a whole run of ``main.py`` on a folder."""
    command = [
        *(sys.executable, "main.py", "--config=configs/paper.py"),
        *(f"--workdir={workdir}", "--stage=teacher"),
        *("--config.data.name=landmarks", f"--config.data.landmarks={folder}"),
        *(f"--config.teacher.steps={steps}", "--config.teacher.em.components=1"),
    ]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise ValueError(f"{' '.join(command)} ended with status {status}")
    return usage.ru_maxrss / 1024, time.perf_counter() - began


def memory_rows(count: int, *, steps: int) -> list[Row]:
    """The whole run on a tenth of the samples and on all of them."""
    rows = []
    for samples in (count // 10, count):
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory) / "landmarks"
            write_landmarks(folder, samples)
            peak, seconds = peak_memory(folder, Path(directory) / "run", steps)
            files = Path(directory, "run", "teacher").glob("*-of-*.safetensors")
            written = sum(path.stat().st_size for path in files)
        for metric, unit, value in (
            ("peak memory", "MB", peak),
            ("run", "s", seconds),
            ("cameras and codes", "MB", written / 2**20),
        ):
            case = f"{samples} samples"
            rows.append(
                Row(NAME, case, "main.py", metric, value, unit, value, value, 1)
            )
    return rows


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--samples", type=int, default=1_000_000)
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--rounds", type=int, default=15)
        parser.add_argument("--memory", action="store_true")
        parser.add_argument("--steps", type=int, default=300)

    args = parse_args(__doc__, add)
    limit_threads(args.threads)
    count = min(args.samples, 100_000) if args.quick else args.samples
    if args.memory:
        rows = memory_rows(count, steps=args.steps)
    else:
        rows = speed_rows(count, rounds=5 if args.quick else args.rounds)
    finish(rows, args.json, spread="median [quartiles]")


if __name__ == "__main__":
    main()
