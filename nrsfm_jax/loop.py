"""The teacher's training loop: arrays in, parameters out; no files, no config."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from losses.reprojection import reprojection_loss
from nrsfm_jax import fast, model
from nrsfm_jax.loss import Objective, em_difference
from nrsfm_jax.model import Params
from runtime.devices import AXIS, DataParallel

Batch = Mapping[str, Any]
METRICS = ("loss", "em_difference", "gradient_norm")
# More than this stays where it is; every chunk of steps takes the rows it needs.
RESIDENT_BYTES = 2**30
# On a CPU a batch is taken in pieces whose activations stay in a core's cache: these
# sizes. In one piece, 1024 samples take 1.2 times as long.
PIECE_SIZES = range(128, 31, -1)
# Called after every chunk of steps with the state (one copy) and its mean metrics.
AfterChunk = Callable[["TrainState", dict[str, float]], None]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "opt_state", "step"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step changes. No shapes: under pmap an axis of the devices leads."""

    params: Params
    opt_state: Any
    step: Any


class NonFiniteLoss(ValueError):
    """The loss became NaN or infinite."""


def init_state(
    key: Key[Array, ""],
    *,
    num_landmarks: int,
    dictionary_sizes: Sequence[int],
    objective: Objective,
) -> TrainState:
    """Random parameters and an optimizer that has seen nothing."""
    params = model.init(
        jax.random.fold_in(key, 0),
        num_landmarks=num_landmarks,
        dictionary_sizes=dictionary_sizes,
    )
    return TrainState(
        params, objective.optimizer.init(params), jnp.zeros((), jnp.int32)
    )


def train_step(
    state: TrainState, batch: Batch, *, objective: Objective
) -> tuple[TrainState, dict[str, Array]]:
    """One step on this device's part of a batch; equal on all devices afterwards.

    Descends the mean of Eq. 4 + guide * :func:`em_difference`, on a CPU in the layout
    that it multiplies fastest (`fast`).
    """
    guide, cpu = objective.guide_at(state.step), jax.default_backend() == "cpu"

    def mean_loss(params: Params, part: Batch) -> tuple[Array, dict[str, Array]]:
        weight, ista_steps = objective.sparsity_weight, objective.ista_steps
        W, labelled, em_depth = part["W"], part["labelled"], part["em_depth"]
        if cpu and ista_steps == 1:
            terms = fast.sample_losses(
                params, W, labelled, em_depth, sparsity_weight=weight
            )
        else:
            one = functools.partial(model.reconstruct, params, ista_steps=ista_steps)
            phi, M, S = jax.vmap(one)(W)
            _, phi = model.unit_norm_gauge(params["dictionaries"][0], phi)
            eq_4 = functools.partial(reprojection_loss, sparsity_weight=weight)
            terms = (
                jax.vmap(eq_4)(S, M, W, phi, labelled=labelled),
                jax.vmap(em_difference)(S, M, em_depth),
            )
        loss, difference = map(jnp.mean, terms)
        metrics = {"loss": loss, "em_difference": difference}
        return loss + guide * difference, metrics

    gradient = functools.partial(jax.grad(mean_loss, has_aux=True), state.params)
    found = _by_pieces(gradient, batch) if cpu else gradient(batch)
    gradients, metrics = jax.lax.pmean(found, axis_name=AXIS)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    # Adam of optax raises a Python float to an integer count.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = objective.optimizer.update(gradients, state.opt_state)
    params = cast(Params, optax.apply_updates(state.params, updates))
    return TrainState(params, opt_state, state.step + 1), metrics


def _by_pieces(function: Callable[[Batch], Any], batch: Batch) -> Any:
    """Mean of ``function`` over pieces of a batch, one after the other."""
    size = len(batch["W"])
    piece = next((n for n in PIECE_SIZES if size % n == 0), size)
    if size <= PIECE_SIZES[0] or piece == size:
        return function(batch)
    pieces = {k: v.reshape(-1, piece, *v.shape[1:]) for k, v in batch.items()}
    parts = jax.lax.map(function, pieces)
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), parts)


@functools.lru_cache(maxsize=8)
def repeated(
    step: Callable[..., Any], objective: Objective, num_devices: int
) -> DataParallel:
    """``step`` several times in one call, placed on devices.

    One program for each set of hyper-parameters, however often it is fitted. It takes
    the state, the rows (b, steps) of each step and (the arrays, how many of the steps
    to make), and returns the state and the mean metrics.
    """

    def chunk(state: TrainState, rows: Any, shared: Any) -> Any:
        data, count = shared

        def body(i, carry):
            state, total = carry
            batch = {name: values[rows[:, i]] for name, values in data.items()}
            state, metrics = step(state, batch, objective=objective)
            return state, jax.tree.map(jnp.add, total, metrics)

        zero = {name: jnp.zeros(()) for name in METRICS}
        # A loop whose end is an argument: chunks of any length share one program.
        state, total = jax.lax.fori_loop(0, count, body, (state, zero))
        return state, jax.tree.map(lambda x: x / count.astype(x.dtype), total)

    return DataParallel(
        chunk,
        num_devices=num_devices,
        batch_size=objective.batch_size // jax.process_count(),
    )


@functools.partial(jax.jit, static_argnames=("steps", "batch_size"))
def draw_rows(
    key: Key[Array, ""],
    first: Int[Array, ""] | int,
    count: Int[Array, ""] | int,
    *,
    steps: int,
    batch_size: int,
) -> Int[Array, "steps b"]:
    """Rows 0..count-1 of the batches of some steps: uniform, with replacement.

    Those of a step depend on ``key`` and the step alone, so that a run that starts
    again takes the same.
    """

    def one(step):
        of_step = jax.random.fold_in(key, step)
        return jax.random.randint(of_step, (batch_size,), 0, count)

    return jax.vmap(one)(first + jnp.arange(steps))


