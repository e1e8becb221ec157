"""The posterior of one sample: pose, covariance of the depth, evidence.

For a pair c of component and view the depth is normal; over the pairs it is a mixture,
of which the first two moments are kept:

    m = sum_c r_c z_c,   C = sum_c r_c (V_c + (z_c - m) (z_c - m)^T),
    z_c = mu_z + K_z (w - A mu),   V_c = Sigma_zz - K_z A Sigma_z^T

The second part of C is large where two views, or two kinds of pose, explain a sample:
their depths are averaged, and none of them is selected.
"""

# Paper: no such thing; here: it guides the teacher, fills in missing landmarks, and is
# the teacher of `losses.posterior_depth_loss`.

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nrsfm_jax.em.gaussians import (
    HIGHEST,
    GaussianMixture,
    PairTerms,
    einsum,
    features_of,
    log_joints,
    one_gaussian,
    pair_terms,
)
from nrsfm_jax.em.missing import VIEWS, condition, pairs_of_views
from nrsfm_jax.em.samples import check_landmarks, equal_gaps

# The likeliest pairs of component and view of each sample; the others are left out.
_PAIRS = 32


class Posterior(NamedTuple):
    """Of one sample, given its labelled landmarks; of N with a leading axis.

    Attributes:
        pose: (P, 3) the landmarks as given, posterior means in place of missing ones,
            and the mean of z, away from the camera, 0 on average over all joints.
        covariance: (P, P) of the depths, the mean over the joints taken off.
        log_p: () log p(w), nats; it counts labelled landmarks only.
        mirrored: () posterior probability of depths that point against the mean.
    """

    pose: Float[Array | np.ndarray, "*n p 3"]
    covariance: Float[Array | np.ndarray, "*n p p"]
    log_p: Float[Array | np.ndarray, "*n"]
    mirrored: Float[Array | np.ndarray, "*n"]


class DepthTerms(NamedTuple):
    """Of all pairs: what the depth is given a picture of all joints."""

    mean: Float[Array, "c p"]  # of the mean shape
    gain: Float[Array, "c p e"]  # K_z, depth moves by this per error in the image
    covariance: Float[Array, "c p p"]  # V


class Tables(NamedTuple):
    """Of all pairs of a mixture; and of one Gaussian of its mean and covariance."""

    terms: PairTerms
    depths: DepthTerms
    single: PairTerms


@jax.jit
def _tables(mixture: GaussianMixture) -> Tables:
    terms = pair_terms(mixture)
    single = pair_terms(one_gaussian(mixture))
    return Tables(terms, depth_terms(mixture, terms), single)


def posterior_of(
    mixture: GaussianMixture,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    chunk: int = 1024,
) -> Posterior:
    """Pose, covariance of depth, evidence and mirrored share of each sample.

    Args:
        mixture: the fitted shapes.
        W: landmarks centred over the labelled joints, patch units, y down.
        labelled: True where a landmark is known; missing ones are marginalised, and
            what stands in their place is ignored.
        chunk: samples handled at once, a bound on memory.

    Returns:
        NumPy arrays with a leading axis N.

    Raises:
        ValueError: a labelled landmark that is not finite.
    """
    landmarks, mask = check_landmarks(W, labelled)
    n, P, _ = landmarks.shape
    shapes = (n, P, 3), (n, P, P), (n,), (n,)
    out = Posterior(*(np.empty(shape, np.float32) for shape in shapes))
    tables = None if mask.all() else _tables(mixture)
    for rows, gaps in equal_gaps(mask, chunk=chunk):
        w = landmarks[rows].reshape(-1, 2 * P)
        if tables is None:
            parts = _complete_rows(mixture, w, mask[rows])
        else:
            parts = _incomplete_rows(tables, w, mask[rows], gaps=gaps)
        for array, part in zip(out, parts, strict=True):
            array[rows] = part
    return out


def expected_pose(
    mixture: GaussianMixture,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    chunk: int = 1024,
) -> tuple[Float[np.ndarray, "n p 3"], Float[np.ndarray, " n"]]:
    """The pose and log p(w) of :func:`posterior_of`."""
    found = posterior_of(mixture, W, labelled, chunk=chunk)
    return np.asarray(found.pose), np.asarray(found.log_p)


def log_evidence(
    mixture: GaussianMixture,
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"],
) -> Float[np.ndarray, " n"]:
    """log p(w) of :func:`posterior_of` alone; a program that compiles sooner."""
    landmarks, mask = check_landmarks(W, labelled)
    if mask.all():
        return np.asarray(posterior_of(mixture, landmarks).log_p)
    terms, found = _terms(mixture), np.empty(len(mask), np.float32)
    for rows, gaps in equal_gaps(mask, chunk=len(mask)):
        w = landmarks[rows].reshape(len(rows), -1)
        found[rows] = _evidence_rows(terms, w, mask[rows], gaps=gaps)
    return found


_terms = jax.jit(pair_terms)


@functools.partial(jax.jit, static_argnames="gaps")
def _evidence_rows(
    terms: PairTerms,
    w: Float[Array | np.ndarray, "n e"],
    labelled: Bool[Array | np.ndarray, "n p"],
    *,
    gaps: int,
) -> Float[Array, " n"]:
    def one(sample):
        return jax.nn.logsumexp(condition(terms, *sample, gaps=gaps).log_joint)

    return jax.lax.map(one, (jnp.asarray(w), jnp.asarray(labelled)))


def pose_or_flat(
    shapes: GaussianMixture | None,
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
) -> Float[np.ndarray, "n p 3"]:
    """:func:`expected_pose`; without shapes the landmarks at depth 0."""
    if shapes is None or not len(W):
        return np.concatenate([W, np.zeros_like(W[..., :1])], axis=-1)
    return expected_pose(shapes, W, labelled)[0]


