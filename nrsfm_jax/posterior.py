"""How sure the EM is of a depth: mean and covariance given the landmarks.

For a pair c of component and view the depth is normal; over the pairs it is a mixture,
of which the first two moments are kept:

    m = sum_c r_c z_c,   C = sum_c r_c (V_c + (z_c - m) (z_c - m)^T),
    z_c = mu_z + K_z (w - A mu),   V_c = Sigma_zz - K_z A Sigma_z^T

The second part of C is large where two views, or two kinds of pose, explain a sample.

Paper: no such thing; here: the teacher of :func:`losses.posterior_depth_loss`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nrsfm_jax.gaussian_mixture import GaussianMixture, depth_of_pairs, pair_terms
from nrsfm_jax.missing import completed, equal_gaps
from nrsfm_jax.view_likelihood import einsum, features_of, view_log_likelihoods
from nrsfm_jax.visibility import check_landmarks

# The likeliest pairs of component and view of each sample; the others are left out.
_PAIRS = 32


def depth_posterior(
    mixture: GaussianMixture,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    chunk: int = 512,
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n p p"]]:
    """Mean and covariance of the depth of each sample given its landmarks.

    Args:
        mixture: the fitted shapes.
        W: landmarks centred over the labelled joints, patch units, y down.
        labelled: True where a landmark is known; missing ones are marginalised.
        chunk: samples handled at once, a bound on memory.

    Returns:
        (N, P) means, 0 on average over the joints, and (N, P, P) covariances, both of
        depths away from the camera, the mean over the joints taken off.
    """
    landmarks, shown = check_landmarks(W, labelled)
    n, P, _ = landmarks.shape
    mean = np.empty((n, P), np.float32)
    covariance = np.empty((n, P, P), np.float32)
    for rows, gaps in equal_gaps(shown, chunk=chunk):
        mean[rows], covariance[rows] = _rows(
            mixture, landmarks[rows].reshape(-1, 2 * P), shown[rows], gaps
        )
    return mean, covariance


@functools.partial(jax.jit, static_argnames="gaps")
def _rows(
    mixture: GaussianMixture,
    w: Float[Array | np.ndarray, "n e"],
    labelled: Bool[Array | np.ndarray, "n p"],
    gaps: int,
) -> tuple[Float[Array, "n p"], Float[Array, "n p p"]]:
    """:func:`depth_posterior` of samples with at most ``gaps`` missing joints."""
    terms = pair_terms(mixture, jnp.ones(labelled.shape[1], bool))
    gain, depth, spread = depth_of_pairs(mixture, terms)
    w, labelled = jnp.asarray(w), jnp.asarray(labelled)
    # Complete samples: one product for all of them.
    complete = view_log_likelihoods(features_of(w), terms) if gaps == 0 else w

    def one(x):
        w, labelled, log_joint = x
        if gaps > 0:
            log_joint = completed(terms, w, labelled, gaps=gaps).log_joint
        log_joint, c = jax.lax.top_k(log_joint, min(_PAIRS, len(log_joint)))
        r = jax.nn.softmax(log_joint)
        error, V = w[None] - terms.mean[c], spread[c]
        if gaps > 0:
            own = jax.tree.map(lambda x: x[c], terms)
            filled = completed(own, w, labelled, gaps=gaps, spread=True)
            error, K = filled.error, gain[c][:, :, filled.index]
            V = V + einsum("cpa,cab,cqb->cpq", K, filled.spread, K)
        return _moments(r, depth[c] + einsum("cpe,ce->cp", gain[c], error), V)

    return jax.lax.map(one, (w, labelled, complete))


def _moments(
    r: Float[Array, " c"], z: Float[Array, "c p"], V: Float[Array, "c p p"]
) -> tuple[Float[Array, " p"], Float[Array, "p p"]]:
    """Mean and covariance of a mixture of normals, each centred over the joints."""
    z = z - jnp.mean(z, axis=1, keepdims=True)
    V = V - jnp.mean(V, axis=1, keepdims=True)
    V = V - jnp.mean(V, axis=2, keepdims=True)
    mean = einsum("c,cp->p", r, z)
    apart = z - mean[None]
    covariance = einsum("c,cpq->pq", r, V) + einsum("c,cp,cq->pq", r, apart, apart)
    return mean, 0.5 * (covariance + covariance.T)
