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

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nrsfm_jax import exact_em
from nrsfm_jax.gaussian_shape import RIDGE, GaussianShape, centring, fit_gaussian_shape
from nrsfm_jax.missing import completed_pose, equal_gaps, responsibilities
from nrsfm_jax.view_likelihood import (
    HIGHEST,
    ViewTerms,
    depth_gain,
    einsum,
    features_of,
    score_sums,
    scores,
    updated,
    view_log_likelihoods,
    view_terms,
)
from nrsfm_jax.visibility import (
    Samples,
    beside_mirrored,
    check_landmarks,
    choose_samples,
)

# The components start with this share of the single Gaussian's covariance.
_FIRST_SPREAD = 0.5
# Where landmarks are missing: steps of the exact EM at the end, and after how many the
# likeliest pairs of component and view are looked for again.
_EXACT_STEPS, _EXACT_REFRESH = 30, 15
# Also there: how many times as many samples, where there are so many; and from how many
# random starts so many steps are made before the likeliest goes on.
_MORE_INCOMPLETE = 2
_STARTS, _TRIAL_STEPS = 6, 10


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
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    key: Key[Array, ""],
    components: int = 10,
    num_samples: int = 4000,
    elevations_deg: Sequence[float] = (-10.0, 0.0, 10.0, 20.0, 30.0),
    num_yaws: int = 24,
    last_sigma: float = 0.005,
    views: Float[Array | np.ndarray, "g 3 3"] | None = None,
    mirror: Int[np.ndarray, " p"] | None = None,
) -> GaussianMixture:
    """One Gaussian, then several: `fit_gaussian_shape` and `fit_gaussian_mixture`.

    Mirror images that the single Gaussian cannot explain at all are left out.

    Raises:
        ValueError: also where a fit did not end in finite numbers.
    """
    first, second = jax.random.split(key)
    shape = fit_gaussian_shape(
        W,
        key=first,
        labelled=labelled,
        num_samples=num_samples,
        elevations_deg=elevations_deg,
        num_yaws=num_yaws,
        last_sigma=last_sigma,
        views=views,
    )
    _check_finite(shape, W)
    fit = functools.partial(
        fit_gaussian_mixture,
        shape,
        W,
        key=second,
        labelled=labelled,
        components=components,
        num_samples=num_samples,
    )
    mixture = fit(mirror=mirror)
    if mirror is not None and not _is_finite(mixture):
        mixture = fit()
    _check_finite(mixture, W)
    return mixture


def _is_finite(fitted: GaussianShape | GaussianMixture) -> bool:
    return all(bool(np.isfinite(x).all()) for x in fitted)


def _check_finite(
    fitted: GaussianShape | GaussianMixture, W: Float[Array | np.ndarray, "n p 2"]
) -> None:
    if _is_finite(fitted):
        return
    n, P, _ = W.shape
    raise ValueError(
        f"the EM on {n} samples of {P} landmarks ended in numbers that are not finite: "
        "too few samples, or too few views (config.teacher.em.num_yaws, elevations_deg)"
        " for landmarks that are missing; give more, or train without it "
        "(config.teacher.em.guide_fraction=0)"
    )


