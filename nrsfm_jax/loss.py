"""What the teacher minimises besides Eq. 4, and its hyper-parameters."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from losses.camera_frame import rotation_from_camera
from losses.masked import norm


@dataclasses.dataclass(frozen=True)
class Objective:
    """Hyper-parameters of the loss and of Adam; one record for the whole loop.

    Attributes:
        sparsity_weight: lambda of Eq. 4 in the gauge of unit-norm columns.
        guide_fraction: share of the steps over which the weight of the EM depth falls
            from 1 to ``guide_floor``; 0: the EM depth is not used at all.
        guide_floor: the weight that stays to the end.
        learning_rate: the highest; a cosine decay to zero follows a linear warm-up.
        steps: of the whole training.
        batch_size: samples per step over all devices.
        ista_steps: ISTA steps of every coding layer.
        warmup_fraction: share of the steps of the warm-up. Without it the first
            steps of Adam silence atoms of the deep layers that never return.
    """

    sparsity_weight: float
    guide_fraction: float
    guide_floor: float
    learning_rate: float
    steps: int
    batch_size: int
    ista_steps: int
    warmup_fraction: float = 0.05  # no field of the config

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


def em_difference(
    S: Float[Array, "p 3"], M: Float[Array, "3 2"], em_depth: Float[Array, " p"]
) -> Float[Array, ""]:
    """How far the depth of one sample is from that of the EM, ``||z - z_EM||_2``.

    Args:
        S: (P, 3) canonical shape.
        M: (3, 2) camera with orthonormal columns.
        em_depth: (P,) z away from the camera; the EM gives each joint one, labelled
            or not.

    Returns:
        The norm over all joints, both depths centred.
    """
    z_axis = rotation_from_camera(M)[:, 2]
    z = jnp.dot(S, z_axis, precision=jax.lax.Precision.HIGHEST) - em_depth
    return norm(z - jnp.mean(z))
