"""How far off a joint may be: standard deviations learned by likelihood, ours.

The heat of an integral network is as wide as it likes, because its loss knows its mean
alone; but where it is wider than elsewhere, the network is less sure. `ErrorBar` says
how width becomes error, for each joint and coordinate, and learns it from the errors
that the network makes while it is trained. Nothing else learns from its loss.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

import losses

FIRST = 0.3  # standard deviation before training, patch units
_TINY = 1e-12  # patch units squared: a variance of 0 divides nothing by 0


class ErrorBar(nn.Module):
    """Standard deviation of the error in x, y and z, of each joint and mode.

        log spread = b + sum over the axes i of A_i log width_i

    with b and A of every joint, axis and mode. Its input has no gradient.
    """

    @nn.compact
    def __call__(self, width: Float[Array, "b m p 3"]) -> Float[Array, "b m p 3"]:
        """From how wide the heat is along x, y and z."""
        width = jax.lax.stop_gradient(width)
        shape, start = width.shape[1:], nn.initializers.constant(np.log(FIRST))
        A = self.param("kernel", nn.initializers.zeros, (*shape, 3))
        b = self.param("bias", start, shape)
        A, b = A.astype(width.dtype), b.astype(width.dtype)

        def one(width: Float[Array, "m p 3"]) -> Float[Array, "m p 3"]:
            return jnp.exp(b + jnp.einsum("mpi,mpij->mpj", jnp.log(width), A))

        return jax.vmap(one)(width)


def error_bar_loss(
    spread: Float[Array, " p 3"],
    xy_error: Float[Array, " p 2"],
    z: Float[Array, " p"],
    expected: Float[Array, " p"],
    variance: Float[Array, " p"],
    *,
    labelled: Bool[Array, " p"],
    known: Bool[Array, " p"],
) -> Float[Array, ""]:
    """Expected negative log-likelihood of the pose under Laplace distributions.

        sum over joints and axes of log b + E|error| / b,    b = spread / sqrt(2)

    The true depth is not known: what is known of it is a Gaussian with the mean
    ``expected`` and the variance ``variance``, over which the error's absolute value is
    averaged. A Gaussian likelihood would let few large errors, limbs that are taken for
    the other side's, widen all.

    Args:
        spread: (P, 3) of x, y, z; the only argument with a gradient.
        xy_error: (P, 2) from the landmarks.
        z: (P,) predicted depth; its mean has no influence.
        expected: (P,) depth given the landmarks, likewise.
        variance: (P,) of that depth about its mean over the ``known`` joints.
        labelled: (P,) joints with a landmark.
        known: (P,) joints whose depth counts.
    """
    off = losses.match_depth_mean(z, expected, known) - expected
    v = variance + _TINY
    far = jnp.exp(-0.5 * off * off / v) * jnp.sqrt(2 / np.pi * v)
    far += off * jax.scipy.special.erf(off / jnp.sqrt(2 * v))
    far = jnp.concatenate([jnp.abs(xy_error), far[:, None]], axis=1)
    b = spread / np.float32(np.sqrt(2))
    each = jnp.log(b) + jax.lax.stop_gradient(far) / b
    counts = jnp.stack([labelled, labelled, known], axis=1)
    return jnp.sum(jnp.where(counts, each, 0.0))


def centred_variance(
    covariance: Float[np.ndarray, "n p p"], labelled: Bool[np.ndarray, "n p"]
) -> Float[np.ndarray, "n p"]:
    """Variances of depths about their mean over the labelled joints: of H C H."""
    share = labelled / np.maximum(labelled.sum(axis=1, keepdims=True), 1)
    with_mean = np.einsum("npq,nq->np", covariance, share)
    of_mean = np.einsum("np,np->n", with_mean, share)
    own = np.diagonal(covariance, axis1=1, axis2=2)
    found = own - 2 * with_mean + of_mean[:, None]
    return np.maximum(found, 0).astype(np.float32)