def fit_gaussian_mixture(
    shape: GaussianShape,
    W: Float[Array | np.ndarray, "n p 2"],
    *,
    key: Key[Array, ""],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    components: int = 10,
    num_samples: int = 4000,
    iterations: int = 40,
    pooling: float = 100.0,
    mirror: Int[np.ndarray, " p"] | None = None,
) -> GaussianMixture:
    """Splits a fitted Gaussian into several by expectation maximisation.

    Every component starts at the posterior mean shape of a random sample. Where
    landmarks are missing the outcome depends more on which ones: there the likeliest of
    several starts goes on.

    Args:
        shape: from `fit_gaussian_shape`.
        W: landmarks centred over the labelled joints, patch units, y down.
        key: chooses the samples and the first means.
        labelled: True where a landmark is known.
        components: K.
        num_samples: size of the random subset that is used.
        iterations: steps of EM.
        pooling: how many samples of the average covariance each component gets on
            top of its own, so that rare poses make no component of few directions.
        mirror: joint p of a mirrored picture was joint ``mirror[p]``. Where landmarks
            are missing, the mirror images of the samples then count as well.

    Returns:
        The mixture, in the body frame and at the noise of ``shape``.

    Raises:
        ValueError: no component, or landmarks that cannot be used.
    """
    if components < 1:
        raise ValueError(f"components={components}: give at least one")
    landmarks, shown = check_landmarks(W, labelled)
    choose, pick = jax.random.split(key)
    samples = choose_samples(
        landmarks,
        shown,
        key=choose,
        num_samples=num_samples,
        num_incomplete=_MORE_INCOMPLETE * num_samples,
    )
    if samples.labelled is not None:
        samples = beside_mirrored(samples, mirror)
    w = _filled(shape, samples)
    run = functools.partial(
        _run_em, jax.jit(features_of)(w), samples, jnp.float32(pooling)
    )
    start = _split(shape, w, pick, components)
    if samples.labelled is None:
        fitted, log_p = run(jnp.int32(iterations), start)
    else:
        more = _STARTS if components > 1 else 1
        keys = [jax.random.fold_in(pick, i) for i in range(1, more)]
        start = _likeliest(
            run(jnp.int32(_TRIAL_STEPS), trial)
            for trial in (start, *(_split(shape, w, k, components) for k in keys))
        )
        fitted, log_p = run(jnp.int32(iterations), start)
        if _is_finite(fitted):
            fitted, log_p = _run_exact(fitted, samples, jnp.float32(pooling))
    return fitted._replace(log_likelihood=log_p)


def expected_depth(
    mixture: GaussianMixture,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    chunk: int = 1024,
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, " n"]]:
    """Posterior mean of the depth.

        z = sum_kg r_kg (mu_k + K_kg (w - A_g mu_k)),  r the posterior of (k, g)

    Args:
        mixture: the fitted shapes.
        W: landmarks centred over the labelled joints, patch units, y down.
        labelled: True where a landmark is known; missing ones are marginalised.
        chunk: samples handled at once, a bound on memory.

    Returns:
        z, (N, P) away from the camera, mean 0 over all joints, also for missing ones;
        and log p(w), nats (it counts labelled landmarks only).
    """
    pose, log_p = expected_pose(mixture, W, labelled, chunk=chunk)
    return pose[..., 2], log_p


def expected_pose(
    mixture: GaussianMixture,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    chunk: int = 1024,
) -> tuple[Float[np.ndarray, "n p 3"], Float[np.ndarray, " n"]]:
    """:func:`expected_depth` beside the landmarks, missing ones as they are expected.

    Returns:
        (N, P, 3): the landmarks as given, posterior means in place of missing ones,
        and z; and log p(w).
    """
    landmarks, shown = check_landmarks(W, labelled)
    n, P, _ = landmarks.shape
    pose, log_p = np.empty((n, P, 3), np.float32), np.empty(n, np.float32)
    for rows, count in equal_gaps(shown, chunk=chunk):
        pose[rows], log_p[rows] = _expected_rows(
            mixture, landmarks[rows], shown[rows], count
        )
    return pose, log_p


def as_mixture(shape: GaussianShape) -> GaussianMixture:
    """The mixture of one component."""
    one = jnp.zeros(1, shape.mu.dtype)
    mu, Sigma, *rest = shape
    return GaussianMixture(mu[None], Sigma[None], one, *rest)


def _filled(shape: GaussianShape, samples: Samples) -> Float[Array, "n e"]:
    """The landmarks, missing ones as ``shape`` expects them."""
    w = samples.W
    if samples.labelled is not None:
        w = expected_pose(as_mixture(shape), w, samples.labelled)[0][..., :2]
    return jnp.asarray(np.reshape(w, (len(w), -1)))


def _split(
    shape: GaussianShape, w: Float[Array, "n e"], key: Key[Array, ""], components: int
) -> GaussianMixture:
    """Means: posterior shapes of random samples; covariances: narrower ones."""
    if components == 1:
        return as_mixture(shape)
    count = min(components, len(w))
    rows = jax.random.choice(key, len(w), (count,), replace=False)
    means = _posterior_shapes(shape, w[rows])
    Sigma = jnp.tile(_FIRST_SPREAD * shape.Sigma, (count, 1, 1))
    even = jnp.full(count, -np.log(count), means.dtype)
    return GaussianMixture(means, Sigma, even, *shape[2:])


def _likeliest(
    fits: Iterable[tuple[GaussianMixture, Float[Array, ""]]],
) -> GaussianMixture:
    """The mixture of the highest log-likelihood."""
    return max(fits, key=lambda fit: np.nan_to_num(float(fit[1]), nan=-np.inf))[0]


