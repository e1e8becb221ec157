"""Speed and memory of the distillation loss (Eq. 14) with its gradient in the depth.

    python -m benchmarks.loss_speed [--threads=1] [--rounds=20] [--quick]

17 landmarks, 256 atoms, random unit dictionary and sparse codes. ``gram``, ours, starts
from dictionary and cameras and never rotates the dictionary; ``Cholesky`` is
``losses.distillation_loss`` as it stands, mapped; ``pinv`` is Eq. 13 by a
pseudo-inverse; the last two also in PyTorch, where it is installed.

All run in one process on the same threads, in turns. Values are medians with quartiles.
The ratio to ``gram`` is computed for each round, in processor time, which other
programs disturb less than wall time. ``memory`` is what the compiled program allocates
besides its arguments and results, per sample, for 256 and for 1024 atoms.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import losses
from benchmarks.common import (
    Row,
    finish,
    in_turns,
    installed,
    limit_threads,
    median_row,
    parse_args,
)

LANDMARKS, ATOMS, MORE_ATOMS, WEIGHT = 17, 256, 1024, 0.3
row_of = functools.partial(median_row, "loss_speed")


class Samples(NamedTuple):
    """N samples and the dictionary they share, in the paper's letters."""

    z_hyp: jax.Array
    phi: jax.Array
    M: jax.Array
    w: jax.Array
    D: jax.Array


def make_samples(count: int, *, atoms: int = ATOMS, seed: int = 0) -> Samples:
    """Sparse codes of a random dictionary, seen by random cameras, with noise."""
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(3 * LANDMARKS, atoms))
    D /= np.linalg.norm(D, axis=0)
    phi = rng.uniform(0.2, 1.0, (count, atoms)) * (rng.random((count, atoms)) < 0.05)
    R = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    R[..., 2] = np.cross(R[..., 0], R[..., 1])
    seen = (phi @ D.T).reshape(count, LANDMARKS, 3) @ R
    seen += rng.normal(size=seen.shape) * (0.05, 0.05, 0.2)
    arrays = seen[..., 2], phi, R[..., :2], seen[..., :2].reshape(count, -1), D
    return Samples(*(jnp.asarray(x, jnp.float32) for x in arrays))


def gram_loss(z: Any, phi: Any, M: Any, w: Any, D: Any, gram: Any) -> jax.Array:
    """Eq. 14 by the Gram matrix of the dictionary."""
    return losses.gram_distillation_loss(z, phi, M, w, D, gram, code_l1_weight=WEIGHT)


def cholesky_loss(z: Any, phi: Any, M: Any, w: Any, D: Any, _: Any) -> jax.Array:
    """Eq. 14 as it stands."""
    B_xy, B_z = losses.split_dictionary(D, M)
    return losses.distillation_loss(z, phi, B_xy, B_z, w, code_l1_weight=WEIGHT)


def pinv_loss(z: Any, phi: Any, M: Any, w: Any, D: Any, _: Any) -> jax.Array:
    """Eq. 14 with the pseudo-inverse of Eq. 13 by singular values."""
    B_xy, B_z = losses.split_dictionary(D, M)
    moved = phi + jnp.linalg.pinv(B_z) @ (z - B_z @ phi)
    return losses.code_cost(moved, B_xy, w, code_l1_weight=WEIGHT)


LOSSES = {"gram": gram_loss, "Cholesky": cholesky_loss, "pinv": pinv_loss}


def compiled(loss: Callable[..., Any]) -> Any:
    """Values and gradients in the depth of a batch."""
    return jax.jit(jax.vmap(jax.value_and_grad(loss), (0, 0, 0, 0, None, None)))


def jax_methods(samples: Samples) -> dict[str, Callable[[], Any]]:
    """Each returns the (N,) losses and their (N, P) gradients."""
    gram = jax.jit(losses.dictionary_gram)(samples.D)

    runs = {name: compiled(loss) for name, loss in LOSSES.items()}
    return {
        name: lambda run=run: jax.block_until_ready(run(*samples, gram))
        for name, run in runs.items()
    }


