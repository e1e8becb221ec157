"""The fit of the mixture: starts, stages, choice.

A single Gaussian is fitted first, with level views and decreasing noise; then on the
grid of elevations, from that fit and from its mirror image, of which the likelier is
kept; then it is split into several, narrower ones.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nrsfm_jax.em import missing
from nrsfm_jax.em.gaussians import (
    HIGHEST,
    GaussianMixture,
    centring,
    einsum,
    features_of,
    log_joints,
    maximise,
    mirrored,
    pair_terms,
    single_gaussian,
    sums_of,
)
from nrsfm_jax.em.posterior import expected_pose
from nrsfm_jax.em.samples import (
    Samples,
    beside_mirrored,
    check_landmarks,
    choose_samples,
    most_gaps,
)
from nrsfm_jax.em.views import LEVEL, ViewPrior, upright_views
from runtime.progress import done

# Noise of the landmarks at the start and on the first depths, patch units.
_FIRST_SIGMA, _DEPTH_NOISE = 0.15, 0.05
# The components start with this share of the single Gaussian's covariance.
_FIRST_SPREAD = 0.5
# Samples of the average covariance that each gets, see `gaussians.maximise`.
POOLING = 100.0
# Where landmarks are missing: steps of the exact EM at the end, and after how many the
# likeliest pairs of component and view are looked for again.
_EXACT_STEPS, _EXACT_REFRESH = 30, 15
# Also there: how many times as many samples, where there are so many; and from how many
# random starts so many steps are made before the likeliest goes on.
_MORE_INCOMPLETE = 2
_STARTS, _TRIAL_STEPS = 6, 10
# With more views than these, as under any rotation, that would take many minutes: half
# the samples and one start then.
_MANY_VIEWS = 400


# --- steps ------------------------------------------------------------------------


def em_step(
    mixture: GaussianMixture,
    samples: Samples,
    centre: Float[Array, " e"],
    features: Float[Array, "n f"],
    pooling: Float[Array, ""],
    *,
    gaps: int = 0,
) -> tuple[GaussianMixture, Float[Array, "n f"]]:
    """One step of EM, for any number of components.

    Responsibilities r_ic = softmax_c log p(w_i, c). Where landmarks are missing (at
    most ``gaps``) they and the likelihood are those of a lower bound, see
    `missing.complete`. The landmarks are given about their mean ``centre``.

    Returns:
        The next mixture, with the mean log-likelihood of the present one, and the
        features expected under the present one.
    """
    terms = pair_terms(mixture, centre)
    log_joint = log_joints(features, terms)
    log_p = jax.nn.logsumexp(log_joint, axis=1)
    r = jnp.exp(log_joint - log_p[:, None])
    if gaps > 0:
        w = jnp.asarray(samples.W).reshape(len(features), -1)
        labelled = jnp.asarray(samples.labelled)
        features, entropy = missing.complete(w, labelled, r, terms, gaps=gaps)
        log_p = log_p + entropy
    sums = sums_of(features, r, log_p, terms)
    return maximise(mixture, terms, sums, pooling), features


def run_em(
    mixture: GaussianMixture,
    samples: Samples,
    *,
    steps: int,
    first_sigma: float | None = None,
    pooling: float = 0.0,
    filled: Float[Array | np.ndarray, "n e"] | None = None,
) -> GaussianMixture:
    """Steps of EM from a given mixture, on its views, to its noise sigma.

    Args:
        mixture: where to start.
        samples: of the fit.
        steps: how many.
        first_sigma: noise at the start, which falls geometrically; None: no fall.
        pooling: see `gaussians.maximise`.
        filled: the landmarks with a guess of the missing ones, to begin with; None:
            each joint as it is on average.

    Returns:
        The outcome with its log-likelihood, a lower bound where landmarks are missing.
    """
    fitted = _run_em(
        mixture,
        samples,
        None if filled is None else jnp.asarray(filled),
        mixture.sigma if first_sigma is None else jnp.float32(first_sigma),
        jnp.int32(steps),
        jnp.float32(pooling),
        gaps=most_gaps(samples.labelled),
    )
    jax.block_until_ready(fitted)
    done(steps)
    return fitted


@functools.partial(jax.jit, static_argnames="gaps")
def _run_em(
    mixture: GaussianMixture,
    samples: Samples,
    filled: Float[Array, "n e"] | None,
    first_sigma: Float[Array, ""],
    steps: Int[Array, ""],
    pooling: Float[Array, ""],
    *,
    gaps: int,
) -> GaussianMixture:
    samples, centre = _about_centre(samples)
    w = jnp.asarray(samples.W).reshape(len(samples.W), -1)
    # Where nothing is known of a missing landmark, it is at the mean of its joint: 0.
    features = features_of(w if filled is None else filled - centre[None])
    last_sigma = mixture.sigma

    def step(t, state):
        (mixture, _), features = state
        # Loud at first: the likelihood is then smooth, and a rough start goes far.
        left = jnp.maximum(1 - t / jnp.maximum(steps - 1, 1), 0)
        sigma = last_sigma * jnp.power(first_sigma / last_sigma, left)
        mixture = mixture._replace(sigma=sigma)
        new, features = em_step(mixture, samples, centre, features, pooling, gaps=gaps)
        return (new, mixture), features

    # One step more than asked for: it scores the last mixture and is then dropped.
    # The steps are no constant of the program, which is compiled once for all stages.
    start = (mixture, mixture), features
    (after, last), _ = jax.lax.fori_loop(0, steps + 1, step, start)
    return last._replace(log_likelihood=after.log_likelihood)


def _about_centre(samples: Samples) -> tuple[Samples, Float[Array, " e"]]:
    """The landmarks minus their mean, still 0 where missing; and the mean."""
    W, known = jnp.asarray(samples.W), jnp.asarray(samples.labelled)[..., None]
    centre = jnp.sum(W, axis=0) / jnp.maximum(jnp.sum(known, axis=0), 1).astype(W.dtype)
    W = jnp.where(known, W - centre[None], 0)
    return samples._replace(W=W), centre.reshape(-1)


_terms, _maximise = jax.jit(pair_terms), jax.jit(maximise)


def run_exact(
    mixture: GaussianMixture, samples: Samples, *, steps: int, pooling: float = 0.0
) -> GaussianMixture:
    """Steps of the exact EM of incomplete samples, see `missing.add_sums`.

    Returns:
        The outcome, with the mean log-likelihood before the last step.
    """
    groups = missing.groups_of(samples)
    pairs: list[Array] = []
    for step in range(steps):
        terms = _terms(mixture)
        if step % _EXACT_REFRESH == 0:
            pairs = [missing.likeliest_pairs(terms, g, gaps=m) for g, m in groups]
        sums = missing.no_sums(terms)
        for (group, gaps), own in zip(groups, pairs, strict=True):
            sums = missing.add_sums(sums, terms, group, own, gaps=gaps)
        mixture = _maximise(mixture, terms, sums, jnp.float32(pooling))
        done(1)
    return mixture


def likeliest(fits: Iterable[GaussianMixture]) -> GaussianMixture:
    """The fit of the highest log-likelihood; one that is not a number never."""
    return max(
        fits, key=lambda fit: np.nan_to_num(float(fit.log_likelihood), nan=-np.inf)
    )


# --- starts -----------------------------------------------------------------------


def _profiles(
    x: Float[np.ndarray, "n p"], labelled: Bool[np.ndarray, "n p"], *, count: int
) -> Float[np.ndarray, "p k"]:
    """Main directions of the rows, each with the length it has on average."""
    together = np.maximum(labelled.T.astype(np.float64) @ labelled, 1)
    values, vectors = np.linalg.eigh(x.T.astype(np.float64) @ x / together)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    return vectors * np.sqrt(np.maximum(values, 0))


def upright_start(samples: Samples) -> Float[np.ndarray, "p 3"]:
    """Mean shape of a body that turns about its vertical axis.

    x and z: the two main profiles s v / sqrt(n) of the image's x, times sqrt(2). y:
    minus the mean of the image's y.
    """
    # sqrt(2), since a turning point shows x and z with a mean square of one half each.
    W, labelled = map(np.asarray, samples)
    side = np.sqrt(2) * _profiles(W[..., 0], labelled, count=2)
    height = -W[..., 1].sum(0) / np.maximum(labelled.sum(0), 1)
    return np.stack([side[:, 0], height, side[:, 1]], axis=1)


def free_start(samples: Samples) -> Float[np.ndarray, "p 3"]:
    """Mean shape of a body in any rotation: main profiles of x and y together."""
    W, labelled = map(np.asarray, samples)
    both = np.concatenate([W[..., 0], W[..., 1]])
    return np.sqrt(3) * _profiles(both, np.concatenate([labelled, labelled]), count=3)


# --- stages -----------------------------------------------------------------------


def fit_gaussian(
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    key: Key[Array, ""],
    prior: ViewPrior = LEVEL,
    num_samples: int = 4000,
    level_steps: int = 60,
    grid_steps: int = 40,
    last_sigma: float = 0.005,
) -> GaussianMixture:
    """Fits a single Gaussian to 2D landmarks alone.

    First with level views, where the noise falls; then :func:`refit` on the grid.

    Args:
        W: landmarks centred over the labelled joints, patch units, y down.
        labelled: True where a landmark is known. With ``num_samples`` complete ones,
            only these are used; else missing landmarks are latent as well.
        key: chooses the samples and the noise on the first depths.
        prior: the views. With any rotation the first stage runs on them and the second
            is left out; the sign of depth is arbitrary.
        num_samples: size of the random subset that is used.
        level_steps: steps of the first stage.
        grid_steps: steps of the second stage.
        last_sigma: noise at the end and in the second stage, patch units. Exact
            landmarks allow a small one; below the error of the annotation it is no use.

    Returns:
        The likelier fit, a mixture of one component.

    Raises:
        ValueError: fewer than 2 samples with a landmark, or W not finite.
    """
    landmarks, mask = check_landmarks(W, labelled)
    choose, noise = jax.random.split(key)
    samples = choose_samples(landmarks, mask, key=choose, num_samples=num_samples)
    jitter = _DEPTH_NOISE * np.asarray(jax.random.normal(noise, landmarks.shape[1:2]))
    starts = [upright_start(samples)]
    upright = prior.elevations_deg is not None
    if not upright:
        # Which one is near depends on how the object turns: about one axis or all.
        starts.append(free_start(samples))
    first = upright_views((0.0,), prior.count) if upright else prior.grid()

    def from_start(S):
        S = S - S.mean(0) + jitter[:, None] * (0, 0, 1)
        mu = (S - S.mean(0)).reshape(-1)
        start = single_gaussian(mu, 0.01 * centring(len(S)), last_sigma, first)
        return run_em(start, samples, steps=level_steps, first_sigma=_FIRST_SIGMA)

    fitted = likeliest(from_start(S) for S in starts)
    if not upright:
        return fitted
    fitted = single_gaussian(fitted.mu[0], fitted.Sigma[0], last_sigma, prior.grid())
    return refit(fitted, samples, steps=grid_steps)


def refit(mixture: GaussianMixture, samples: Samples, *, steps: int) -> GaussianMixture:
    """EM from a mixture and from its mirror image in the body's z: the likelier."""
    # Level views cannot tell a shape from its mirror image; a grid of elevations can,
    # as far as it is right that the camera looks down on average. Elevations symmetric
    # about 0 leave the sign of depth to chance.
    return likeliest(
        run_em(start, samples, steps=steps) for start in (mixture, mirrored(mixture))
    )