@jax.jit
def _posterior_shapes(
    shape: GaussianShape, w: Float[Array, "n e"]
) -> Float[Array, "n d"]:
    """mu + K_g (w - A_g mu) at the likeliest view of each sample."""
    P = w.shape[1] // 2
    terms = view_terms(*shape[:4], jnp.ones(P, bool))
    g = jnp.argmax(view_log_likelihoods(features_of(w), terms), axis=1)
    error = einsum("nab,nb->na", terms.precision[g], w - terms.mean[g])
    back = einsum("npi,nai->npa", error.reshape(-1, P, 2), shape.views[g, :, :2])
    back = back.reshape(-1, 3 * P)
    return shape.mu[None] + jnp.matmul(back, shape.Sigma, precision=HIGHEST)


def pair_terms(mixture: GaussianMixture, labelled: Bool[Array, " p"]) -> ViewTerms:
    """Terms of all pairs (k, g), the views of one component together.

    The constants hold log pi_k and the evenly likely views.
    """
    mu, Sigma, log_weight, sigma, views, _ = mixture
    terms = jax.vmap(view_terms, (0, 0, None, None, None))(
        mu, Sigma, sigma, views, labelled
    )
    prior = log_weight - jnp.log(float(len(views)))
    terms = terms._replace(constant=terms.constant + prior[:, None])
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), terms)


def depth_of_pairs(
    mixture: GaussianMixture, terms: ViewTerms
) -> tuple[Float[Array, "c p e"], Float[Array, "c p"], Float[Array, "c p p"]]:
    """Of all pairs: K_z, the depth of the mean shape, and V, all landmarks given."""
    mu, Sigma, _, _, views, _ = mixture
    K, G, P = len(mu), len(views), mu.shape[1] // 3
    M, axis = views[:, :, :2], views[:, :, 2]
    blocks = Sigma.reshape(K, P, 3, P, 3)
    along = einsum("kpaqb,ga->kgpqb", blocks, axis)
    zz = einsum("kgpqb,gb->kgpq", along, axis).reshape(K * G, P, P)
    zw = einsum("kgpqb,gbj->kgpqj", along, M).reshape(K * G, P, 2 * P)
    precision = terms.precision.reshape(K, G, 2 * P, 2 * P)
    gain = jax.vmap(depth_gain, (0, None, 0))(Sigma, views, precision)
    gain = gain.reshape(K * G, P, 2 * P)
    depth = einsum("kpa,ga->kgp", mu.reshape(K, P, 3), axis).reshape(K * G, P)
    return gain, depth, zz - einsum("cpe,cqe->cpq", gain, zw)


def _em_step(
    mixture: GaussianMixture,
    features: Float[Array, "n f"],
    samples: Samples,
    pooling: Float[Array, ""],
) -> tuple[GaussianMixture, Float[Array, "n f"], Float[Array, ""]]:
    """One step; also the mean log-likelihood of the mixture given to it."""
    terms = pair_terms(mixture, jnp.ones(samples.W.shape[1], bool))
    log_joint = view_log_likelihoods(features, terms)
    r, log_p, features = responsibilities(log_joint, features, samples, terms)
    h, H = score_sums(features, r, terms)
    n = jnp.float32(len(features))
    new = _maximised(mixture, h, H, jnp.sum(r, axis=0), n, pooling)
    return new, features, log_p


def _maximised(
    mixture: GaussianMixture,
    h: Float[Array, "c e"],
    H: Float[Array, "c e e"],
    N: Float[Array, " c"],
    n: Float[Array, ""],
    pooling: Float[Array, ""],
) -> GaussianMixture:
    """The maximisation from the sums of all pairs over n samples."""
    K, G, e = len(mixture.mu), len(mixture.views), h.shape[1]
    N = N.reshape(K, G).sum(1)
    mu, Sigma = jax.vmap(updated, (0, 0, None, 0, 0, 0))(
        mixture.mu,
        mixture.Sigma,
        mixture.views,
        h.reshape(K, G, e),
        H.reshape(K, G, e, e),
        jnp.maximum(N, 1.0),
    )
    pool = einsum("k,kab->ab", N / n, Sigma)
    share = (N / (N + pooling))[:, None, None]
    Sigma = share * Sigma + (1 - share) * pool[None]
    log_weight = jnp.log((N + 1) / (n + K))
    return mixture._replace(mu=mu, Sigma=Sigma, log_weight=log_weight)