def torch_methods(samples: Samples) -> dict[str, Callable[[], Any]]:
    """The same in PyTorch; empty where it is not installed."""
    if not installed("torch"):
        return {}
    import torch

    z, phi, M, w, D = (torch.from_numpy(np.array(x)) for x in samples)
    planes, identity = D.reshape(LANDMARKS, 3, -1), torch.eye(LANDMARKS)

    def multiply(matrix: Any, vector: Any) -> Any:
        return (matrix @ vector[..., None])[..., 0]

    def pinv(B_z: Any, change: Any) -> Any:
        return multiply(torch.linalg.pinv(B_z), change)

    def cholesky(B_z: Any, change: Any) -> Any:
        gram = B_z @ B_z.mT
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        factor = torch.linalg.cholesky(gram + 1e-6 * trace * identity)
        return multiply(B_z.mT, torch.cholesky_solve(change[..., None], factor)[..., 0])

    def run(solve: Callable[..., Any]) -> tuple[Any, Any]:
        depth = z.clone().requires_grad_()
        B_xy = torch.einsum("pck,nca->npak", planes, M).flatten(1, 2)
        axis = torch.linalg.cross(M[..., 0], M[..., 1])
        B_z = torch.einsum("pck,nc->npk", planes, axis)
        moved = phi + solve(B_z, depth - multiply(B_z, phi))
        error = (multiply(B_xy, moved) - w).norm(dim=-1)
        value = error + WEIGHT * moved.abs().sum(-1)
        value.sum().backward()
        return value.detach(), depth.grad

    return {
        "torch Cholesky": functools.partial(run, cholesky),
        "torch pinv": functools.partial(run, pinv),
    }


def speed_rows(batch_size: int, *, rounds: int) -> list[Row]:
    """Milliseconds of a batch, and each method's time over that of ``gram``."""
    samples = make_samples(batch_size)
    methods = jax_methods(samples) | torch_methods(samples)
    for step in methods.values():
        step()  # compiled here
    timed = in_turns(methods, rounds=rounds)
    rows = []
    for name, (clock, processor) in timed.items():
        row = functools.partial(row_of, f"batch {batch_size}", name)
        rows.append(row("clock", "ms", 1e3 * clock))
        rows.append(row("processor", "ms", 1e3 * processor))
        rows.append(row("against gram", "x", processor / timed["gram"][1]))
    return rows


def temporary_bytes(name: str, batch_size: int, atoms: int) -> float:
    """What the compiled program of a loss allocates, per sample."""
    samples = jax.eval_shape(lambda: make_samples(batch_size, atoms=atoms))
    gram = jax.eval_shape(losses.dictionary_gram, samples.D)
    program = compiled(LOSSES[name]).lower(*samples, gram).compile()
    return program.memory_analysis().temp_size_in_bytes / batch_size


def memory_rows(batch_size: int) -> list[Row]:
    """Bytes per sample with 256 and with 1024 atoms."""
    rows = []
    for name, atoms in itertools.product(("gram", "Cholesky"), (ATOMS, MORE_ATOMS)):
        kilobytes = [temporary_bytes(name, batch_size, atoms) / 1e3]
        case, metric = f"batch {batch_size}", f"memory, K={atoms}"
        rows.append(row_of(case, name, metric, "kB", kilobytes))
    return rows


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--rounds", type=int, default=20)

    args = parse_args(__doc__, add)
    limit_threads(args.threads)
    rows = []
    for batch_size in (32, 1024) if args.quick else (32, 1024, 4096):
        rows += speed_rows(batch_size, rounds=5 if args.quick else args.rounds)
    rows += memory_rows(1024)
    finish(rows, args.json, spread="median [quartiles]")


if __name__ == "__main__":
    main()