def fit(
    state: TrainState,
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    *,
    key: Key[Array, ""],
    objective: Objective,
    em_depth: Float[np.ndarray, "n p"] | None = None,
    chunk: int = 100,
    after_chunk: AfterChunk | None = None,
    num_devices: int = 1,
) -> TrainState:
    """Trains a teacher from ``state`` to the last step of ``objective``.

    Arrays up to ``RESIDENT_BYTES`` lie on the device. Of larger ones, and of those
    mapped into memory (``np.memmap``), each chunk of steps is given its rows: the
    steps are the same, and memory does not grow with N (but for pages of the file
    cache, which the system takes back when it needs them).

    Args:
        state: of :func:`init_state`, or restored.
        W: (N, P, 2) centred landmarks in patch units; missing ones are 0 or, better,
            what the EM expects.
        labelled: (N, P) joints that have a landmark.
        key: seeds the batches.
        objective: hyper-parameters of loss and optimizer.
        em_depth: (N, P) depth that guides the first part of the training.
        chunk: steps between two calls of ``after_chunk``.
        after_chunk: called with the state and the mean metrics of the chunk.
        num_devices: how many devices of this process share a batch; 0 means all.

    Raises:
        ValueError: arrays that do not fit together, a batch that the devices cannot
            share, a loss that is not finite.
    """
    data, objective = _checked(W, labelled, em_depth, objective)
    run = repeated(train_step, objective, num_devices)
    batches = _batches(data, key, run, chunk=chunk, size=objective.batch_size)
    step, state = int(state.step), run.replicate(state)
    ready = batches(step)
    while step < objective.steps:
        begin, step = step, min(step - step % chunk + chunk, objective.steps)
        rows, samples = ready
        count = run.replicate(jnp.int32(step - begin))
        state, metrics = run(state, rows, (samples, count))
        if step < objective.steps:
            ready = batches(step)  # read while the device works
        means = _finite(run.unreplicate(metrics), begin, step)
        if after_chunk is not None:
            after_chunk(run.unreplicate(state), means)
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), run.unreplicate(state))


def _batches(
    data: Batch, key: Key[Array, ""], run: DataParallel, *, chunk: int, size: int
) -> Callable[[int], tuple[Any, Any]]:
    """What a chunk that begins at a step takes: (its rows, the arrays they are of)."""
    resident = sum(x.nbytes for x in data.values()) <= RESIDENT_BYTES
    resident &= not any(isinstance(x, np.memmap) for x in data.values())
    placed = run.replicate(data) if resident else None
    count, share = len(data["W"]), size // jax.process_count()
    # The part of every batch that this process trains on.
    part = slice(jax.process_index() * share, (jax.process_index() + 1) * share)

    def batches(begin: int) -> tuple[Any, Any]:
        rows = np.asarray(draw_rows(key, begin, count, steps=chunk, batch_size=size))
        if placed is not None:
            return run.shard(rows.T[part]), placed
        # Takes a fifth of the time of an index in brackets.
        samples = {k: np.take(v, rows.ravel(), axis=0) for k, v in data.items()}
        order = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
        return run.shard(order.T[part]), run.replicate(samples)

    return batches


def _checked(
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    em_depth: Float[np.ndarray, "n p"] | None,
    objective: Objective,
) -> tuple[dict[str, np.ndarray], Objective]:
    """The arrays of a step; without an EM depth there is no guide."""
    if em_depth is None:
        em_depth = np.broadcast_to(np.float32(0), labelled.shape)
        objective = dataclasses.replace(objective, guide_fraction=0.0)
    if not isinstance(W, np.memmap):
        W, em_depth = np.asarray(W, np.float32), np.asarray(em_depth, np.float32)
    if W.shape != (*labelled.shape, 2) or em_depth.shape != labelled.shape:
        raise ValueError(
            f"W {W.shape}, labelled {labelled.shape} and em_depth {em_depth.shape} do "
            "not fit; expected (N, P, 2), (N, P) and (N, P)"
        )
    _check_finite(W)
    check_labelled(labelled, [str(i) for i in range(labelled.shape[1])])
    return {"W": W, "labelled": labelled, "em_depth": em_depth}, objective


def _check_finite(W: Float[np.ndarray, "n p 2"], *, rows: int = 65_536) -> None:
    for start in range(0, len(W), rows):
        bad = np.flatnonzero(~np.isfinite(W[start : start + rows]).all(axis=(1, 2)))
        if bad.size:
            raise ValueError(
                f"W[{start + bad[0]}] is not finite; missing landmarks must be 0"
            )


def check_labelled(labelled: Bool[np.ndarray, "n p"], names: Sequence[str]) -> None:
    """Raises a ValueError with the names of the joints that no sample has."""
    unknown = [names[int(joint)] for joint in np.flatnonzero(~labelled.any(axis=0))]
    if unknown:
        raise ValueError(
            f"joint {', '.join(unknown)}: labelled in none of the {len(labelled)} "
            "training samples, so its depth cannot be learned; label it in some of "
            "them or leave it out of the skeleton"
        )


def _finite(metrics: Mapping[str, Any], begin: int, end: int) -> dict[str, float]:
    means = {name: float(value) for name, value in metrics.items()}
    # The last gradient tells whether the parameters are still finite.
    if not np.isfinite(means["loss"] + means["gradient_norm"]):
        raise NonFiniteLoss(
            f"the teacher's loss is {means['loss']} in the steps {begin + 1}..{end}; "
            "lower config.teacher.learning_rate or look for outliers among the "
            "landmarks (--stage=check)"
        )
    return means
