"""Norms and means that are finite, with their gradients, for unlabelled joints."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# A hyper-parameter: a Python number, or a traced scalar when it is swept.
Weight = float | int | np.floating | Float[Array, ""]


def product(a: Array, b: Array) -> Array:
    """``a @ b`` in full float32 on every device.

    Accelerators multiply in lower precision unless told otherwise, which would
    leave a projected code visibly outside its subspace.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The L2 norm over all entries, with gradient 0 where it is 0; NaN stays NaN."""
    squared = jnp.sum(x * x)
    zero = squared == 0
    # Two selections: the inner one keeps the square root away from 0, whose
    # infinite slope would survive the outer one as 0 * inf.
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def cholesky(x: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """Lower factor L, L L^T = x; NaN where x is not positive definite.

    Raises:
        ValueError: float16 or bfloat16, in which no such factor is exact enough.
    """
    if x.dtype.itemsize < 4:
        raise ValueError(f"{x.dtype} is too coarse; give the losses float32 arrays")
    return jnp.linalg.cholesky(x, symmetrize_input=False)


def keep_labelled(
    x: Float[Array, " p *rest"], labelled: Bool[Array, " p"] | None
) -> Float[Array, " p *rest"]:
    """``x`` with the rows of missing joints set to 0, whatever they held."""
    if labelled is None:
        return x
    return jnp.where(labelled.reshape((-1,) + (1,) * (x.ndim - 1)), x, 0.0)


def keep_labelled_pairs(
    x: Float[Array, " p2 *rest"], labelled: Bool[Array, " p"] | None
) -> Float[Array, " p2 *rest"]:
    """:func:`keep_labelled` for rows ordered u1 v1 u2 v2 ..., as in w and B_xy."""
    return x if labelled is None else keep_labelled(x, jnp.repeat(labelled, 2))


def labelled_mean(
    x: Float[Array, " p"], labelled: Bool[Array, " p"] | None
) -> Float[Array, ""]:
    """The mean over the labelled joints; 0 where there are none."""
    if labelled is None:
        return jnp.mean(x)
    count = jnp.sum(labelled.astype(x.dtype))
    return jnp.sum(keep_labelled(x, labelled)) / jnp.maximum(count, 1.0)
