"""The shapes of the EM made looser, for bodies and motions that they have not seen.

    p(w) = .95 sum_{k,f,g} pi_k v_f / G N(w; A_g mu_k, f^2 A_g Sigma_k A_g^T + noise)
         + .05 sum_{k,h} pi_k / H N(w; A_h mu_k, 2 A_h Sigma_k A_h^T + noise)

Tails: every component in several widths f, a scale mixture of which the posterior picks
what a sample needs. And beside the upright views a few in any rotation and size, for
what lies, hangs or turns upside down.
"""

# Paper: no such step; here: the likelihood of the fit is far too sure off the motions
# that it has seen. Training keeps the shapes as fitted.

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nrsfm_jax.em.gaussians import (
    HIGHEST,
    SHIFT_VARIANCE,
    GaussianMixture,
    PairTerms,
    features_of,
    image_of,
    one_gaussian,
    pair_terms,
    sweep,
)
from nrsfm_jax.em.views import FREE

# Factors of the standard deviations, and how likely each is.
WIDTHS, WIDTH_WEIGHTS = (1.0, 2.0, 4.0), (0.6, 0.3, 0.1)
# Of the views in any rotation: their probability, and the factor of the covariance.
FREE_WEIGHT, FREE_SPREAD = 0.05, 2.0
# A bound on the numbers in the precisions of all pairs.
_NUMBERS = 150_000_000
_TOGETHER = 600  # pairs whose covariances are inverted at once


class Looser(NamedTuple):
    """All pairs c of component, width and view.

    Attributes:
        mu: (K, 3P) means in the body frame.
        Sigma: (K, 3P, 3P) covariances.
        views: (G, 3, 3) rotations times size; the upright ones first.
        component: (C,) index k of each pair.
        view: (C,) index g.
        variance: (C,) factor f^2 of Sigma.
        log_prior: (C,) log of the pair's probability.
        free: (C,) whether its view is one of those in any rotation.
        at: (G, K) of each view and component the pair that stands for all its widths.
        broad: one Gaussian under all the views.
    """

    mu: Float[Array, "k d"]
    Sigma: Float[Array, "k d d"]
    views: Float[Array, "g 3 3"]
    component: Int[Array, " c"]
    view: Int[Array, " c"]
    variance: Float[Array, " c"]
    log_prior: Float[Array, " c"]
    free: Bool[Array, " c"]
    at: Int[Array, "g k"]
    broad: GaussianMixture


def looser(mixture: GaussianMixture) -> Looser:
    """The pairs of a fitted mixture, with tails and with views in any rotation."""
    K, G, P = len(mixture.mu), len(mixture.views), mixture.mu.shape[1] // 3
    room = (_NUMBERS / (4 * P * P) - len(WIDTHS) * K * G) / (K * len(FREE.sizes))
    free = dataclasses.replace(FREE, count=int(np.clip(room, 40, FREE.count))).grid()
    parts = [
        (float(np.log((1 - FREE_WEIGHT) * v)), 0, G, f * f)
        for f, v in zip(WIDTHS, WIDTH_WEIGHTS, strict=True)
    ]
    parts.append((float(np.log(FREE_WEIGHT)), G, len(free), FREE_SPREAD))
    even = np.full(len(free), -np.log(len(free)))
    weight = np.concatenate([np.asarray(mixture.log_view_weight), even])
    component, view, variance, log_prior = [], [], [], []
    for log_share, first, count, spread in parts:
        k, g = (x.ravel() for x in np.indices((K, count)))
        component.append(k)
        view.append(first + g)
        variance.append(np.full(K * count, spread))
        own = np.asarray(mixture.log_weight)[k] + weight[first + g]
        log_prior.append(log_share + own)
    views = jnp.concatenate([mixture.views, jnp.asarray(free)])
    shares = np.log(np.repeat([1 - FREE_WEIGHT, FREE_WEIGHT], [G, len(free)]))
    # The middle width stands for the others.
    at = K * G + np.arange(K * G).reshape(K, G)
    at_free = 3 * K * G + np.arange(K * len(free)).reshape(K, len(free))
    return Looser(
        mixture.mu,
        mixture.Sigma,
        views,
        jnp.asarray(np.concatenate(component), jnp.int32),
        jnp.asarray(np.concatenate(view), jnp.int32),
        jnp.asarray(np.concatenate(variance), jnp.float32),
        jnp.asarray(np.concatenate(log_prior), jnp.float32),
        jnp.asarray(np.concatenate(view) >= G),
        jnp.asarray(np.concatenate([at, at_free], axis=1).T),
        one_gaussian(mixture)._replace(
            views=views, log_view_weight=jnp.asarray(shares + weight, jnp.float32)
        ),
    )