def fit_mixture(
    single: GaussianMixture,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    key: Key[Array, ""],
    components: int = 10,
    num_samples: int = 4000,
    steps: int = 40,
    mirror: Int[np.ndarray, " p"] | None = None,
) -> GaussianMixture:
    """Splits a fitted Gaussian into several and fits these.

    Args:
        single: from :func:`fit_gaussian`.
        W: landmarks, as there.
        labelled: True where a landmark is known.
        key: chooses the samples and the first means.
        components: K.
        num_samples: size of the random subset, twice that where landmarks are missing.
        steps: of EM.
        mirror: joint p of a mirrored picture was joint ``mirror[p]``. Where landmarks
            are missing, the mirror images of the samples then count as well.

    Returns:
        The mixture, in the body frame and at the noise of ``single``.
    """
    if components < 1:
        raise ValueError(f"components={components}: give at least one")
    choose, pick = jax.random.split(key)
    many = len(single.views) > _MANY_VIEWS
    samples = choose_samples(
        *check_landmarks(W, labelled),
        key=choose,
        num_samples=num_samples,
        num_incomplete=num_samples // 2 if many else _MORE_INCOMPLETE * num_samples,
    )
    complete = most_gaps(samples.labelled) == 0
    samples = samples if complete else beside_mirrored(samples, mirror)
    w = samples.W if complete else expected_pose(single, *samples)[0][..., :2]
    w = jnp.asarray(np.asarray(w).reshape(len(w), -1))
    run = functools.partial(run_em, samples=samples, pooling=POOLING, filled=w)
    start = split(single, w, key=pick, components=components)
    if complete:
        return run(start, steps=steps)
    # Where landmarks are missing the outcome depends more on the random first means:
    # the likeliest of several starts goes on, and the last steps are exact.
    if components > 1 and not many:
        keys = [jax.random.fold_in(pick, i) for i in range(1, _STARTS)]
        others = [split(single, w, key=k, components=components) for k in keys]
        start = likeliest(run(trial, steps=_TRIAL_STEPS) for trial in (start, *others))
    fitted = run(start, steps=steps)
    # The caller may leave the mirror images out where the numbers are not finite.
    if not is_finite(fitted):
        return fitted
    return run_exact(fitted, samples, steps=_EXACT_STEPS, pooling=POOLING)


