"""The fit of the mixture: starts, stages, choice.

A single Gaussian is fitted first, with level views and decreasing noise; then on the
grid of elevations, from that fit and from its mirror image, of which the likelier is
kept; then it is split into several, narrower ones.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

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
    shape_sums,
    single_gaussian,
    sums_of,
)
from nrsfm_jax.em.samples import (
    Samples,
    beside_mirrored,
    check_landmarks,
    choose_samples,
    most_gaps,
)
from nrsfm_jax.em.views import LEVEL, ViewPrior, upright_views
from runtime.doing import done

# Noise of the landmarks at the start and on the first depths, patch units.
_FIRST_SIGMA, _DEPTH_NOISE = 0.15, 0.05
# The components start with this share of the single Gaussian's covariance.
_FIRST_SPREAD = 0.5
# Samples of the average covariance that each gets, see `gaussians.maximise`.
POOLING = 100.0
# Where landmarks are missing: after how many steps each sample's likeliest pairs of
# component and view are looked for again, and how many are kept.
_REFRESH, _KEPT = 4, 6
# Also there: how many times as many samples, where there are so many; and the fewest of
# which a half is enough for a step.
_MORE_INCOMPLETE = 2
_FEWEST_HALVED = 4000
# With more views than these, as under any rotation, half the samples and half the
# steps; the single Gaussian starts from so many samples.
_MANY_VIEWS, _STARTED = 400, 1000


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
    sums = shape_sums(mixture, terms, sums_of(features, r, log_p, terms))
    return maximise(mixture, sums, pooling), features


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


_maximise = jax.jit(maximise)


class Incomplete(NamedTuple):
    """Samples with about as many missing joints each, and the views they may have."""

    group: missing.Group
    gaps: int  # missing joints, at most
    views: Int[Array, "t b v"]  # the likeliest under a single Gaussian


def incomplete(single: GaussianMixture, samples: Samples) -> list[Incomplete]:
    """For :func:`run_exact`: the views of each sample by a single Gaussian."""
    terms = missing.terms_in_use(single, [np.arange(len(single.views))])
    return [
        Incomplete(
            group, gaps, missing.likeliest(terms, group, gaps=gaps, kept=missing.VIEWS)
        )
        for group, gaps in missing.groups_of(samples)
    ]


def run_exact(
    mixture: GaussianMixture,
    samples: list[Incomplete],
    *,
    steps: int,
    pooling: float = 0.0,
) -> GaussianMixture:
    """Steps of the exact EM of incomplete samples, see `missing.add_sums`.

    Returns:
        The outcome, with the mean log-likelihood before the last step.
    """
    size = {"components": len(mixture.mu), "count": len(mixture.views)}
    pairs: list[Array] = []
    for step in range(steps):
        if step % _REFRESH == 0:
            # The sums over all pairs would be too slow, and few of them explain a
            # sample: the others are left out until the next look.
            near = [missing.pairs_of_views(each.views, **size) for each in samples]
            terms = missing.terms_in_use(mixture, near)
            pairs = [
                missing.likeliest(terms, each.group, own, gaps=each.gaps, kept=_KEPT)
                for each, own in zip(samples, near, strict=True)
            ]
        terms = missing.terms_in_use(mixture, pairs)
        sums = missing.no_sums(mixture)
        for each, own in zip(samples, pairs, strict=True):
            sums = missing.add_sums(
                sums, mixture, terms, each.group, own, gaps=each.gaps
            )
        sums = missing.all_sums(sums, mixture, terms)
        mixture = _maximise(mixture, sums, jnp.float32(pooling))
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
    starts, few = [upright_start(samples)], samples
    upright = prior.elevations_deg is not None
    if not upright:
        # Which one is near depends on how the object turns: about one axis or all.
        starts.append(free_start(samples))
        few = few_of(samples, prior.count * len(prior.sizes))
    first = upright_views((0.0,), prior.count) if upright else prior.grid()

    def from_start(S):
        S = S - S.mean(0) + jitter[:, None] * (0, 0, 1)
        mu = (S - S.mean(0)).reshape(-1)
        start = single_gaussian(mu, 0.01 * centring(len(S)), last_sigma, first)
        return run_em(start, few, steps=level_steps, first_sigma=_FIRST_SIGMA)

    fitted = likeliest(from_start(S) for S in starts)
    if len(few.W) < len(samples.W):
        return run_em(fitted, samples, steps=grid_steps // 2)
    if not upright:
        return fitted
    fitted = single_gaussian(fitted.mu[0], fitted.Sigma[0], last_sigma, prior.grid())
    return refit(fitted, samples, steps=grid_steps)


def few_of(samples: Samples, views: int) -> Samples:
    """The samples, or every few of them where EM of all takes long."""
    if views <= _MANY_VIEWS or most_gaps(samples.labelled) == 0:
        return samples
    rows = np.linspace(0, len(samples.W) - 1, min(_STARTED, len(samples.W)))
    return Samples(*(np.asarray(x)[rows.astype(int)] for x in samples))


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
        steps: of EM; where landmarks are missing half as many follow.
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
    options = {"key": pick, "components": components}
    if most_gaps(samples.labelled) == 0:
        start = split(single, samples, **options)
        return run_em(start, samples, steps=steps, pooling=POOLING)
    samples = beside_mirrored(samples, mirror)
    # By turns on either half: a step on other samples leaves the poor optimum that the
    # random first means are near, where steps on all samples stay in it.
    order = np.asarray(jax.random.permutation(choose, len(samples.W)))
    count = 1 if len(order) < _FEWEST_HALVED else 2
    parts = [
        incomplete(single, Samples(*(np.asarray(x)[rows] for x in samples)))
        for rows in np.array_split(order, count)
    ]
    run = functools.partial(run_exact, pooling=POOLING)
    steps = steps // 2 if many else steps
    mixture = split(single, samples, **options)
    for step in range(steps):
        mixture = run(mixture, parts[step % count], steps=1)
    return run(mixture, [each for part in parts for each in part], steps=steps // 2)


def split(
    single: GaussianMixture,
    samples: Samples,
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
    W, labelled = map(np.asarray, samples)
    count = min(components, len(W))
    rows = np.asarray(jax.random.choice(key, len(W), (count,), replace=False))
    w, gaps = jnp.asarray(W[rows].reshape(count, -1)), most_gaps(labelled[rows])
    return single._replace(
        mu=posterior_shapes(single, w, labelled[rows] if gaps else None, gaps=gaps),
        Sigma=jnp.tile(_FIRST_SPREAD * single.Sigma, (count, 1, 1)),
        log_weight=jnp.full(count, -np.log(count), w.dtype),
    )


@functools.partial(jax.jit, static_argnames="gaps")
def posterior_shapes(
    single: GaussianMixture,
    w: Float[Array, "n e"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    gaps: int = 0,
) -> Float[Array, "n d"]:
    """mu + K_g (w - A_g mu) at the likeliest view of each sample.

    ``labelled`` where at most ``gaps`` joints are missing; None: none is.
    """
    terms = pair_terms(single)

    def one(w, labelled):
        if labelled is None:
            labelled = jnp.ones(len(w) // 2, bool)
        given = missing.condition(terms, w, labelled, gaps=gaps)
        g = jnp.argmax(given.log_joint)
        error = jnp.dot(terms.precision[g], given.error[g], precision=HIGHEST)
        back = einsum("pi,ai->pa", error.reshape(-1, 2), single.views[g, :, :2])
        return single.mu[0] + jnp.dot(single.Sigma[0], back.ravel(), precision=HIGHEST)

    return jax.vmap(one)(w, labelled)


def is_finite(fitted: GaussianMixture) -> bool:
    """Whether all its numbers are."""
    return all(bool(np.isfinite(x).all()) for x in fitted)
