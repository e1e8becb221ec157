"""The counterpart of Eq. 10 for a Gaussian shape: the Mahalanobis distance of a depth.

Paper: the cost of a depth is the minimum cost of all codes with it (Eqs. 10, 11); here,
in addition, for a teacher whose shape is Gaussian given the landmarks,

    -log p(z' | w) = 1/2 (z' - m)^T C^-1 (z' - m) + const,

which is Eq. 10 with a quadratic regulariser: it has a closed form, and is flat exactly
along the depths that the landmarks do not determine.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.masked import Weight, cholesky, keep_labelled, norm, product
from losses.shapes import of_one_sample

# About the error of a student, patch units.
POSTERIOR_NOISE = 0.05


class PreparedPosterior(NamedTuple):
    """What :func:`posterior_depth_loss` needs of one sample."""

    depth: Float[Array, " p"]  # posterior mean m
    # U with ||U (z' - m)||_2 the Mahalanobis distance, whatever the mean depth.
    whitener: Float[Array, "p p"]
    labelled: Bool[Array, " p"]  # joints whose depth counts


@of_one_sample
def prepare_posterior(
    depth: Float[Array, " p"],
    covariance: Float[Array, "p p"],
    labelled: Bool[Array, " p"] | None = None,
    *,
    noise: Weight = POSTERIOR_NOISE,
) -> PreparedPosterior:
    """The unchanging part of :func:`posterior_depth_loss` for one sample.

        U = L^-1 H,   L L^T = H C H + noise^2 I,   H = centring over the labelled joints

    Args:
        depth: (P,) posterior mean of the depth, in the unit of the landmarks.
        covariance: (P, P) posterior covariance C.
        labelled: (P,) joints whose depth counts; all by default.
        noise: standard deviation added to every joint, in the same unit: how exact a
            depth is wanted where the posterior is certain. It must be felt in float32:
            above 1e-3 of the depth's spread.
    """
    joints = depth.shape[0]
    if labelled is None:
        labelled = jnp.ones(joints, dtype=bool)
    shown = labelled.astype(depth.dtype)
    count = jnp.maximum(jnp.sum(shown), 1.0)
    centring = jnp.diag(shown) - shown[:, None] * shown[None, :] / count
    spread = product(product(centring, covariance), centring)
    spread = 0.5 * (spread + spread.T)
    identity = jnp.eye(joints, dtype=depth.dtype)
    L = cholesky(spread + jnp.square(noise) * identity)
    whitener = jax.scipy.linalg.solve_triangular(L, centring, lower=True)
    return PreparedPosterior(depth=depth, whitener=whitener, labelled=labelled)


@of_one_sample
def posterior_depth_loss(
    z_hyp: Float[Array, " p"], prepared: PreparedPosterior
) -> Float[Array, ""]:
    """Mahalanobis distance of a depth under the teacher's posterior, means matched.

        ||U (z' - m)||_2

    Not squared, like the reprojection in Eqs. 4 and 14: a sample that is far off pulls
    no harder than one that is nearly right.

    Args:
        z_hyp: (P,) depth hypothesis z'; its mean has no influence.
        prepared: the sample's record from :func:`prepare_posterior`.

    Examples:
        >>> import jax.numpy as jnp
        >>> prepared = prepare_posterior(jnp.zeros(2), jnp.eye(2) * 0.5, noise=0.01)
        >>> round(float(posterior_depth_loss(jnp.asarray([1.0, -1.0]), prepared)), 3)
        2.0
    """
    delta = keep_labelled(z_hyp - prepared.depth, prepared.labelled)
    return norm(product(prepared.whitener, delta))
