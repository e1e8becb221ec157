"""A mixture of Gaussian shapes seen from unknown views: likelihoods and the EM's sums.

    s = vec S ~ sum_k pi_k N(mu_k, Sigma_k)      the shape, in a body frame
    w = A_g s + t + N(0, sigma^2 I)              its picture, A_g = I_P (x) R_g[:, :2]^T

with a latent view g out of a fixed grid and a free shift t. A pair c = (k, g) explains
a picture by a normal distribution:

    w ~ N(A_g mu_k, C_c),   C_c = A_g Sigma_k A_g^T + sigma^2 I + shift,
    K_c = Sigma_k A_g^T C_c^-1   the gain: what an error in the image moves.

One body frame for all samples makes the depths agree in sign with each other.

Frames: S_cam = S @ R_g and W = S_cam[:, :2]; the body frame has y up (see `views`).
"""

# Paper: no such step; here: it was added, because without it the outcome of the
# teacher's training depends on the seed.

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

HIGHEST = jax.lax.Precision.HIGHEST
# Variance of the shift t, patch units squared. The landmarks are centred over the
# labelled joints, the shape over all of them: t is the difference.
SHIFT_VARIANCE = 0.1
# Added to Sigma in every step, so that it stays positive in float32. What landmarks
# say little about changes slowly, and more of it would add up there.
RIDGE = 1e-6

einsum = functools.partial(jnp.einsum, precision=HIGHEST)


class GaussianMixture(NamedTuple):
    """vec S ~ sum_k pi_k N(mu_k, Sigma_k), seen from ``views`` with noise sigma.

    Attributes:
        mu: (K, 3P) means x1 y1 z1 x2 ..., centred over the joints, patch units.
        Sigma: (K, 3P, 3P) covariances of the centred shape.
        log_weight: (K,) log pi_k.
        sigma: () standard deviation of the noise on each image coordinate.
        views: (G, 3, 3) rotations R_g, S_cam = S @ R_g.
        log_view_weight: (G,) log of the probability of each view; even, -log G.
        log_likelihood: () mean of log p(w) over the samples of the fit, in nats.
    """

    mu: Float[Array, "k d"]
    Sigma: Float[Array, "k d d"]
    log_weight: Float[Array, " k"]
    sigma: Float[Array, ""]
    views: Float[Array, "g 3 3"]
    log_view_weight: Float[Array, " g"]
    log_likelihood: Float[Array, ""]


class PairTerms(NamedTuple):
    """log of pi_k, of the view's weight and of N(w; A_g mu, C): quadratic in w."""

    mean: Float[Array, "c e"]  # A_g mu
    precision: Float[Array, "c e e"]  # C^-1
    constant: Float[Array, " c"]


class PairSums(NamedTuple):
    """What the maximisation needs of the samples, with e = w - A_g mu."""

    N: Float[Array, " c"]  # sum_i r_ic
    first: Float[Array, "c e"]  # sum_i r_ic E[e]
    second: Float[Array, "c e e"]  # sum_i r_ic E[e e^T]
    log_p: Float[Array, ""]  # sum_i log p(w_i)


class ShapeSums(NamedTuple):
    """The same of each component, over its views: what moves its shape.

    With the precision Q_c of the labelled coordinates, 0 at the others; C_c^-1 where
    none is missing.
    """

    N: Float[Array, " k"]  # sum_i r_ik
    first: Float[Array, "k d"]  # sum_ig r_ic A_g^T Q_c e
    second: Float[Array, "k d d"]  # sum_ig r_ic A_g^T (Q_c e e^T Q_c - Q_c) A_g
    log_p: Float[Array, ""]  # sum_i log p(w_i)


def single_gaussian(
    mu: Float[Array | np.ndarray, " d"],
    Sigma: Float[Array | np.ndarray, "d d"],
    sigma: float,
    views: Float[Array | np.ndarray, "g 3 3"],
) -> GaussianMixture:
    """The mixture of one component, its views equally likely."""
    even = np.full(len(views), -np.log(len(views)))
    fields = mu[None], Sigma[None], np.zeros(1), sigma, views, even, np.nan
    return GaussianMixture(*(jnp.asarray(x, jnp.float32) for x in fields))