def as_fitted(mixture: GaussianMixture) -> Looser:
    """The pairs of a mixture as they are."""
    k, g = (x.ravel() for x in np.indices((len(mixture.mu), len(mixture.views))))
    return Looser(
        mixture.mu,
        mixture.Sigma,
        mixture.views,
        jnp.asarray(k, jnp.int32),
        jnp.asarray(g, jnp.int32),
        jnp.ones(len(k), jnp.float32),
        mixture.log_weight[k] + mixture.log_view_weight[g],
        jnp.zeros(len(k), bool),
        jnp.arange(len(k)).reshape(len(mixture.mu), -1).T,
        one_gaussian(mixture),
    )


class Quadratic(NamedTuple):
    """log p(w, c) of some coordinates of w, of every pair."""

    packed: Float[Array, "c f"]  # what `features_of` them is multiplied by
    offset: Float[Array, " c"]  # and what is added


def quadratic(terms: Quadratic, w: Float[Array, "n e"]) -> Float[Array, "n c"]:
    """log p(w, c) of all samples and pairs by one matrix product."""
    product = jnp.matmul(features_of(w), terms.packed.T, precision=HIGHEST)
    return product + terms.offset[None]


class Terms(NamedTuple):
    """log p(w, c) of all pairs at one noise level, quadratic in w.

    Attributes:
        mean: (C, 2P) A_g mu.
        constant: (C,) log p(mean, c).
        every: of all joints.
        parts: of those in each of :func:`parts_of`.
        broad: of one Gaussian under every view.
    """

    mean: Float[Array, "c e"]
    constant: Float[Array, " c"]
    every: Quadratic
    parts: list[Quadratic]
    broad: PairTerms


def parts_of(joints: int) -> list[Int[np.ndarray, " e"]]:
    """The coordinates of every two of five groups of neighbours; of all, if so few.

    Examples:
        >>> [part.tolist() for part in parts_of(3)]
        [[0, 1, 2, 3], [0, 1, 4, 5], [2, 3, 4, 5]]
    """
    parts = np.array_split(np.arange(2 * joints).reshape(joints, 2), min(5, joints))
    return [np.concatenate(some).ravel() for some in itertools.combinations(parts, 2)]


def _quadratic(
    mean: Float[Array, "e c"], C: Float[Array, "e e c"], log_prior: Float[Array, " c"]
) -> tuple[Quadratic, Float[Array, " c"]]:
    """And log p(mean, c)."""
    e, dtype = len(mean), mean.dtype
    a, b = np.triu_indices(e)
    # Each pair a < b stands for two entries of the symmetric precision.
    factor = jnp.asarray(np.where(a == b, -0.5, -1.0), dtype)
    Q, log_det = sweep(C, pivots=e)
    Q = 0.5 * (Q + jnp.swapaxes(Q, 0, 1))
    linear = jnp.sum(Q * mean[None], axis=1)
    constant = log_prior - 0.5 * (log_det + e * np.log(2 * np.pi)).astype(dtype)
    offset = constant - 0.5 * jnp.sum(linear * mean, axis=0)
    packed = jnp.concatenate([linear, Q[a, b] * factor[:, None]]).T
    return Quadratic(packed, offset), constant


@jax.jit
def terms_of(pairs: Looser, sigma: Float[Array, ""]) -> Terms:
    """log p(w, c) of all pairs at one noise level."""
    P = pairs.mu.shape[1] // 3
    e, dtype = 2 * P, pairs.mu.dtype
    noise = jnp.tile(jnp.eye(2, dtype=dtype), (P, P)) * SHIFT_VARIANCE
    noise = noise + jnp.square(sigma) * jnp.eye(e, dtype=dtype)

    def chunk(own):
        k, g, variance, log_prior = own
        mean, C = jax.vmap(image_of)(pairs.mu[k], pairs.Sigma[k], pairs.views[g])
        C = jnp.moveaxis(variance[:, None, None] * C + noise[None], 0, -1)
        every, constant = _quadratic(mean.T, C, log_prior)
        parts = [
            _quadratic(mean.T[i], C[i[:, None], i[None]], log_prior)[0]
            for i in parts_of(P)
        ]
        return mean, constant, every, parts

    count = len(pairs.component)
    rows = jnp.arange(-(-count // _TOGETHER) * _TOGETHER) % count
    chunks = [x[rows].reshape(-1, _TOGETHER) for x in pairs[3:7]]
    done = jax.lax.map(chunk, chunks)
    done = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], done)
    return Terms(*done, broad=pair_terms(pairs.broad._replace(sigma=sigma)))
