"""Wang et al. 2019, Eq. 4: the loss of the teacher."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.masked import Weight, keep_labelled, norm, product
from losses.shapes import of_one_sample


@of_one_sample
def reprojection_loss(
    S: Float[Array, " p 3"],
    M: Float[Array, "3 2"],
    W: Float[Array, " p 2"],
    phi: Float[Array, " k"],
    *,
    sparsity_weight: Weight,
    labelled: Bool[Array, " p"] | None = None,
) -> Float[Array, ""]:
    """Reprojection error and sparsity of one sample (Wang et al. 2019, Eq. 4).

        ||S M - W||_F + sparsity_weight ||phi_1||_1

    Args:
        S: (P, 3) reconstructed shape in its own frame, in the unit of W.
        M: (3, 2) camera with orthonormal columns.
        W: (P, 2) landmarks, mean over the labelled joints removed.
        phi: (K,) first-layer code phi_1, in the gauge of unit dictionary columns.
        sparsity_weight: the lambda of Eq. 4.
        labelled: (P,) joints that have a landmark.

    Returns:
        The loss of this sample; Eq. 4 is its mean over the samples. The norm is
        not squared, so that a sample that fits badly does not rule the mean.
    """
    error = keep_labelled(product(S, M) - W, labelled)
    return norm(error) + sparsity_weight * jnp.sum(jnp.abs(phi))
