"""What the teacher minimises: Eq. 4 and the guide by the EM depth."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from losses.camera_frame import rotation_from_camera
from losses.masked import norm
from losses.reprojection import reprojection_loss
from nrsfm_jax import fast as columns
from nrsfm_jax import model
from nrsfm_jax.model import Params

Batch = Mapping[str, Any]
# On a CPU a batch is taken in pieces whose activations stay in a core's cache: these
# sizes. In one piece, 1024 samples take 1.2 times as long.
PIECE_SIZES = range(128, 31, -1)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Hyper-parameters of the loss and of Adam; one record for the whole loop.

    Attributes:
        sparsity_weight: lambda of Eq. 4 in the gauge of unit-norm columns.
        guide_fraction: share of the steps over which the weight of the EM depth falls
            from 1 to ``guide_floor``; 0: the EM depth is not used at all.
        guide_floor: the weight that stays to the end.
        learning_rate: the highest; a cosine decay to zero follows a linear warm-up.
        warmup_fraction: share of the steps of the warm-up. Without it the first
            steps of Adam silence atoms of the deep layers that never return.
        steps: of the whole training.
        batch_size: samples per step over all devices.
        ista_steps: ISTA steps of every coding layer.
    """

    sparsity_weight: float = 0.005
    guide_fraction: float = 0.4
    guide_floor: float = 0.5
    learning_rate: float = 1e-2
    warmup_fraction: float = 0.05
    steps: int = 6000
    batch_size: int = 128
    ista_steps: int = 1

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam with warm-up and cosine decay, on all parameters as one vector."""
        return optax.flatten(optax.adam(self.learning_rate_at))

    def guide_at(self, step: ArrayLike) -> Float[Array, ""]:
        """Weight of the EM depth: linear from 1 to the floor, then constant."""
        if self.guide_fraction <= 0:
            return jnp.float32(0)
        done = jnp.asarray(step, jnp.float32) / self.steps
        return jnp.maximum(self.guide_floor, 1 - done / self.guide_fraction)

    def learning_rate_at(self, step: ArrayLike) -> Float[Array, ""]:
        """Linear from 0 over the warm-up, times half a cosine over all steps."""
        done = jnp.asarray(step, jnp.float32) / self.steps
        warmup = self.warmup_fraction
        rise = jnp.minimum(1.0, done / warmup) if warmup > 0 else jnp.float32(1)
        return self.learning_rate * rise * 0.5 * (1 + jnp.cos(jnp.pi * done))


def sample_loss(
    params: Params,
    W: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    em_depth: Float[Array, " p"],
    *,
    sparsity_weight: float,
    ista_steps: int,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Eq. 4 of one sample, and how far its depth is from that of the EM.

    Args:
        params: of the network.
        W: (P, 2) centred landmarks; missing ones are 0 or filled by the EM, which
            the network sees and the reprojection error does not.
        labelled: (P,) joints that have a landmark.
        em_depth: (P,) z away from the camera.
        sparsity_weight: on the L1 norm in the gauge of unit-norm columns.
        ista_steps: ISTA steps of every coding layer.

    Returns:
        ``||S M - W||_F + sparsity_weight ||phi_1||_1`` over the labelled joints, and
        ``||z - z_EM||_2`` over all, depths centred: the EM gives each joint one.
    """
    phi, M, S = model.reconstruct(params, W, ista_steps=ista_steps)
    norms = model.column_norms(params["dictionaries"][0])
    loss = reprojection_loss(
        S, M, W, phi * norms, sparsity_weight=sparsity_weight, labelled=labelled
    )
    z_axis = rotation_from_camera(M)[:, 2]
    z = jnp.dot(S, z_axis, precision=jax.lax.Precision.HIGHEST) - em_depth
    return loss, norm(z - jnp.mean(z))


def batch_loss(
    params: Params, batch: Batch, guide: Float[Array, ""], *, objective: Objective
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean of :func:`sample_loss` over a batch: Eq. 4 + guide * depth difference.

    On a CPU in the layout that it multiplies fastest, see `columns`.
    """
    weight, steps = objective.sparsity_weight, objective.ista_steps
    if on_cpu() and steps == 1:
        of_samples = functools.partial(columns.sample_losses, sparsity_weight=weight)
    else:
        one = functools.partial(sample_loss, sparsity_weight=weight, ista_steps=steps)
        of_samples = jax.vmap(one, in_axes=(None, 0, 0, 0))
    arrays = batch["W"], batch["labelled"], batch["em_depth"]
    losses, differences = of_samples(params, *arrays)
    loss, difference = jnp.mean(losses), jnp.mean(differences)
    metrics = {"loss": loss, "em_difference": difference}
    return loss + guide * difference, metrics


def batch_gradient(
    params: Params, batch: Batch, guide: Float[Array, ""], *, objective: Objective
) -> tuple[Params, dict[str, Float[Array, ""]]]:
    """Gradient of :func:`batch_loss`, and its metrics."""
    gradient_of = jax.grad(batch_loss, has_aux=True)
    size = len(batch["W"])
    piece = size
    if on_cpu() and size > PIECE_SIZES[0]:
        piece = next((n for n in PIECE_SIZES if size % n == 0), size)
    if piece == size:
        return gradient_of(params, batch, guide, objective=objective)
    pieces = {k: v.reshape(-1, piece, *v.shape[1:]) for k, v in batch.items()}
    parts = jax.lax.map(
        lambda part: gradient_of(params, part, guide, objective=objective), pieces
    )
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), parts)


def on_cpu() -> bool:
    """Whether the program that is being traced will run on the CPU."""
    return jax.default_backend() == "cpu"
