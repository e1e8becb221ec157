"""Speed of a training step of the teacher, beside the same step in other libraries.

    python -m benchmarks.teacher_speed [--threads=1] [--rounds=40] [--quick]

A step is forward, gradient and Adam of the network of ``configs/paper.py`` on 17
landmarks: ours as ``nrsfm_jax.train.fit`` runs it, several to a call, the choice of
the batch included; the others on a batch that stays where it is. All methods run in
one process on the same number of threads, in turns: a round gives each of them one
measurement, so that whatever else the machine does meets all alike. Figures are
medians with the quartiles. ``share of peak`` is the arithmetic of the step's matrix
products over its time, as a share of what a large square float32 product reached in
the same turns. PyTorch and TensorFlow are timed where they are installed; neither is
a requirement. ``population`` is one step of 16 teachers in one program, ``cost`` its
time in steps of one teacher.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks import teacher_speed_peers as peers
from benchmarks.common import Row, finish, median_row, parse_args
from configs import paper
from nrsfm_jax import train
from nrsfm_jax.loss import Objective
from runtime.devices import DataParallel

NAME = "teacher_speed"
LANDMARKS, POPULATION, SQUARE = 17, 16, 2048
STEPS = 4  # to a measurement
# The guide's weight stays 1: what the peers compute.
OBJECTIVE = Objective(
    steps=10**6, guide_floor=1.0, learning_rate=1e-3, warmup_fraction=0.0
)
Timed = Mapping[str, Callable[[], Any]]


def dictionary_sizes() -> tuple[int, ...]:
    config: Any = paper.get_config()
    return tuple(config.teacher.dictionary_sizes)


def step_flops(batch_size: int) -> int:
    """Multiplications and additions of the products of a step, gradients included.

    Per sample the six cells of the camera pass every layer once, the code twice. The
    gradient of a product costs two more; that of the landmarks is not formed.
    """
    sizes = (3 * LANDMARKS, *dictionary_sizes())
    layers = [a * b for a, b in itertools.pairwise(sizes)]
    blocks, deeper = 2 * 2 * layers[0], sum(layers[1:])
    return batch_size * (2 * blocks + 3 * 2 * (6 * deeper + 2 * (layers[0] + deeper)))


def make_batch(size: int) -> peers.Arrays:
    """Landmarks of random rigid-like bodies: only their sizes matter to a timing."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(size, LANDMARKS, 2)).astype(np.float32) * 0.4
    z = rng.normal(size=(size, LANDMARKS)).astype(np.float32) * 0.3
    W -= W.mean(1, keepdims=True)
    return {"W": W, "labelled": np.ones(z.shape, bool), "em_depth": z}


def our_step(
    batch: peers.Arrays, population: int = 1, batch_size: int = 0
) -> tuple[Callable, Any]:
    """``STEPS`` steps of :func:`train.fit`; and the parameters they start from."""
    batch_size = batch_size or len(batch["W"])
    objective = dataclasses.replace(OBJECTIVE, batch_size=batch_size)
    state = train.init_state(
        jax.random.key(0),
        num_landmarks=LANDMARKS,
        dictionary_sizes=dictionary_sizes(),
        population=population,
        objective=objective,
    )
    bound = functools.partial(train._resident_steps, objective=objective)
    run = DataParallel(bound, mode="jit", devices=jax.devices()[:1])
    slots = run.shard(np.arange(objective.batch_size, dtype=np.int32))
    data, key = run.replicate((batch, jax.random.key(1)))
    holder = [run.replicate(state)]

    def steps() -> Any:
        shared = data, holder[0].step + STEPS, key
        holder[0], metrics = run(holder[0], slots, shared)
        return jax.block_until_ready(metrics)["loss"]

    return steps, jax.tree.map(lambda x: x[0], state.params)


def repeated(step: Callable) -> Callable[[], None]:
    """``STEPS`` steps of a peer."""

    def steps() -> None:
        for _ in range(STEPS):
            step()

    return steps


