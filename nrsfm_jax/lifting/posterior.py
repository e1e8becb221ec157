"""The exact posterior of one pose over its likeliest pairs, with a noise per joint.

For a pair c with mean m = mu R and covariance S = f^2 R^T Sigma R in the camera frame,

    C = A S A^T + shift + diag(v),   G = S A^T C^-1,
    pose_c = m + G (w - A m),   V_c = S - G A S,

and over the pairs the mean and the covariance of the mixture. Landmarks that are
missing have no row in C. A takes x and y, or what a near camera sees, which is linear
in the pose as well.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.spatial.transform import Rotation

from nrsfm_jax.em.gaussians import (
    HIGHEST,
    SHIFT_VARIANCE,
    PairTerms,
    einsum,
    packed_index,
    sweep,
)
from nrsfm_jax.em.missing import condition
from nrsfm_jax.lifting.looser import Looser, Terms, quadratic
from nrsfm_jax.lifting.patches import Near

# The likeliest pairs of each sample; the others are left out.
KEPT = 32
# Views that are looked at where landmarks are missing.
_SEEN_FROM = 24
# The pairs are too sure of each other: their log densities are divided by this where
# they vote about the sign of the depth.
_TEMPERATURE = 4.0
# Of views in any rotation: pairs around which others are looked at, and their turns
# about the camera's axes.
_TURNED, _DEGREES = 4, 16.0
_AXES = (np.indices((3, 3, 3)) - 1).reshape(3, -1).T * _DEGREES
_TURNS = Rotation.from_rotvec(_AXES, degrees=True).as_matrix().astype(np.float32)


class PoseGiven(NamedTuple):
    """Of one sample; of N with a leading axis. Patch units, camera frame.

    Attributes:
        pose: (P, 3) posterior mean, centred over the joints.
        image: (P, 2) the landmarks as expected without their noise, in the frame of w.
        covariance: (3P, 3P) of ``pose``, rows x1 y1 z1 x2 ...
        log_p: () log p(w), nats; labelled landmarks only.
        mirrored: () probability of depths that point against the mean, tempered.
        free: () posterior share of the views in any rotation.
    """

    pose: Float[Array | np.ndarray, "*n p 3"]
    image: Float[Array | np.ndarray, "*n p 2"]
    covariance: Float[Array | np.ndarray, "*n d d"]
    log_p: Float[Array | np.ndarray, "*n"]
    mirrored: Float[Array | np.ndarray, "*n"]
    free: Float[Array | np.ndarray, "*n"]


class PairPoses(NamedTuple):
    """One sample given each of k pairs."""

    log_joint: Float[Array, " k"]
    pose: Float[Array, "k p 3"]
    image: Float[Array, "k p 2"]
    covariance: Float[Array, "k d d"]


def given_pairs(
    mean: Float[Array, "k p 3"],
    S: Float[Array, "k d d"],
    log_prior: Float[Array, " k"],
    w: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    variance: Float[Array, " p"],
    slope: Float[Array, "p 2"] | None = None,
) -> PairPoses:
    """The posterior of the pose under each pair.

    Args:
        mean: of each pair, camera frame.
        S: its covariance.
        log_prior: log of its probability.
        w: landmarks, centred over the labelled ones; ignored where missing.
        labelled: which are known.
        variance: of the noise of each landmark's coordinates.
        slope: of a near camera, see ``patches.Near``.
    """
    k, P, _ = mean.shape
    dtype = w.dtype
    known = jnp.repeat(labelled.astype(dtype), 2)
    S_w = _seen(S, slope).mT
    C = (
        _seen(S_w, slope)
        + (jnp.tile(jnp.eye(2, dtype=dtype), (P, P)) * SHIFT_VARIANCE)[None]
    )
    C = C + jnp.diag(jnp.repeat(variance, 2))[None]
    # A missing landmark becomes an independent unit coordinate without an error.
    C = C * (known[:, None] * known[None, :])[None] + jnp.diag(1 - known)[None]
    image = _seen(mean.reshape(k, 3 * P, 1), slope)[..., 0]
    error = (w.reshape(-1)[None] - image) * known[None]
    S_w = S_w * known[None, None]
    inverse, log_det = sweep(jnp.moveaxis(C, 0, -1), pivots=2 * P)
    inverse = jnp.moveaxis(inverse, -1, 0)
    pulled = einsum("kab,kb->ka", inverse, error)
    square = jnp.sum(pulled * error, axis=1)
    freedom = (jnp.sum(known) * np.log(2 * np.pi)).astype(dtype)
    gain = jnp.matmul(S_w, inverse, precision=HIGHEST)
    pose = mean + einsum("kab,kb->ka", S_w, pulled).reshape(mean.shape)
    shift = SHIFT_VARIANCE * jnp.sum(pulled.reshape(k, P, 2), axis=1)
    return PairPoses(
        log_prior - 0.5 * (log_det + square + freedom),
        pose,
        pose[..., :2] + shift[:, None],
        S - jnp.matmul(gain, S_w.mT, precision=HIGHEST),
    )


def _seen(
    poses: Float[Array, "k d e"], slope: Float[Array, "p 2"] | None
) -> Float[Array, "k i e"]:
    """A times the columns."""
    k, d, e = poses.shape
    poses = poses.reshape(k, d // 3, 3, e)
    xy, z = poses[:, :, :2], poses[:, :, 2:]
    if slope is not None:
        # The size is that at the middle of the body.
        xy = xy - slope[None, ..., None] * (z - jnp.mean(z, axis=1, keepdims=True))
    return xy.reshape(k, -1, e)


def shapes_of(
    pairs: Looser, chosen: Int[Array, " k"], *, axes: int = 3
) -> tuple[Float[Array, "k p a"], Float[Array, "k d d"]]:
    """Mean and covariance of some pairs in the camera frame, or of x and y alone."""
    K, P = len(pairs.mu), pairs.mu.shape[1] // 3
    R, own = pairs.views[pairs.view[chosen]][:, :, :axes], pairs.component[chosen]
    mean = einsum("kpa,kai->kpi", pairs.mu[own].reshape(-1, P, 3), R)
    # One product for each pair, of the 3 x 3 entries of all blocks: several times as
    # fast on a CPU as turning the blocks one after the other.
    turn = R[:, :, None, :, None] * R[:, None, :, None, :]
    turn = turn * pairs.variance[chosen][:, None, None, None, None]
    blocks = pairs.Sigma.reshape(K, P, 3, P, 3).transpose(0, 2, 4, 1, 3)
    S = einsum(
        "kcn,kcm->knm", turn.reshape(-1, 9, axes**2), blocks.reshape(K, 9, -1)[own]
    )
    S = S.reshape(-1, axes, axes, P, P).transpose(0, 3, 1, 4, 2)
    return mean, S.reshape(-1, axes * P, axes * P)


def mixed(given: PairPoses, free: Bool[Array, " k"]) -> PoseGiven:
    """The moments over the pairs."""
    log_p = jax.nn.logsumexp(given.log_joint)
    r = jnp.exp(given.log_joint - log_p)
    pose = einsum("k,kpa->pa", r, given.pose)
    apart = (given.pose - pose[None]).reshape(len(r), -1)
    between = einsum("k,ka,kb->ab", r, apart, apart)
    tempered = jax.nn.softmax(given.log_joint / _TEMPERATURE)
    against = jnp.dot(given.pose[..., 2], pose[:, 2], precision=HIGHEST) < 0
    return PoseGiven(
        pose,
        einsum("k,kpa->pa", r, given.image),
        einsum("k,kab->ab", r, given.covariance) + between,
        log_p,
        jnp.sum(jnp.where(against, tempered, 0)),
        jnp.sum(jnp.where(free, r, 0)),
    )


def pose_given(
    pairs: Looser,
    ranked: Float[Array, " c"],
    w: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    variance: Float[Array, " p"],
    slope: Float[Array, "p 2"] | None = None,
    *,
    kept: int = KEPT,
) -> PoseGiven:
    """The posterior of one sample, over the ``kept`` likeliest pairs.

    ``ranked``, log p(w, c) of all pairs at about the right noise, has to find the
    likeliest, and says how much the others have.
    """
    top, chosen = jax.lax.top_k(ranked, min(kept, len(ranked)))
    shapes = shapes_of(pairs, chosen)
    log_prior = pairs.log_prior[chosen]
    given = given_pairs(*shapes, log_prior, w, labelled, variance, slope)
    found = mixed(given, pairs.free[chosen])
    left_out = jax.nn.logsumexp(ranked) - jax.nn.logsumexp(top)
    return found._replace(log_p=found.log_p + left_out)


def turned_given(
    pairs: Looser,
    ranked: Float[Array, " c"],
    w: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    variance: Float[Array, " p"],
    slope: Float[Array, "p 2"] | None = None,
) -> PoseGiven:
    """:func:`pose_given` from views around those of the few likeliest pairs.

    The grid of any rotation is coarse: a finer one here costs less than one everywhere.
    """
    _, chosen = jax.lax.top_k(ranked, _TURNED)
    mean, S = shapes_of(pairs, chosen)
    P, count = mean.shape[1], len(_TURNS)
    T = jnp.asarray(_TURNS)
    mean = einsum("kpa,lab->klpb", mean, T).reshape(-1, P, 3)
    S = einsum("kpaqb,lac->klpcqb", S.reshape(-1, P, 3, P, 3), T)
    S = einsum("klpcqb,lbd->klpcqd", S, T).reshape(-1, 3 * P, 3 * P)
    log_prior = jnp.repeat(pairs.log_prior[chosen] - float(np.log(count)), count)
    given = given_pairs(mean, S, log_prior, w, labelled, variance, slope)
    return mixed(given, jnp.repeat(pairs.free[chosen], count))


def rank(
    pairs: Looser,
    terms: Terms,
    W: Float[Array, "n p 2"],
    labelled: Bool[Array, "n p"],
    *,
    gaps: int,
) -> Float[Array, "n c"]:
    """About log p(w, c) of all pairs, of samples with at most ``gaps`` missing joints.

    Exact where nothing is missing. Else only the likeliest views are looked at, and one
    width stands for the others of the same component and view.
    """
    w, e = W.reshape(len(W), -1), 2 * W.shape[1]
    if gaps == 0:
        return quadratic(terms.every, w)
    K, entry = pairs.at.shape[1], jnp.asarray(e + packed_index(e))
    factor = -1 - jnp.eye(e, dtype=w.dtype)

    def one(own):
        # All pairs would take long: one broad Gaussian knows from where it is seen.
        near = condition(terms.broad, *own, gaps=gaps).log_joint
        near = jax.lax.top_k(near, min(_SEEN_FROM, len(near)))[1]
        at = pairs.at[near].reshape(-1)
        # From whole rows: those of a precision lie apart in memory.
        precision = terms.every.packed[at][:, entry] * factor[None]
        some = PairTerms(terms.mean[at], precision, terms.constant[at])
        seen = condition(some, *own, gaps=gaps).log_joint - pairs.log_prior[at]
        known = jnp.full(pairs.at.shape, -jnp.inf, w.dtype)
        known = known.at[near].set(seen.reshape(-1, K))
        return known[pairs.view, pairs.component] + pairs.log_prior

    return jax.lax.map(one, (w, labelled))


@functools.partial(jax.jit, static_argnames=("gaps", "turned", "kept"))
def poses_given(
    pairs: Looser,
    terms: Terms,
    W: Float[Array, "n p 2"],
    labelled: Bool[Array, "n p"],
    variance: Float[Array, "n p"],
    near: Near | None = None,
    *,
    gaps: int,
    turned: bool = False,
    kept: int = KEPT,
) -> PoseGiven:
    """:func:`pose_given` of samples with at most ``gaps`` missing joints.

    With ``turned`` by :func:`turned_given`. ``near`` as in ``patches.Patches``: W ranks
    the pairs only.
    """
    ranked = rank(pairs, terms, W, labelled, gaps=gaps)
    # One after the other: the matrices of 32 pairs fit the cache, those of a batch
    # would not.
    one = turned_given if turned else functools.partial(pose_given, kept=kept)
    w, slope = (W, None) if near is None else near
    own = ranked, w, labelled, variance, slope
    return jax.lax.map(lambda own: one(pairs, *own), own)
