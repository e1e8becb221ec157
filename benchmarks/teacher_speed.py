"""Speed of a training step of the teacher, beside the same step in PyTorch.

    python -m benchmarks.teacher_speed [--threads=1] [--rounds=40] [--quick]

A step is forward, gradient and Adam of the network of ``configs/paper.py`` on 17
landmarks: ours as ``nrsfm_jax.loop.fit`` runs it, several steps in one call, including
the choice of the batch; the others with a fixed batch. All methods run in one process
on the same number of threads, in turns. Values are medians with quartiles. ``share of
peak`` is the arithmetic of the step's matrix products over its processor time, as a
share of what a large square float32 product reaches.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import teacher_speed_peers as peers
from benchmarks.common import (
    Row,
    finish,
    in_turns,
    installed,
    limit_threads,
    median_row,
    parse_args,
    peak_flops,
    working,
)
from configs import paper
from nrsfm_jax import loop
from nrsfm_jax.loss import Objective

LANDMARKS = 17
STEPS = 4  # to a measurement


def objective(batch_size: int) -> Objective:
    """The guide's weight and the learning rate stay: what the peers compute."""
    return Objective(
        sparsity_weight=0.005,
        guide_fraction=1.0,
        guide_floor=1.0,
        learning_rate=1e-3,
        steps=10**6,
        batch_size=batch_size,
        ista_steps=1,
        warmup_fraction=0.0,
    )


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


def our_step(batch: peers.Arrays) -> tuple[Callable, Any]:
    """``STEPS`` steps of :func:`loop.fit`; and the parameters they start from."""
    goal = objective(len(batch["W"]))
    state = loop.init_state(
        jax.random.key(0),
        num_landmarks=LANDMARKS,
        dictionary_sizes=dictionary_sizes(),
        objective=goal,
    )
    run = loop.repeated(loop.train_step, goal, num_devices=1)
    shape = (goal.batch_size, STEPS)
    rows = np.random.default_rng(1).integers(0, len(batch["W"]), shape)
    rows, shared = run.shard(rows), run.replicate((batch, jnp.int32(STEPS)))
    holder = [run.replicate(state)]

    def steps() -> Any:
        holder[0], metrics = run(holder[0], rows, shared)
        return jax.block_until_ready(metrics)["loss"]

    return steps, state.params


def methods(batch: peers.Arrays) -> dict[str, Callable]:
    """Every way to make ``STEPS`` steps that is installed here."""
    ours, params = our_step(batch)
    found: dict[str, Callable] = {"ours": ours}
    weight = objective(1).sparsity_weight
    kinds = {"torch eager": False, "torch.compile": True} if installed("torch") else {}
    for name, whole in kinds.items():
        step = peers.torch_step(
            params, batch, compiled=whole, sparsity_weight=weight, rate=1e-3
        )
        found[name] = lambda step=step: [float(step()) for _ in range(STEPS)]
    return found


def step_rows(batch_size: int, *, rounds: int) -> list[Row]:
    """Milliseconds, samples per second, share of the peak and ratio to ours."""
    case = f"batch {batch_size}"
    candidates = working(methods(make_batch(batch_size)))
    timed, best = in_turns(candidates, rounds=rounds), peak_flops()
    rows = []
    for name, (clock, processor) in timed.items():
        seconds = clock / STEPS
        share = 100 * step_flops(batch_size) * STEPS / processor / best
        row = functools.partial(median_row, "teacher_speed", case, name)
        rows += [
            row("step", "ms", 1e3 * seconds),
            row("speed", "samples/s", batch_size / seconds),
            row("share of peak", "%", share),
            row("time against ours", "x", clock / timed["ours"][0]),
        ]
    return rows


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--rounds", type=int, default=40)

    args = parse_args(__doc__, add)
    limit_threads(args.threads)
    rounds = 10 if args.quick else args.rounds
    rows = [row for size in (128, 1024) for row in step_rows(size, rounds=rounds)]
    finish(rows, args.json, spread="median [quartiles]")


if __name__ == "__main__":
    main()