@jax.jit
def _complete_rows(
    mixture: GaussianMixture,
    w: Float[Array | np.ndarray, "n e"],
    labelled: Bool[Array | np.ndarray, "n p"],
) -> Posterior:
    """:func:`posterior_of` of complete samples."""
    terms = pair_terms(mixture)
    depths = depth_terms(mixture, terms)
    w, labelled = jnp.asarray(w), jnp.asarray(labelled)
    # One product finds the pairs of all samples. It is good enough to rank them;
    # `condition` then says the likeliest without its rounding.
    centre = jnp.mean(w, axis=0)
    about = terms._replace(mean=terms.mean - centre[None])
    ranked = log_joints(features_of(w - centre[None]), about)

    def one(i):
        return posterior_of_sample(terms, depths, w[i], labelled[i], ranked[i], gaps=0)

    # One after the other: the matrices of 32 pairs fit the cache, those of a batch
    # would not.
    return jax.lax.map(one, jnp.arange(len(w)))


@functools.partial(jax.jit, static_argnames="gaps")
def _incomplete_rows(
    tables: Tables,
    w: Float[Array | np.ndarray, "n e"],
    labelled: Bool[Array | np.ndarray, "n p"],
    *,
    gaps: int,
) -> Posterior:
    """:func:`posterior_of` of samples with at most ``gaps`` missing joints."""
    terms, depths, single = tables
    G = len(single.constant)
    K = len(terms.constant) // G

    def one(sample):
        # No product ranks the pairs of all samples here. The views that one broad
        # Gaussian finds likely are tried with every component.
        by_view = condition(single, *sample, gaps=gaps).log_joint
        _, views = jax.lax.top_k(by_view, min(G, max(VIEWS, _PAIRS // K)))
        pairs = pairs_of_views(views, components=K, count=G)
        some = jax.tree.map(lambda x: x[pairs], terms)
        log_joint = condition(some, *sample, gaps=gaps).log_joint
        w, labelled = sample
        return posterior_of_sample(
            terms, depths, w, labelled, log_joint, pairs, gaps=gaps
        )

    return jax.lax.map(one, (jnp.asarray(w), jnp.asarray(labelled)))


def posterior_of_sample(
    terms: PairTerms,
    depths: DepthTerms,
    w: Float[Array, " e"],
    labelled: Bool[Array, " p"],
    log_joint: Float[Array, " c"],
    pairs: Int[Array, " c"] | None = None,
    *,
    gaps: int,
) -> Posterior:
    """:func:`posterior_of` of one sample with at most ``gaps`` missing joints.

    ``log_joint``, log p(w, c) of all pairs or of the given ones, only has to find the
    likeliest.
    """
    top, c = jax.lax.top_k(log_joint, min(_PAIRS, len(log_joint)))
    c = c if pairs is None else pairs[c]
    own, depth = jax.tree.map(lambda x: x[c], (terms, depths))
    given = condition(own, w, labelled, gaps=gaps)
    log_p = jax.nn.logsumexp(given.log_joint)
    r = jnp.exp(given.log_joint - log_p)
    z = depth.mean + einsum("cpe,ce->cp", depth.gain, given.error)
    K = depth.gain[:, :, given.index]
    V = depth.covariance + einsum("cpa,cab,cqb->cpq", K, given.spread, K)
    z = z - jnp.mean(z, axis=1, keepdims=True)
    # The depth of the whole body is unknown under weak perspective: taken off.
    V = V - jnp.mean(V, axis=1, keepdims=True)
    V = V - jnp.mean(V, axis=2, keepdims=True)
    mean = jnp.dot(r, z, precision=HIGHEST)
    apart = z - mean[None]
    covariance = einsum("c,cpq->pq", r, V) + einsum("c,cp,cq->pq", r, apart, apart)
    filled = jnp.dot(r, own.mean + given.error, precision=HIGHEST)
    xy = jnp.where(jnp.repeat(labelled, 2), w, filled).reshape(-1, 2)
    return Posterior(
        pose=jnp.concatenate([xy, mean[:, None]], axis=1),
        covariance=0.5 * (covariance + covariance.T),
        # The pairs left out have some evidence too.
        log_p=log_p + jax.nn.logsumexp(log_joint) - jax.nn.logsumexp(top),
        mirrored=jnp.sum(jnp.where(jnp.dot(z, mean, precision=HIGHEST) < 0, r, 0)),
    )


def depth_terms(mixture: GaussianMixture, terms: PairTerms) -> DepthTerms:
    """Of all pairs, in the order of `gaussians.pair_terms`."""

    def of_pair(mu, Sigma, R, precision):
        M, axis = R[:, :2], R[:, 2]
        along = einsum("paqb,a->pqb", Sigma.reshape(P, 3, P, 3), axis)
        zz = einsum("pqb,b->pq", along, axis)
        zw = einsum("pqb,bj->pqj", along, M).reshape(P, 2 * P)
        gain = jnp.matmul(zw, precision, precision=HIGHEST)
        depth = jnp.dot(mu.reshape(P, 3), axis, precision=HIGHEST)
        return DepthTerms(depth, gain, zz - jnp.matmul(gain, zw.T, precision=HIGHEST))

    K, G, P = len(mixture.mu), len(mixture.views), mixture.mu.shape[1] // 3
    precision = terms.precision.reshape(K, G, 2 * P, 2 * P)
    of_component = jax.vmap(of_pair, (None, None, 0, 0))
    depths = jax.vmap(of_component, (0, 0, None, 0))(
        mixture.mu, mixture.Sigma, mixture.views, precision
    )
    return jax.tree.map(lambda x: x.reshape(K * G, *x.shape[2:]), depths)
