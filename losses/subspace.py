"""Wang et al. 2019, Eqs. 8, 12, 13: the codes that have a given depth.

A depth hypothesis z' leaves the affine subspace S(z') = {phi : B_z phi = z'} (Eq. 8).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.masked import cholesky, keep_labelled, labelled_mean, product
from losses.shapes import of_one_sample

RIDGE = 1e-6  # on the diagonal of B_z B_z^T, relative to its trace


@of_one_sample
def project_code(
    phi: Float[Array, " k"],
    B_z: Float[Array, " p k"],
    z_hyp: Float[Array, " p"],
    *,
    labelled: Bool[Array, " p"] | None = None,
) -> Float[Array, " k"]:
    """The code nearest to phi that has the depth z' (Wang et al. 2019, Eqs. 12, 13).

        phi_proj = phi + B_z^+ (z' - B_z phi),   B_z^+ = B_z^T (B_z B_z^T)^-1

    Args:
        phi: (K,) the teacher's code.
        B_z: (P, K) depth part of the dictionary.
        z_hyp: (P,) depth hypothesis z', in the unit of the dictionary's shapes.
        labelled: (P,) joints that constrain the code; the others are left free.

    Returns:
        (K,) projected code. Where no code has the depth z' (two joints that the
        dictionary cannot tell apart, an empty row), the depth nearest to z' that
        the dictionary can have takes its place.

    Examples:
        >>> import jax.numpy as jnp
        >>> phi = project_code(
        ...     jnp.asarray([3.0, 1.0]), jnp.asarray([[1.0, 1.0]]), jnp.asarray([2.0])
        ... )
        >>> [round(x, 5) for x in phi.tolist()]
        [2.0, 0.0]
    """
    B_z, z_hyp = keep_labelled(B_z, labelled), keep_labelled(z_hyp, labelled)
    factor, scale = factor_gram(product(B_z, B_z.T))
    # The ridge makes one step fall short by (ridge * trace / eigenvalue); the second
    # squares that error and measures the rest on B_z itself, not on its square.
    for _ in range(2):
        rest = (z_hyp - product(B_z, phi)) / scale
        step = jax.scipy.linalg.cho_solve((factor, True), rest)
        phi = phi + product(B_z.T, step)
    return phi


@of_one_sample
def right_inverse(
    B_z: Float[Array, " p k"],
    *,
    labelled: Bool[Array, " p"] | None = None,
) -> Float[Array, " k p"]:
    """B_z^+ (K, P) of Eq. 13, as :func:`project_code` applies it, for repeated use.

    Columns of joints that are not labelled are 0.
    """
    B_z = keep_labelled(B_z, labelled)
    factor, scale = factor_gram(product(B_z, B_z.T))
    identity = jnp.eye(B_z.shape[0], dtype=B_z.dtype)
    # P right-hand sides, not K: the second step makes up for what that loses.
    once = product(B_z.T, jax.scipy.linalg.cho_solve((factor, True), identity / scale))
    short = identity - product(B_z, once)
    return once + product(once, short)


@of_one_sample
def match_depth_mean(
    z_hyp: Float[Array, " p"],
    z_ref: Float[Array, " p"],
    labelled: Bool[Array, " p"] | None = None,
) -> Float[Array, " p"]:
    """z' moved along the line of sight onto the reference: equal labelled means.

        z' <- z' - mean z' + mean z_ref

    Weak perspective does not show how far away a shape is, so a hypothesis is
    compared with the teacher's depth only after this.
    """
    return z_hyp - labelled_mean(z_hyp, labelled) + labelled_mean(z_ref, labelled)


def factor_gram(
    gram: Float[Array, " p p"],
) -> tuple[Float[Array, " p p"], Float[Array, ""]]:
    """Cholesky factor of gram / trace + RIDGE I, and the trace (1 where it is 0)."""
    trace = jnp.trace(gram)
    scale = jnp.where(trace > 0, trace, 1.0)
    shifted = gram / scale + RIDGE * jnp.eye(gram.shape[0], dtype=gram.dtype)
    return cholesky(shifted), scale
