"""Speed and memory of the distillation loss (Eq. 14) with its gradient in the depth.

    python -m benchmarks.loss_speed [--threads=1] [--rounds=20] [--quick]

17 landmarks, 256 atoms, random unit dictionary and sparse codes. Ours: ``gram`` starts
from dictionary and cameras and never rotates the dictionary; ``prepared`` has B_z^+ of
every sample ready; ``Cholesky`` is ``losses.distillation_loss`` as it stands, mapped.
The others: Eq. 13 by a pseudo-inverse, in JAX, and both forms in PyTorch, where it is
installed. ``B given`` starts from rotated dictionaries, 52 kB a sample that somebody
has to keep; the rest forms them anew, as far as it needs them at all.

All run in one process on the same threads, in turns, a round giving each of them one
measurement; figures are medians with the quartiles. The ratio is taken round by round
against ``gram``, in processor time of the whole process, which other programs disturb
less than the clock. ``memory`` is what the compiled program allocates besides its
arguments and results, per sample, for 256 and for 1024 atoms.

Eq. 10, the exact minimum that Eq. 14 bounds, is timed on a few samples with cvxpy and
Clarabel (``solver`` is Clarabel's own time) and with ``losses.min_code_cost``.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import losses
from benchmarks.common import Row, finish, median_row, parse_args
from benchmarks.teacher_speed import limit_threads

NAME = "loss_speed"
CODE_L1_WEIGHT = 0.3
LOSS, PREPARED_LOSS, GRAM_LOSS, MINIMUM = (
    functools.partial(loss, code_l1_weight=CODE_L1_WEIGHT)
    for loss in (
        losses.distillation_loss,
        losses.prepared_distillation_loss,
        losses.gram_distillation_loss,
        losses.min_code_cost,
    )
)
LANDMARKS, ATOMS, MORE_ATOMS = 17, 256, 1024
Z, EVERY = 0, (0, 0, 0, 0, None, None)


class Samples(NamedTuple):
    """N samples and what they share, in the paper's letters."""

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


def rotated(samples: Samples) -> tuple[jax.Array, jax.Array]:
    """(N, 2P, K) and (N, P, K) dictionaries of all cameras."""
    return jax.jit(jax.vmap(losses.split_dictionary, (None, 0)))(samples.D, samples.M)


def cholesky_loss(z: Any, phi: Any, M: Any, w: Any, D: Any) -> jax.Array:
    """Eq. 14 as it stands."""
    return LOSS(z, phi, *losses.split_dictionary(D, M), w)


def pinv_loss(z: Any, phi: Any, M: Any, w: Any, D: Any) -> jax.Array:
    """Eq. 14 with the pseudo-inverse of Eq. 13 by singular values."""
    B_xy, B_z = losses.split_dictionary(D, M)
    moved = phi + jnp.linalg.pinv(B_z) @ (z - B_z @ phi)
    return losses.code_cost(moved, B_xy, w, code_l1_weight=CODE_L1_WEIGHT)


def compiled(loss: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Any:
    """Values and gradients in the depth of a batch."""
    return jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes))


def jax_methods(samples: Samples) -> dict[str, Callable[[], Any]]:
    """Each returns the (N,) losses and their (N, P) gradients."""
    gram = jax.jit(losses.dictionary_gram)(samples.D)
    B_xy, B_z = rotated(samples)
    ready = jax.jit(jax.vmap(losses.prepare))(samples.phi, B_xy, B_z, samples.w)
    given = samples.z_hyp, samples.phi, B_xy, B_z, samples.w
    calls = {
        "gram": (GRAM_LOSS, EVERY, (*samples, gram)),
        "prepared": (PREPARED_LOSS, (0, 0), (given[Z], ready)),
        "Cholesky": (cholesky_loss, EVERY[:5], samples),
        "Cholesky, B given": (LOSS, (0,) * 5, given),
        "pinv": (pinv_loss, EVERY[:5], samples),
    }

    def bind(loss: Any, in_axes: Any, arguments: Any) -> Callable[[], Any]:
        run = compiled(loss, in_axes)
        return lambda: jax.block_until_ready(run(*arguments))

    return {name: bind(*call) for name, call in calls.items()}