def one_gaussian(mixture: GaussianMixture) -> GaussianMixture:
    """The single Gaussian of the mean and the covariance of a mixture."""
    weight = jnp.exp(mixture.log_weight)
    mu = einsum("k,kd->d", weight, mixture.mu)
    apart = mixture.mu - mu[None]
    Sigma = einsum("k,kab->ab", weight, mixture.Sigma)
    Sigma = Sigma + einsum("k,ka,kb->ab", weight, apart, apart)
    return mixture._replace(
        mu=mu[None], Sigma=Sigma[None], log_weight=jnp.zeros(1, mu.dtype)
    )


def mirrored(mixture: GaussianMixture) -> GaussianMixture:
    """The mirror image in the body's z of every shape."""
    signs = jnp.tile(jnp.array([1, 1, -1], jnp.float32), mixture.mu.shape[1] // 3)
    Sigma = mixture.Sigma * (signs[:, None] * signs[None, :])[None]
    return mixture._replace(mu=mixture.mu * signs[None], Sigma=Sigma)


def centring(P: int) -> Float[Array, "d d"]:
    """Projection of vec S that removes the mean over the joints."""
    J = np.eye(P) - 1.0 / P
    return jnp.asarray(np.kron(J, np.eye(3)), jnp.float32)


# --- likelihood -------------------------------------------------------------------


def pair_terms(
    mixture: GaussianMixture, centre: Float[Array, " e"] | None = None
) -> PairTerms:
    """Of all pairs, the views of one component together; pictures as w - centre."""

    e = mixture.mu.shape[1] // 3 * 2
    of_views = jax.vmap(image_of, (None, None, 0))
    mean, C = jax.vmap(of_views, (0, 0, None))(mixture.mu, mixture.Sigma, mixture.views)
    prior = mixture.log_weight[:, None] + mixture.log_view_weight[None, :]
    terms = _terms(mean.reshape(-1, e), C, prior.reshape(-1), mixture.sigma)
    return terms if centre is None else terms._replace(mean=terms.mean - centre[None])


def terms_of_pairs(mixture: GaussianMixture, pairs: Int[Array, " c"]) -> PairTerms:
    """:func:`pair_terms` of the given pairs alone."""
    k, g = jnp.divmod(pairs, len(mixture.views))
    mean, C = jax.vmap(image_of)(mixture.mu[k], mixture.Sigma[k], mixture.views[g])
    prior = mixture.log_weight[k] + mixture.log_view_weight[g]
    return _terms(mean, C, prior, mixture.sigma)


def _terms(
    mean: Float[Array, "c e"],
    C: Float[Array, "*c e e"],
    prior: Float[Array, " c"],
    sigma: Float[Array, ""],
) -> PairTerms:
    e, dtype = mean.shape[1], mean.dtype
    P = e // 2
    shift = jnp.tile(jnp.eye(2, dtype=dtype), (P, P)) * SHIFT_VARIANCE
    noise = shift + jnp.square(sigma) * jnp.eye(e, dtype=dtype)
    # The inverse is formed, because one product with the quadratic features of all
    # samples then replaces a triangular solve per pair.
    C = jnp.moveaxis(C.reshape(-1, e, e) + noise[None], 0, -1)
    inverse, log_det = sweep(C, pivots=e)
    inverse = jnp.moveaxis(inverse, -1, 0)
    return PairTerms(
        mean,
        0.5 * (inverse + inverse.mT),
        prior - 0.5 * (log_det + e * np.log(2 * np.pi)),
    )


def image_of(
    mu: Float[Array, " d"], Sigma: Float[Array, "d d"], R: Float[Array, "3 3"]
) -> tuple[Float[Array, " e"], Float[Array, "e e"]]:
    """A mu and A Sigma A^T."""
    P, M = mu.shape[0] // 3, R[:, :2]
    mean = jnp.dot(mu.reshape(P, 3), M, precision=HIGHEST)
    half = einsum("paqb,bj->paqj", Sigma.reshape(P, 3, P, 3), M)
    C = einsum("paqj,ai->piqj", half, M)
    return mean.reshape(2 * P), C.reshape(2 * P, 2 * P)


def sweep(
    T: Float[Array, "m m g"], *, pivots: int
) -> tuple[Float[Array, "m m g"], Float[Array, " g"]]:
    """Gauss-Jordan elimination in place of many small matrices side by side.

        [A b; b' s]  ->  [A^-1  A^-1 b; -b' A^-1  s - b' A^-1 b],   and log det A

    for A the positive definite block of the first ``pivots`` rows.
    """
    # Not by LAPACK: called for hundreds of small matrices, its threads wait for each
    # other, and on a busy machine the fit took minutes instead of seconds. Positive
    # definite matrices need no pivoting.
    # The matrices lie on the last axis, and each step is one pass that writes its row
    # and column as well: on a CPU up to four times as fast as updates in place.
    position = jnp.arange(T.shape[0])

    def eliminate(k, state):
        T, log_det = state
        here, pivot = position == k, T[k, k]
        row = jnp.where(here[:, None], 1, T[k]) / pivot[None]
        others = jnp.where(here[None, :, None], 0, T) - T[:, k][:, None] * row[None]
        T = jnp.where(here[:, None, None], row[None], others)
        return T, log_det + jnp.log(pivot)

    start = T, jnp.zeros(T.shape[2], T.dtype)
    return jax.lax.fori_loop(0, pivots, eliminate, start)


def features_of(w: Float[Array, "n e"]) -> Float[Array, "n f"]:
    """[w, w_a w_b for a <= b]: log-likelihoods and moments are linear in these."""
    # Half of the square is enough, and halves both products of a step with it.
    a, b = np.triu_indices(w.shape[1])
    return jnp.concatenate([w, w[:, a] * w[:, b]], axis=1)


@functools.cache
def packed_index(e: int) -> Int[np.ndarray, "e e"]:
    """Where entry (a, b) of a symmetric matrix lies in its packed upper triangle."""
    index = np.zeros((e, e), np.int32)
    a, b = np.triu_indices(e)
    index[a, b] = index[b, a] = np.arange(a.size)
    return index


def log_joints(features: Float[Array, "n f"], terms: PairTerms) -> Float[Array, "n c"]:
    """log p(w_i, c) of all samples and pairs by one matrix product."""
    # The squares of large numbers cancel here: with sigma far below the size of w,
    # float32 leaves an error of about 1e-7 |w|^2 / sigma^2 nats. So the callers take w
    # about the mean of the samples, which leaves a quarter of it or less;
    # `missing.condition` squares the errors themselves, and has none.
    a, b = np.triu_indices(terms.mean.shape[1])
    linear = einsum("cab,cb->ca", terms.precision, terms.mean)
    # Each pair a < b stands for two entries of the symmetric precision.
    factor = jnp.asarray(np.where(a == b, -0.5, -1.0), features.dtype)
    coefficients = jnp.concatenate(
        [linear, terms.precision[:, a, b] * factor[None]], axis=1
    )
    constant = terms.constant - 0.5 * jnp.sum(linear * terms.mean, axis=1)
    product = jnp.matmul(features, coefficients.T, precision=HIGHEST)
    return product + constant[None]


# --- sums and maximisation --------------------------------------------------------


def sums_of(
    features: Float[Array, "n f"],
    r: Float[Array, "n c"],
    log_p: Float[Array, " n"],
    terms: PairTerms,
) -> PairSums:
    """The sums over all samples, given the responsibilities r_ic."""
    mean, e = terms.mean, terms.mean.shape[1]
    N = jnp.sum(r, axis=0)
    # One product over the samples serves all pairs; it is turned to the moments about
    # the mean of each pair afterwards.
    moments = jnp.matmul(r.T, features, precision=HIGHEST)
    first, second = moments[:, :e], moments[:, e + packed_index(e)]
    cross = first[:, :, None] * mean[:, None, :]
    square = mean[:, :, None] * mean[:, None, :] * N[:, None, None]
    return PairSums(
        N=N,
        first=first - N[:, None] * mean,
        second=second - cross - cross.mT + square,
        log_p=jnp.sum(log_p),
    )


def shape_sums(mixture: GaussianMixture, terms: PairTerms, sums: PairSums) -> ShapeSums:
    """The sums over the pairs of each component, in the body frame."""
    precision, e = terms.precision, terms.mean.shape[1]
    K, G = len(mixture.mu), len(mixture.views)
    h = einsum("cab,cb->ca", precision, sums.first)
    H = jnp.matmul(precision, sums.second, precision=HIGHEST)
    H = jnp.matmul(H, precision, precision=HIGHEST)
    H = H - sums.N[:, None, None] * precision
    first, second = jax.vmap(turned_back, (None, 0, 0))(
        mixture.views, h.reshape(K, G, e), H.reshape(K, G, e, e)
    )
    return ShapeSums(sums.N.reshape(K, G).sum(1), first, second, sums.log_p)


def turned_back(
    views: Float[Array, "g 3 3"], h: Float[Array, "g e"], H: Float[Array, "g e e"]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """sum_g A_g^T h_g and sum_g A_g^T H_g A_g."""
    G, P = views.shape[0], h.shape[1] // 2
    M = views[:, :, :2]
    u = einsum("gpi,gai->pa", h.reshape(G, P, 2), M).reshape(3 * P)
    half = einsum("gpiqj,gbj->gpiqb", H.reshape(G, P, 2, P, 2), M)
    return u, einsum("gpiqb,gai->paqb", half, M).reshape(3 * P, 3 * P)


def maximise(
    mixture: GaussianMixture, sums: ShapeSums, pooling: Float[Array, ""]
) -> GaussianMixture:
    """New mu_k, Sigma_k and pi_k, and the log-likelihood of the old ones.

    Args:
        mixture: the old one.
        sums: over the samples.
        pooling: how many samples of the average covariance each component gets on top
            of its own, so that rare poses make no component of few directions.
    """
    N, P = sums.N, mixture.mu.shape[1] // 3
    n = jnp.sum(N)
    mu, Sigma = jax.vmap(_maximise_one)(
        mixture.mu, mixture.Sigma, sums.first, sums.second, jnp.maximum(N, 1.0)
    )
    pool = einsum("k,kab->ab", N / n, Sigma)
    share = (N / (N + pooling))[:, None, None]
    Sigma = share * Sigma + (1 - share) * pool[None]
    return mixture._replace(
        mu=mu,
        Sigma=Sigma + RIDGE * centring(P)[None],
        # One sample more for each, so that no component dies of a weight of 0.
        log_weight=jnp.log((N + 1) / (n + len(N))),
        log_likelihood=sums.log_p / n,
    )


def _maximise_one(
    mu: Float[Array, " d"],
    Sigma: Float[Array, "d d"],
    first: Float[Array, " d"],
    second: Float[Array, "d d"],
    n: Float[Array, ""],
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """mu + d and Sigma of one component, over samples of total weight n.

        d = sum_g K_g sum_i r e / n                   = Sigma u,
        Sigma + sum_g K_g (...) K_g^T / n - d d^T     = Sigma + Sigma U Sigma - d d^T,
    with u = sum_g A_g^T h_g / n, h_g = C_g^-1 sum_i r e, U = sum_g A_g^T H_g A_g / n,
    H_g = C_g^-1 (sum_i r e e^T) C_g^-1 - N_g C_g^-1.
    """
    # In this order the gains K_g are never formed: Sigma is multiplied once for all
    # views, and the sums of all views are (2P, 2P) instead of (3P, 3P).
    d = jnp.matmul(Sigma, first / n, precision=HIGHEST)
    change = jnp.matmul(Sigma, second / n, precision=HIGHEST)
    change = jnp.matmul(change, Sigma, precision=HIGHEST)
    Sigma = Sigma + change - d[:, None] * d[None, :]
    return mu + d, 0.5 * (Sigma + Sigma.T)