@jax.jit
def _run_em(
    features: Float[Array, "n f"],
    samples: Samples,
    pooling: Float[Array, ""],
    iterations: Int[Array, ""],
    mixture: GaussianMixture,
) -> tuple[GaussianMixture, Float[Array, ""]]:
    """``iterations`` steps, and the mean log-likelihood of the outcome."""
    floor = RIDGE * centring(samples.W.shape[1])

    def step(_, state):
        (mixture, _), features, _ = state
        new, features, log_p = _em_step(mixture, features, samples, pooling)
        new = new._replace(Sigma=new.Sigma + floor[None])
        return (new, mixture), features, log_p

    # One step more than asked for: it scores the last mixture and is then dropped.
    start = (mixture, mixture), features, jnp.zeros((), features.dtype)
    (_, mixture), _, log_p = jax.lax.fori_loop(0, iterations + 1, step, start)
    return mixture, log_p


def _run_exact(
    mixture: GaussianMixture, samples: Samples, pooling: Float[Array, ""]
) -> tuple[GaussianMixture, Float[Array, ""]]:
    """Steps of the exact EM, and the mean log-likelihood before the last."""
    groups = exact_em.groups_of(samples)
    pairs: list[Array] = []
    log_p = mixture.log_likelihood
    for step in range(_EXACT_STEPS):
        terms = _all_terms(mixture)
        if step % _EXACT_REFRESH == 0:
            pairs = [exact_em.likeliest_pairs(terms, group) for group in groups]
        sums = exact_em.no_sums(terms)
        for group, own in zip(groups, pairs, strict=True):
            sums = exact_em.add_sums(sums, terms, group, own)
        mixture = _exact_maximised(mixture, terms, sums, pooling)
        log_p = sums.log_p / len(samples.W)
    return mixture, log_p


@jax.jit
def _all_terms(mixture: GaussianMixture) -> ViewTerms:
    return pair_terms(mixture, jnp.ones(mixture.mu.shape[1] // 3, bool))


@jax.jit
def _exact_maximised(
    mixture: GaussianMixture,
    terms: ViewTerms,
    sums: exact_em.PairSums,
    pooling: Float[Array, ""],
) -> GaussianMixture:
    h, H = scores(sums.first, sums.second, sums.N, terms.precision)
    new = _maximised(mixture, h, H, sums.N, jnp.sum(sums.N), pooling)
    floor = RIDGE * centring(mixture.mu.shape[1] // 3)
    return new._replace(Sigma=new.Sigma + floor[None])


@functools.partial(jax.jit, static_argnames="gaps")
def _expected_rows(
    mixture: GaussianMixture,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"],
    gaps: int,
) -> tuple[Float[Array, "n p 3"], Float[Array, " n"]]:
    """:func:`expected_pose` of samples with at most ``gaps`` missing joints."""
    P = W.shape[1]
    w = jnp.asarray(W).reshape(-1, 2 * P)
    terms = pair_terms(mixture, jnp.ones(P, bool))
    gain, mean_depth, _ = depth_of_pairs(mixture, terms)
    if gaps == 0:
        log_joint = view_log_likelihoods(features_of(w), terms)
        log_p = jax.nn.logsumexp(log_joint, axis=1)
        r = jnp.exp(log_joint - log_p[:, None])
        # Linear in w for each pair: constants and gains are summed apart.
        constant = mean_depth - einsum("cpe,ce->cp", gain, terms.mean)
        z = jnp.matmul(r, constant, precision=HIGHEST)
        z = z + _weighted_gains(r, gain, w)
    else:
        one = functools.partial(completed_pose, terms, gain, mean_depth, gaps=gaps)
        z, w, log_p = jax.lax.map(lambda x: one(*x), (w, jnp.asarray(labelled)))
    z = z - jnp.mean(z, axis=1, keepdims=True)
    return jnp.concatenate([w.reshape(-1, P, 2), z[..., None]], axis=2), log_p


def _weighted_gains(
    r: Float[Array, "n c"], gain: Float[Array, "c p e"], w: Float[Array, "n e"]
) -> Float[Array, "n p"]:
    """sum_c r_nc gain_c w_n: the gains are averaged first, one product for all."""
    C, P, e = gain.shape
    mean_gain = jnp.matmul(r, gain.reshape(C, P * e), precision=HIGHEST)
    return einsum("npe,ne->np", mean_gain.reshape(-1, P, e), w)
