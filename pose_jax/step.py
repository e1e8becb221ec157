"""One training step of the student, and the drop of its learning rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pose_jax.loss import PER_SAMPLE
from pose_jax.state import Plateau, TrainState
from pose_jax.targets import Targets, of_batch

Batch = Mapping[str, Any]
SCHEDULES = ("plateau", "cosine")
# A validation loss counts as better when it is lower by this share.
IMPROVEMENT = 1e-3


def make_rate(
    schedule: str, *, num_steps: int, learning_rate: float, end_learning_rate: float
) -> Callable[[TrainState], Any]:
    """The learning rate of a state.

    ``"plateau"`` takes that of the state; ``"cosine"`` lets it fall from
    ``learning_rate`` to ``end_learning_rate`` in ``num_steps``.

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(
            f"config.student.schedule = {schedule!r} is not one of {SCHEDULES}"
        )

    def cosine(state: TrainState) -> jax.Array:
        done = state.step.astype(jnp.float32) / num_steps
        fall = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return end_learning_rate + (learning_rate - end_learning_rate) * fall

    return cosine if schedule == "cosine" else lambda s: s.plateau.learning_rate


def make_train_step(
    net: nn.Module,
    loss: Callable[..., Any],
    *,
    rate: Callable[[TrainState], Any],
    optimizer: optax.GradientTransformation,
    axis_name: str,
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, dict[str, Any]]]:
    """The step of one device, averaged over the mapped axis.

    Args:
        net: made with the name of the mapped axis: batch norms average over the whole
            batch; or without: every device normalises its own part, and only the
            running statistics are averaged.
        loss: :func:`pose_jax.loss.student_loss` of one mode or several.
        rate: of :func:`make_rate`.
        optimizer: of :func:`pose_jax.optimizer.make_optimizer`.
        axis_name: the mapped axis.
    """

    def step(state: TrainState, batch: Batch, targets: tuple[Targets, ...]) -> Any:
        def mean_loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": state.batch_stats}
            how = {"train": True, "mutable": ["batch_stats"], "method": "predict"}
            found, new = net.apply(variables, batch["image"], **how)
            values, terms = jax.vmap(loss, PER_SAMPLE)(found, *of_batch(targets, batch))
            terms = jax.tree.map(jnp.mean, {"loss": values, **terms})
            # The error bar moves its own layer alone, and drops no learning rate.
            bar = terms.get("error_bar", 0.0)
            return terms["loss"] + bar, (terms, new["batch_stats"])

        gradients, found = jax.grad(mean_loss, has_aux=True)(state.params)
        gradients, metrics, batch_stats = jax.lax.pmean(
            (gradients, *found), axis_name=axis_name
        )
        metrics["learning_rate"] = rate(state)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        # Optax mixes its integer count with floats, which strict promotion rejects.
        with jax.numpy_dtype_promotion("standard"):
            direction, opt_state = optimizer.update(gradients, state.opt_state)
        down = jax.tree.map(lambda u: -metrics["learning_rate"] * u, direction)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, down),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, metrics

    return step


def plateau_update(
    plateau: Plateau, val_loss: float, *, patience: int, end_learning_rate: float
) -> Plateau:
    """The drop of Section 5.1: to the last rate when the validation loss saturates.

    Saturated means ``patience`` evaluations in a row without a loss lower by
    ``IMPROVEMENT`` than the best one. ``val_loss`` knows no 3D; ``end_learning_rate``
    is the rate after the drop.
    """
    best, stale = float(plateau.best_loss), int(plateau.stale_evals) + 1
    if val_loss < best * (1.0 - IMPROVEMENT) or not math.isfinite(best):
        best, stale = val_loss, 0
    rate = end_learning_rate if stale >= patience else float(plateau.learning_rate)
    return Plateau(np.float32(rate), np.float32(best), np.int32(stale))