def split(
    single: GaussianMixture,
    w: Float[Array, "n e"],
    *,
    key: Key[Array, ""],
    components: int,
) -> GaussianMixture:
    """Means: posterior shapes of random samples; covariances: narrower ones."""
    # Poses of one body are not Gaussian, and a picture that fits two views of one broad
    # Gaussian often fits only one of several narrow ones. The body frame, and with it
    # the sign of depth, stays that of the single Gaussian.
    if components == 1:
        return single
    count = min(components, len(w))
    rows = jax.random.choice(key, len(w), (count,), replace=False)
    return single._replace(
        mu=posterior_shapes(single, w[rows]),
        Sigma=jnp.tile(_FIRST_SPREAD * single.Sigma, (count, 1, 1)),
        log_weight=jnp.full(count, -np.log(count), w.dtype),
    )


@jax.jit
def posterior_shapes(
    single: GaussianMixture, w: Float[Array, "n e"]
) -> Float[Array, "n d"]:
    """mu + K_g (w - A_g mu) at the likeliest view of each sample."""
    terms = pair_terms(single)

    def one(w):
        every = jnp.ones(len(w) // 2, bool)
        given = missing.condition(terms, w, every, gaps=0)
        g = jnp.argmax(given.log_joint)
        error = jnp.dot(terms.precision[g], given.error[g], precision=HIGHEST)
        back = einsum("pi,ai->pa", error.reshape(-1, 2), single.views[g, :, :2])
        return single.mu[0] + jnp.dot(single.Sigma[0], back.ravel(), precision=HIGHEST)

    return jax.vmap(one)(w)


def is_finite(fitted: GaussianMixture) -> bool:
    """Whether all its numbers are."""
    return all(bool(np.isfinite(x).all()) for x in fitted)
