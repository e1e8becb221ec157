"""Several Gaussian shapes in one body frame: a sharper first guess of depth.

    s = vec S ~ sum_k pi_k N(mu_k, Sigma_k),   w = A_g s + t + N(0, sigma^2 I)

Poses of one body are not Gaussian; a picture that fits two views of one broad
Gaussian often fits only one of several narrow ones. The fit starts from that of
`gaussian_shape`, whose body frame it keeps, and with it the sign of depth.

The depth it gives is the posterior mean over components, views and shapes: where two
views explain a sample, their depths are averaged instead of one being believed.

Paper: no such step; here: it was added (see `gaussian_shape`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nrsfm_jax.gaussian_shape import RIDGE, GaussianShape, centring, fit_gaussian_shape
from nrsfm_jax.view_likelihood import (
    HIGHEST,
    ViewTerms,
    depth_gain,
    einsum,
    features_of,
    score_sums,
    updated,
    view_log_likelihoods,
    view_terms,
)
from nrsfm_jax.visibility import (
    Blocks,
    check_landmarks,
    choose_samples,
    make_blocks,
)

# The components start with this share of the single Gaussian's covariance.
_FIRST_SPREAD = 0.5


class GaussianMixture(NamedTuple):
    """vec S ~ sum_k pi_k N(mu_k, Sigma_k), seen from ``views`` with noise sigma.

    Attributes:
        mu: (K, 3P) means x1 y1 z1 x2 ..., centred over the joints, patch units.
        Sigma: (K, 3P, 3P) covariances.
        log_weight: (K,) log pi_k.
        sigma: () standard deviation of the noise on each image coordinate.
        views: (G, 3, 3) rotations R_g, S_cam = S @ R_g; equally likely.
        log_likelihood: () mean of log p(w) over the samples of the fit, in nats.
    """

    mu: Float[Array, "k d"]
    Sigma: Float[Array, "k d d"]
    log_weight: Float[Array, " k"]
    sigma: Float[Array, ""]
    views: Float[Array, "g 3 3"]
    log_likelihood: Float[Array, ""]


def fit_shapes(
    W: Float[Array | np.ndarray, "n p 2"],
    visible: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    key: Key[Array, ""],
    components: int = 10,
    num_samples: int = 4000,
    elevations_deg: Sequence[float] = (-10.0, 0.0, 10.0, 20.0, 30.0),
    num_yaws: int = 24,
    views: Float[Array | np.ndarray, "g 3 3"] | None = None,
) -> GaussianMixture:
    """One Gaussian, then several: `fit_gaussian_shape` and `fit_gaussian_mixture`."""
    first, second = jax.random.split(key)
    shape = fit_gaussian_shape(
        W,
        key=first,
        visible=visible,
        num_samples=num_samples,
        elevations_deg=elevations_deg,
        num_yaws=num_yaws,
        views=views,
    )
    return fit_gaussian_mixture(
        shape,
        W,
        key=second,
        visible=visible,
        components=components,
        num_samples=num_samples,
    )


def fit_gaussian_mixture(
    shape: GaussianShape,
    W: Float[Array | np.ndarray, "n p 2"],
    *,
    key: Key[Array, ""],
    visible: Bool[Array | np.ndarray, "n p"] | None = None,
    components: int = 10,
    num_samples: int = 4000,
    iterations: int = 40,
    pooling: float = 100.0,
) -> GaussianMixture:
    """Splits a fitted Gaussian into several by expectation maximisation.

    Every component starts at the posterior mean shape of a random sample.

    Args:
        shape: from `fit_gaussian_shape`.
        W: landmarks centred over the visible joints, patch units, y down.
        key: chooses the samples and the first means.
        visible: True where a landmark is known.
        components: K.
        num_samples: size of the random subset that is used.
        iterations: steps of EM.
        pooling: how many samples of the average covariance each component gets on
            top of its own, so that rare poses make no component of few directions.

    Returns:
        The mixture, in the body frame and at the noise of ``shape``.

    Raises:
        ValueError: no component, or landmarks that cannot be used.
    """
    if components < 1:
        raise ValueError(f"components={components}: give at least one")
    landmarks, shown = check_landmarks(W, visible)
    choose, pick = jax.random.split(key)
    blocks = choose_samples(landmarks, shown, key=choose, num_samples=num_samples)
    start = _split(shape, blocks, pick, components)
    fitted, log_p = _run_em(start, blocks, jnp.float32(pooling), jnp.int32(iterations))
    return fitted._replace(log_likelihood=log_p)


def expected_depth(
    mixture: GaussianMixture,
    W: Float[Array | np.ndarray, "n p 2"],
    visible: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    chunk: int = 1024,
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, " n"]]:
    """Posterior mean of the depth.

        z = sum_kg r_kg (mu_k + K_kg (w - A_g mu_k)),  r the posterior of (k, g)

    Args:
        mixture: the fitted shapes.
        W: landmarks centred over the visible joints, patch units, y down.
        visible: True where a landmark is known; missing ones are marginalised.
        chunk: samples handled at once, a bound on memory.

    Returns:
        z, (N, P) away from the camera, mean 0 over all joints, also for missing ones;
        and log p(w), nats (it counts visible landmarks only).
    """
    landmarks, shown = check_landmarks(W, visible)
    n, P, _ = landmarks.shape
    blocks = make_blocks(landmarks, shown, complete_size=min(chunk, n))
    z, log_p = _expected_blocks(mixture, blocks)
    used = np.asarray(blocks.weight) > 0
    rows = np.asarray(blocks.row)[used]
    depth, log_likelihood = np.empty((n, P), np.float32), np.empty(n, np.float32)
    depth[rows], log_likelihood[rows] = np.asarray(z)[used], np.asarray(log_p)[used]
    return depth, log_likelihood


def as_mixture(shape: GaussianShape) -> GaussianMixture:
    """The mixture of one component."""
    one = jnp.zeros(1, shape.mu.dtype)
    mu, Sigma, *rest = shape
    return GaussianMixture(mu[None], Sigma[None], one, *rest)


def _split(
    shape: GaussianShape, blocks: Blocks, key: Key[Array, ""], components: int
) -> GaussianMixture:
    """Means: posterior shapes of random samples; covariances: narrower ones."""
    if components == 1:
        return as_mixture(shape)
    weight = np.asarray(blocks.weight).reshape(-1)
    count = min(components, int(weight.sum()))
    index = jax.random.choice(
        key, weight.size, (count,), replace=False, p=jnp.asarray(weight / weight.sum())
    )
    block, row = np.unravel_index(np.asarray(index), np.shape(blocks.weight))
    w = np.asarray(blocks.W)[block, row].reshape(count, -1)
    means = _posterior_shapes(shape, jnp.asarray(w), jnp.asarray(blocks.visible)[block])
    Sigma = jnp.tile(_FIRST_SPREAD * shape.Sigma, (count, 1, 1))
    even = jnp.full(count, -np.log(count), means.dtype)
    return GaussianMixture(means, Sigma, even, *shape[2:])


@jax.jit
def _posterior_shapes(
    shape: GaussianShape, w: Float[Array, "n e"], visible: Bool[Array, "n p"]
) -> Float[Array, "n d"]:
    """mu + K_g (w - A_g mu) at the likeliest view of each sample."""
    P = visible.shape[1]

    def one(sample):
        w, visible = sample
        terms = view_terms(*shape[:4], visible)
        g = jnp.argmax(view_log_likelihoods(features_of(w[None]), terms)[0])
        error = jnp.dot(terms.precision[g], w - terms.mean[g], precision=HIGHEST)
        M = shape.views[g, :, :2]
        back = einsum("pi,ai->pa", error.reshape(P, 2), M).reshape(3 * P)
        return shape.mu + jnp.dot(shape.Sigma, back, precision=HIGHEST)

    return jax.lax.map(one, (w, visible))


def _terms(mixture: GaussianMixture, visible: Bool[Array, " p"]) -> ViewTerms:
    """Terms of all pairs (k, g), the views of one component together.

    The constants hold log pi_k and the evenly likely views.
    """
    mu, Sigma, log_weight, sigma, views, _ = mixture
    terms = jax.vmap(view_terms, (0, 0, None, None, None))(
        mu, Sigma, sigma, views, visible
    )
    prior = log_weight - jnp.log(float(len(views)))
    terms = terms._replace(constant=terms.constant + prior[:, None])
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), terms)


def _em_step(
    mixture: GaussianMixture,
    features: Float[Array, "t b f"],
    weight: Float[Array, "t b"],
    visible: Bool[Array, "t p"],
    pooling: Float[Array, ""],
) -> tuple[GaussianMixture, Float[Array, ""]]:
    """One step; also the mean log-likelihood of the mixture given to it."""
    K, d = mixture.mu.shape
    G, e = len(mixture.views), d // 3 * 2

    def add_block(total, block):
        block_features, block_weight, block_visible = block
        terms = _terms(mixture, block_visible)
        log_joint = view_log_likelihoods(block_features, terms)
        log_p = jax.nn.logsumexp(log_joint, axis=1)
        r = jnp.exp(log_joint - log_p[:, None]) * block_weight[:, None]
        sums = *score_sums(block_features, r, terms), r.sum(0), log_p @ block_weight
        return jax.tree.map(jnp.add, total, sums), None

    sizes = (K * G, e), (K * G, e, e), (K * G,), ()
    total = tuple(jnp.zeros(size, features.dtype) for size in sizes)
    (h, H, N, log_p), _ = jax.lax.scan(add_block, total, (features, weight, visible))
    N = N.reshape(K, G).sum(1)
    mu, Sigma = jax.vmap(updated, (0, 0, None, 0, 0, 0))(
        mixture.mu,
        mixture.Sigma,
        mixture.views,
        h.reshape(K, G, e),
        H.reshape(K, G, e, e),
        jnp.maximum(N, 1.0),
    )
    n = jnp.sum(weight)
    pool = einsum("k,kab->ab", N / n, Sigma)
    share = (N / (N + pooling))[:, None, None]
    Sigma = share * Sigma + (1 - share) * pool[None]
    log_weight = jnp.log((N + 1) / (n + K))
    return mixture._replace(mu=mu, Sigma=Sigma, log_weight=log_weight), log_p / n


@jax.jit
def _run_em(
    mixture: GaussianMixture,
    blocks: Blocks,
    pooling: Float[Array, ""],
    iterations: Int[Array, ""],
) -> tuple[GaussianMixture, Float[Array, ""]]:
    """``iterations`` steps, and the mean log-likelihood of the outcome."""
    T, B, P, _ = blocks.W.shape
    features = jax.vmap(features_of)(jnp.reshape(blocks.W, (T, B, 2 * P)))
    weight, visible = jnp.asarray(blocks.weight), jnp.asarray(blocks.visible)
    floor = RIDGE * centring(P)

    def step(_, state):
        (mixture, _), _ = state
        new, log_p = _em_step(mixture, features, weight, visible, pooling)
        new = new._replace(Sigma=new.Sigma + floor[None])
        return (new, mixture), log_p

    # One step more than asked for: it scores the last mixture and is then dropped.
    start = (mixture, mixture), jnp.zeros((), features.dtype)
    (_, mixture), log_p = jax.lax.fori_loop(0, iterations + 1, step, start)
    return mixture, log_p


@jax.jit
def _expected_blocks(
    mixture: GaussianMixture, blocks: Blocks
) -> tuple[Float[Array, "t b p"], Float[Array, "t b"]]:
    mu, Sigma, _, _, views, _ = mixture
    K, d = mu.shape
    G, P = len(views), d // 3
    mean_depth = einsum("kpa,ga->kgp", mu.reshape(K, P, 3), views[:, :, 2])

    def depth_of_block(block):
        W, visible = block
        w = W.reshape(-1, 2 * P)
        terms = _terms(mixture, visible)
        log_joint = view_log_likelihoods(features_of(w), terms)
        log_p = jax.nn.logsumexp(log_joint, axis=1)
        r = jnp.exp(log_joint - log_p[:, None])
        precision = terms.precision.reshape(K, G, 2 * P, 2 * P)
        gain = jax.vmap(depth_gain, (0, None, 0))(Sigma, views, precision)
        gain = gain.reshape(K * G, P, 2 * P)
        # Linear in w for each pair: constants and gains are summed apart.
        constant = mean_depth.reshape(K * G, P) - einsum("cpe,ce->cp", gain, terms.mean)
        z = jnp.matmul(r, constant, precision=HIGHEST)
        z = z + _weighted_gains(r, gain, w)
        return z - jnp.mean(z, axis=1, keepdims=True), log_p

    return jax.lax.map(depth_of_block, (blocks.W, blocks.visible))


def _weighted_gains(
    r: Float[Array, "n c"], gain: Float[Array, "c p e"], w: Float[Array, "n e"]
) -> Float[Array, "n p"]:
    """sum_c r_nc gain_c w_n: the gains are averaged first, one product for all."""
    C, P, e = gain.shape
    mean_gain = jnp.matmul(r, gain.reshape(C, P * e), precision=HIGHEST)
    return einsum("npe,ne->np", mean_gain.reshape(-1, P, e), w)
