"""One Gaussian shape seen from unknown views: a coherent first guess of depth.

    s = vec S ~ N(mu, Sigma)          the shape, in a body frame
    w = A_g s + t + N(0, sigma^2 I)   its picture, A_g = I_P (x) R_g[:, :2]^T

with a latent view g out of a fixed grid and a free shift t. Expectation
maximisation over g and s is cheap, and every sample shares one body frame, so the
depths that it predicts agree in sign with each other. The teacher of Section 3,
trained from scratch, ends with part of its samples mirrored in depth; guided by
these depths in the first part of its training, it does not.

Paper: no such step; here: it was added, because without it the outcome depends on
the seed.

Frames: S_cam = S @ R_g and W = S_cam[:, :2]; the body frame has y up (see `views`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nrsfm_jax.missing import responsibilities, start_features
from nrsfm_jax.view_likelihood import (
    depth_gain,
    einsum,
    features_of,
    score_sums,
    updated,
    view_log_likelihoods,
    view_terms,
)
from nrsfm_jax.views import upright_views
from nrsfm_jax.visibility import (
    Blocks,
    Samples,
    check_landmarks,
    choose_samples,
    make_blocks,
)

# Added to Sigma in every step, so that it stays positive in float32. What landmarks
# say little about changes slowly, and more of it would add up there.
RIDGE = 1e-6


class GaussianShape(NamedTuple):
    """vec S ~ N(mu, Sigma) in the body frame, seen from ``views`` with noise sigma.

    Attributes:
        mu: (3P,) mean shape x1 y1 z1 x2 ..., centred over the joints, patch units.
        Sigma: (3P, 3P) covariance of the centred shape.
        sigma: () standard deviation of the noise on each image coordinate.
        views: (G, 3, 3) rotations R_g, S_cam = S @ R_g; equally likely.
        log_likelihood: () mean of log p(w) over the samples of the fit, in nats.
    """

    mu: Float[Array, " d"]
    Sigma: Float[Array, "d d"]
    sigma: Float[Array, ""]
    views: Float[Array, "g 3 3"]
    log_likelihood: Float[Array, ""]


# --- expectation and maximisation -------------------------------------------------


def _em_step(
    mu: Float[Array, " d"],
    Sigma: Float[Array, "d d"],
    sigma: Float[Array, ""],
    views: Float[Array, "g 3 3"],
    features: Float[Array, "n f"],
    samples: Samples,
) -> tuple[Float[Array, " d"], Float[Array, "d d"], Float[Array, "n f"], Array]:
    """One step of EM; also the mean log-likelihood of the parameters given to it.

    Responsibilities r_ig = softmax_g log N(w_i; A_g mu, C_g). Where landmarks are
    missing it is a lower bound of the likelihood, see `view_likelihood.complete`.
    """
    all_joints = jnp.ones(mu.shape[0] // 3, bool)
    terms = view_terms(mu, Sigma, sigma, views, all_joints)
    log_joint = view_log_likelihoods(features, terms) - jnp.log(float(len(views)))
    r, log_p, features = responsibilities(log_joint, features, samples, terms)
    h, H = score_sums(features, r, terms)
    n = jnp.float32(len(features))
    return *updated(mu, Sigma, views, h, H, n), features, log_p


@jax.jit
def _run_em(
    mu: Float[Array, " d"],
    Sigma: Float[Array, "d d"],
    sigmas: Float[Array, " steps"],
    views: Float[Array, "g 3 3"],
    samples: Samples,
    ridge: Float[Array, ""],
) -> tuple[Float[Array, " d"], Float[Array, "d d"], Float[Array, " steps+1"]]:
    """One step for each noise level; log-likelihood before each step and at the end."""
    floor = ridge * centring(mu.shape[0] // 3)

    def step(state, sigma):
        _, (mu, Sigma), features = state
        new_mu, new_Sigma, features, log_p = _em_step(
            mu, Sigma, sigma, views, features, samples
        )
        return ((mu, Sigma), (new_mu, new_Sigma + floor), features), log_p

    # The last noise level comes once more, to score the result: the outcome of
    # this extra step is dropped, and compiling a second body is saved.
    levels = jnp.concatenate([sigmas, sigmas[-1:]])
    start = mu, Sigma
    (final, _, _), trace = jax.lax.scan(
        step, (start, start, start_features(samples)), levels
    )
    return *final, trace


def centring(P: int) -> Float[Array, "d d"]:
    """Projection of vec S that removes the mean over the joints."""
    J = np.eye(P) - 1.0 / P
    return jnp.asarray(np.kron(J, np.eye(3)), jnp.float32)


# --- start, fit, posterior --------------------------------------------------------


def _profiles(
    x: Float[np.ndarray, "n p"], labelled: Bool[np.ndarray, "n p"], *, count: int
) -> Float[np.ndarray, "p k"]:
    """Main directions of the rows, each with the length it has on average."""
    together = np.maximum(labelled.T.astype(np.float64) @ labelled, 1)
    values, vectors = np.linalg.eigh(x.T.astype(np.float64) @ x / together)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    return vectors * np.sqrt(np.maximum(values, 0))


def _upright_start(samples: Samples) -> Float[np.ndarray, "p 3"]:
    """Mean shape of a body that turns about its vertical axis.

    x and z: the two main profiles s v / sqrt(n) of the image's x, times sqrt(2),
    since a turning point shows each with a mean square of one half. y: minus the
    mean of the image's y.
    """
    W, shown = np.asarray(samples.W), samples.shown
    side = np.sqrt(2) * _profiles(W[..., 0], shown, count=2)
    height = -W[..., 1].sum(0) / np.maximum(shown.sum(0), 1)
    return np.stack([side[:, 0], height, side[:, 1]], axis=1)


def _free_start(samples: Samples) -> Float[np.ndarray, "p 3"]:
    """Mean shape of a body in any rotation: main profiles of x and y together."""
    W, shown = np.asarray(samples.W), samples.shown
    both = np.concatenate([W[..., 0], W[..., 1]])
    return np.sqrt(3) * _profiles(both, np.concatenate([shown, shown]), count=3)


def fit_gaussian_shape(
    W: Float[Array | np.ndarray, "n p 2"],
    *,
    key: Key[Array, ""],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    num_samples: int = 4000,
    elevations_deg: Sequence[float] = (-10.0, 0.0, 10.0, 20.0, 30.0),
    num_yaws: int = 24,
    level_iterations: int = 60,
    iterations: int = 40,
    first_sigma: float = 0.15,
    last_sigma: float = 0.005,
    depth_noise: float = 0.05,
    views: Float[Array | np.ndarray, "g 3 3"] | None = None,
) -> GaussianShape:
    """Fits mu and Sigma by expectation maximisation from 2D landmarks alone.

    First with level views, where the noise falls from ``first_sigma`` to
    ``last_sigma`` geometrically; then on the grid of elevations, once from the
    result and once from its mirror image in z, keeping the likelier. Level views
    cannot tell a shape from its mirror image; the grid can, as far as it is right
    that the camera looks down on average. Elevations symmetric about 0 leave the
    sign of depth to chance.

    Args:
        W: landmarks centred over the labelled joints, patch units, y down.
        key: chooses the samples and the noise on the first depths.
        labelled: True where a landmark is known. With ``num_samples`` complete ones,
            only these are used; else missing landmarks are latent as well.
        num_samples: size of the random subset that is used.
        elevations_deg: elevations of the camera, positive: looks down.
        num_yaws: even rotations about the vertical axis.
        level_iterations: steps of the first stage.
        iterations: steps of the second stage.
        first_sigma: noise at the start, patch units.
        last_sigma: noise at the end and in the second stage, patch units. Exact
            landmarks allow a small one; below the error of the annotation it is no use.
        depth_noise: standard deviation of the noise on the first z, patch units.
        views: a grid to use instead, such as `rotation_views`: the first stage then
            runs on it, from the start of an upright body and from that of one that
            turns in any way, and the likelier is kept; the second stage is left out,
            and the sign of depth is arbitrary.

    Returns:
        The likelier fit.

    Raises:
        ValueError: fewer than 2 samples with a landmark, or W not finite.
    """
    landmarks, shown = check_landmarks(W, labelled)
    choose, noise = jax.random.split(key)
    samples = choose_samples(landmarks, shown, key=choose, num_samples=num_samples)
    falling = np.geomspace(first_sigma, last_sigma, level_iterations)
    steady = np.full(iterations, last_sigma)
    jitter = depth_noise * np.asarray(jax.random.normal(noise, landmarks.shape[1:2]))
    starts = [_upright_start(samples)]
    if views is not None:
        # Which one is near depends on how the object turns: about one axis or all.
        starts.append(_free_start(samples))
    first = upright_views((0.0,), num_yaws) if views is None else np.asarray(views)
    shape = _likeliest(
        _fit_stage(
            *_initial(start + jitter[:, None] * (0, 0, 1)), falling, first, samples
        )
        for start in starts
    )
    if views is not None:
        return shape
    grid = upright_views(elevations_deg, num_yaws)
    mirror = np.tile(np.array([1, 1, -1], np.float32), landmarks.shape[1])
    mirrored = shape.mu * mirror, shape.Sigma * np.outer(mirror, mirror)
    return _likeliest(
        _fit_stage(mu, Sigma, steady, grid, samples)
        for mu, Sigma in ((shape.mu, shape.Sigma), mirrored)
    )


def _likeliest(fits: Iterable[GaussianShape]) -> GaussianShape:
    return max(fits, key=lambda fit: float(fit.log_likelihood))


def _initial(S: Float[np.ndarray, "p 3"]) -> tuple[Array, Array]:
    mu = jnp.asarray((S - S.mean(0)).reshape(-1), jnp.float32)
    return mu, 0.01 * centring(len(S))


def _fit_stage(
    mu: Float[Array, " d"],
    Sigma: Float[Array, "d d"],
    sigmas: Float[np.ndarray, " steps"],
    views: Float[np.ndarray, "g 3 3"],
    samples: Samples,
) -> GaussianShape:
    levels = jnp.asarray(sigmas, jnp.float32)
    grid, floor = jnp.asarray(views, jnp.float32), jnp.float32(RIDGE)
    mu, Sigma, trace = _run_em(mu, Sigma, levels, grid, samples, floor)
    return GaussianShape(mu, Sigma, levels[-1], grid, trace[-1])


def posterior_depth(
    gaussian: GaussianShape,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    chunk: int = 2048,
) -> tuple[Float[np.ndarray, "n p"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Depth of the posterior mean shape at the likeliest view of each sample.

        g* = argmax_g log N(w; A_g mu, C_g),  s = mu + K_g* (w - A_g* mu)

    Args:
        gaussian: the fitted shape.
        W: landmarks centred over the labelled joints, patch units, y down.
        labelled: True where a landmark is known; missing ones are marginalised.
        chunk: samples handled at once, a bound on memory.

    Returns:
        z, (N, P) away from the camera, mean 0 over all joints, also for missing ones;
        the index of the view in ``gaussian.views``; and log p(w), nats (it counts
        labelled landmarks only: compare samples with equally many).
    """
    landmarks, shown = check_landmarks(W, labelled)
    n, P, _ = landmarks.shape
    blocks = make_blocks(landmarks, shown, complete_size=min(chunk, n))
    z, view, log_p = _posterior_blocks(gaussian, blocks)
    used = np.asarray(blocks.weight) > 0
    rows = np.asarray(blocks.row)[used]
    depth = np.empty((n, P), np.float32)
    depth[rows] = np.asarray(z)[used]
    index, log_likelihood = np.empty(n, np.int32), np.empty(n, np.float32)
    index[rows], log_likelihood[rows] = np.asarray(view)[used], np.asarray(log_p)[used]
    return depth, index, log_likelihood


@jax.jit
def _posterior_blocks(
    gaussian: GaussianShape, blocks: Blocks
) -> tuple[Float[Array, "t b p"], Int[Array, "t b"], Float[Array, "t b"]]:
    mu, Sigma, sigma, views, _ = gaussian
    P = mu.shape[0] // 3
    mean_depth = einsum("pa,ga->gp", mu.reshape(P, 3), views[:, :, 2])

    def depth_of_block(block):
        W, labelled = block
        w = W.reshape(-1, 2 * P)
        terms = view_terms(mu, Sigma, sigma, views, labelled)
        log_joint = view_log_likelihoods(features_of(w), terms)
        best = jnp.argmax(log_joint, axis=1)
        log_p = jax.nn.logsumexp(log_joint, axis=1) - jnp.log(float(len(views)))
        gain = depth_gain(Sigma, views, terms.precision)
        error = w - terms.mean[best]
        z = mean_depth[best] + einsum("npe,ne->np", gain[best], error)
        return z - jnp.mean(z, axis=1, keepdims=True), best, log_p

    return jax.lax.map(depth_of_block, (blocks.W, blocks.labelled))