def methods(batch: peers.Arrays, *, tensorflow: bool = True) -> dict[str, Callable]:
    """Every way to make the step that is installed here."""
    ours, params = our_step(batch)
    options = {"sparsity_weight": OBJECTIVE.sparsity_weight, "rate": 1e-3}
    found: dict[str, Callable] = {"ours": ours}
    if importlib.util.find_spec("torch"):
        for name, compiled in (("torch eager", False), ("torch.compile", True)):
            step, _ = peers.torch_step(params, batch, compiled=compiled, **options)
            found[name] = repeated(step)
    if tensorflow and importlib.util.find_spec("tensorflow"):
        for name, conv in (("tf.function", False), ("tf.function, conv.", True)):
            step, _ = peers.tensorflow_step(params, batch, convolutions=conv, **options)
            found[name] = repeated(lambda step=step: step().numpy())
    return found


def working(candidates: Timed) -> dict[str, Callable]:
    """Those that get through a first call; why the others do not is printed."""
    kept = {}
    for name, step in candidates.items():
        try:
            step()
        except Exception as error:  # whatever a compiler of another library raises
            line = (str(error).strip() or repr(error)).splitlines()[0]
            print(f"{name} is left out: {line[:120]}")
            continue
        kept[name] = step
    return kept


def in_turns(candidates: Timed, *, rounds: int) -> dict[str, np.ndarray]:
    """(rounds,) seconds of each call; a random order in every round."""
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name in rng.permutation(list(candidates)):
            start = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def square_product() -> Callable[[], Any]:
    """The best float32 product of two large matrices that is at hand: NumPy's."""
    matrix = np.random.default_rng(0).normal(size=(SQUARE, SQUARE)).astype(np.float32)
    return lambda: matrix @ matrix


def step_rows(batch_size: int, *, rounds: int) -> list[Row]:
    """Milliseconds, samples per second, share of the peak and ratio to ours."""
    case = f"batch {batch_size}"
    peak = {"product": square_product()}
    timed = in_turns(working(methods(make_batch(batch_size))) | peak, rounds=rounds)
    best = 2 * SQUARE**3 / np.median(timed.pop("product"))
    timed = {name: seconds / STEPS for name, seconds in timed.items()}
    rows = []
    for name, seconds in timed.items():
        row = functools.partial(median_row, NAME, case, name)
        share = 100 * step_flops(batch_size) / seconds / best
        rows += [
            row("step", "ms", 1e3 * seconds),
            row("speed", "samples/s", batch_size / seconds),
            row("share of peak", "%", share),
            row("time against ours", "x", seconds / timed["ours"]),
        ]
    print(f"{case}: a product of {SQUARE}^3 reaches {best / 1e9:.1f} GFLOP/s")
    return rows


def population_rows(batch_size: int, *, rounds: int) -> list[Row]:
    """What ``POPULATION`` restarts in one program cost, in steps of one."""
    batch = make_batch(batch_size)
    steps = {str(n): our_step(batch, n)[0] for n in (1, POPULATION)}
    timed = in_turns(working(steps), rounds=rounds)
    one, many = (timed[name] / STEPS for name in steps)
    row = functools.partial(
        median_row, NAME, f"batch {batch_size}", f"population {POPULATION}"
    )
    return [row("step", "ms", 1e3 * many), row("cost", "steps of one", many / one)]


def limit_threads(count: int) -> None:
    """The same number of threads for every library.

    They look at the cores when they are imported, so the program starts once more.
    """
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise ValueError(f"--threads={count}, but this process may use {len(cores)}")
    if count < len(cores):
        os.sched_setaffinity(0, cores[:count])
        again = [sys.executable, *sys.orig_argv[1:]]
        os.execv(sys.executable, again)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch").set_num_threads(count)


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--rounds", type=int, default=40)

    args = parse_args(__doc__, add)
    rounds = 10 if args.quick else args.rounds
    limit_threads(args.threads)
    finish(all_step_rows(rounds=rounds), args.json, spread="median [quartiles]")


def all_step_rows(*, rounds: int) -> list[Row]:
    """Both batch sizes, and the population."""
    for name in ("torch", "tensorflow"):
        if not importlib.util.find_spec(name):
            print(f"{name} is not installed: not timed")
    rows = []
    for batch_size in (128, 1024):
        rows += step_rows(batch_size, rounds=rounds)
    return rows + population_rows(128, rounds=max(3, rounds // 4))


if __name__ == "__main__":
    main()