def torch_methods(samples: Samples) -> dict[str, Callable[[], Any]]:
    """The same in PyTorch; empty where it is not installed."""
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    def tensor(x: jax.Array) -> Any:
        return torch.from_numpy(np.array(x))

    z, phi, M, w, D = (tensor(x) for x in samples)
    planes = D.reshape(LANDMARKS, 3, -1)
    ready = tuple(tensor(x) for x in rotated(samples))
    identity = torch.eye(LANDMARKS)

    def rotate() -> tuple[Any, Any]:
        axis = torch.linalg.cross(M[..., 0], M[..., 1])
        B_xy = torch.einsum("pck,nca->npak", planes, M).flatten(1, 2)
        return B_xy, torch.einsum("pck,nc->npk", planes, axis)

    def multiply(matrix: Any, vector: Any) -> Any:
        return (matrix @ vector[..., None])[..., 0]

    def move(B_z: Any, change: Any, *, pinv: bool) -> Any:
        if pinv:
            return multiply(torch.linalg.pinv(B_z), change)
        gram = B_z @ B_z.mT
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        factor = torch.linalg.cholesky(gram + 1e-6 * trace * identity)
        return multiply(B_z.mT, torch.cholesky_solve(change[..., None], factor)[..., 0])

    def run(*, pinv: bool = False, given: bool = False) -> tuple[Any, Any]:
        depth = z.clone().requires_grad_()
        B_xy, B_z = ready if given else rotate()
        moved = phi + move(B_z, depth - multiply(B_z, phi), pinv=pinv)
        value = (multiply(B_xy, moved) - w).norm(dim=-1)
        value = value + CODE_L1_WEIGHT * moved.abs().sum(-1)
        value.sum().backward()
        return value.detach(), depth.grad

    return {
        "torch Cholesky": run,
        "torch Cholesky, B given": functools.partial(run, given=True),
        "torch pinv": functools.partial(run, pinv=True),
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
        row = functools.partial(median_row, NAME, f"batch {batch_size}", name)
        rows.append(row("clock", "ms", 1e3 * clock))
        rows.append(row("processor", "ms", 1e3 * processor))
        rows.append(row("against gram", "x", processor / timed["gram"][1]))
    return rows


def in_turns(
    candidates: dict[str, Callable[[], Any]], *, rounds: int
) -> dict[str, np.ndarray]:
    """(2, rounds) clock and processor seconds; a random order in every round."""
    rng = np.random.default_rng(0)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name in rng.permutation(list(candidates)):
            clock, processor = time.perf_counter(), time.process_time()
            candidates[name]()
            now = time.perf_counter(), time.process_time()
            spent[name].append((now[0] - clock, now[1] - processor))
    return {name: np.array(values).T for name, values in spent.items()}


def temporary_bytes(name: str, batch_size: int, atoms: int) -> float:
    """What the compiled program of ``gram`` or ``Cholesky`` allocates, per sample."""
    p, f32 = LANDMARKS, jnp.float32
    shapes = [(p,), (atoms,), (3, 2), (2 * p,)]
    of_samples = [jax.ShapeDtypeStruct((batch_size, *s), f32) for s in shapes]
    shared = [jax.ShapeDtypeStruct(s, f32) for s in ((3 * p, atoms), (3 * p, 3 * p))]
    if name == "gram":
        run = compiled(GRAM_LOSS, EVERY)
        lowered = run.lower(*of_samples, *shared)
    else:
        lowered = compiled(cholesky_loss, EVERY[:5]).lower(*of_samples, shared[0])
    return lowered.compile().memory_analysis().temp_size_in_bytes / batch_size


def memory_rows(batch_size: int) -> list[Row]:
    """Bytes per sample with 256 and with 1024 atoms."""
    rows = []
    for name in ("gram", "Cholesky"):
        for atoms in (ATOMS, MORE_ATOMS):
            size = temporary_bytes(name, batch_size, atoms) / 1e3
            case = f"batch {batch_size}"
            rows.append(
                median_row(NAME, case, name, f"memory, K={atoms}", "kB", [size])
            )
    return rows


def exact_rows(count: int) -> list[Row]:
    """Milliseconds a sample of the exact minimum of Eq. 10."""
    samples = make_samples(count, seed=1)
    B_xy, B_z = rotated(samples)
    given = samples.z_hyp, samples.phi, B_xy, B_z, samples.w
    minimum = jax.jit(MINIMUM)
    jax.block_until_ready(minimum(*(x[0] for x in given)))
    times: dict[str, list[float]] = {"cvxpy": [], "solver": [], "min_code_cost": []}
    for one in zip(*given, strict=True):
        start = time.perf_counter()
        cost, gap = jax.block_until_ready(minimum(*one))
        times["min_code_cost"].append(time.perf_counter() - start)
        value, whole, solver = solve_exactly(*(np.asarray(x, np.float64) for x in one))
        times["cvxpy"].append(whole)
        times["solver"].append(solver)
        if not cost - gap - 1e-3 <= value <= cost + 1e-3:
            raise ValueError(f"Clarabel finds {value}, min_code_cost {cost} (-{gap})")
    case = "Eq. 10, one sample"
    return [
        median_row(NAME, case, name, "exact minimum", "ms", 1e3 * np.array(seconds))
        for name, seconds in times.items()
    ]


def solve_exactly(
    z: np.ndarray, phi: np.ndarray, B_xy: np.ndarray, B_z: np.ndarray, w: np.ndarray
) -> tuple[float, float, float]:
    """Eq. 10 by a generic solver: the minimum, its seconds, and Clarabel's own."""
    import cvxpy as cp

    start = time.perf_counter()
    code = cp.Variable(len(phi))
    cost = cp.norm2(B_xy @ code - w) + CODE_L1_WEIGHT * cp.norm1(code)
    problem = cp.Problem(cp.Minimize(cost), [B_z @ code == z])
    problem.solve(solver=cp.CLARABEL)
    seconds = time.perf_counter() - start
    stats: Any = problem.solver_stats
    value: Any = problem.value
    return float(value), seconds, float(stats.solve_time)


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--rounds", type=int, default=20)

    args = parse_args(__doc__, add)
    limit_threads(args.threads)
    if not importlib.util.find_spec("torch"):
        print("torch is not installed: not timed")
    rounds = 5 if args.quick else args.rounds
    rows = []
    for batch_size in (32, 1024) if args.quick else (32, 1024, 4096):
        rows += speed_rows(batch_size, rounds=rounds)
    rows += memory_rows(1024)
    rows += exact_rows(3 if args.quick else 8)
    finish(rows, args.json, spread="median [quartiles]")


if __name__ == "__main__":
    main()
