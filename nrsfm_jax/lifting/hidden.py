"""What the other joints say of one: outliers, and how wide the error bars must be.

For a pair c with Q = C^-1 and a = Q (w - A mu) the density of all joints but p, and
what they expect of it, are 2 x 2 blocks away:

    log N_c(w without p) = log N_c(w) + 1/2 a_p^T Q_pp^-1 a_p - 1/2 log det Q_pp
                           + log 2 pi,
    w_p | the others ~ N(w_p - Q_pp^-1 a_p, Q_pp^-1)
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nrsfm_jax.em.gaussians import SHIFT_VARIANCE, GaussianMixture, sweep
from nrsfm_jax.em.posterior import expected_pose
from nrsfm_jax.lifting.batches import repeated
from nrsfm_jax.lifting.looser import (
    Looser,
    Terms,
    as_fitted,
    parts_of,
    quadratic,
    terms_of,
)
from nrsfm_jax.lifting.patches import Patches
from nrsfm_jax.lifting.posterior import shapes_of

# The share of outliers that is expected, and the density of a point anywhere in the
# patch, which says that a landmark is none of the joint.
OUTLIERS, ANYWHERE = 0.05, 0.25
# Pairs of each sample that are looked at again; landmarks hidden at most.
_KEPT, _MOST = 48, 6
# Hidden is what is an outlier with this probability. To lift, a good landmark that is
# hidden costs more than an outlier that is hard to tell from it; a fit has enough.
SURE, _SURE_FITTED = 0.95, 0.5
# Parts of the joints are too sure of a pair: their log densities are divided by this.
_TEMPERATURE = 4.0
# In place of minus infinity; and nats below the best from which on nothing counts.
_NEVER, _SHORT = -1e9, 7.0
# Samples at once: a precision of every pair meets all of them.
_TOGETHER = 64
# The least noise of landmarks that the shapes were fitted to, patch units.
_FITTED = 0.02


class Others(NamedTuple):
    """Of one sample and several pairs, without each joint in turn."""

    log_joint: Float[Array, " c"]
    without: Float[Array, "p c"]  # the same of all joints but p
    shift: Float[Array, "p 2 c"]  # Q_pp^-1 a_p: w_p less what the others expect
    spread: Float[Array, "p 2 2 c"]  # Q_pp^-1, with the noise of w_p


def price(eps: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """What it costs to call a landmark an outlier, nats, expecting a share eps."""
    return np.log((1 - eps) / (ANYWHERE * eps)).astype(np.float32)


class Blocks(NamedTuple):
    """Of the precisions Q of several pairs, for every joint."""

    spread: Float[Array, "p 2 2 c"]  # Q_pp^-1
    log_det: Float[Array, "p c"]  # of Q_pp


def blocks_of(Q: Float[Array, "e e c"]) -> Blocks:
    """Q_pp^-1 and log det Q_pp of every joint."""
    e, _, C = Q.shape
    joints = np.arange(e // 2)
    return inverse_of(Q.reshape(e // 2, 2, e // 2, 2, C)[joints, :, joints])


def inverse_of(block: Float[Array, "p 2 2 c"]) -> Blocks:
    """Of every joint's own block."""
    (q00, q01), (_, q11) = ((block[:, i, 0], block[:, i, 1]) for i in range(2))
    det = q00 * q11 - q01**2
    spread = jnp.stack([q11, -q01, -q01, q00], axis=1) / det[:, None]
    return Blocks(spread.reshape(block.shape), jnp.log(det))


def others(
    log_joint: Float[Array, " c"], pulled: Float[Array, "e c"], blocks: Blocks
) -> Others:
    """From log p(w, c), a and the blocks of each pair."""
    # The pairs lie on the last axis: several times as fast on a CPU.
    x, y = pulled[0::2], pulled[1::2]
    spread = blocks.spread
    right = spread[:, 0, 0] * x + spread[:, 0, 1] * y
    down = spread[:, 1, 0] * x + spread[:, 1, 1] * y
    gain = 0.5 * (x * right + y * down - blocks.log_det)
    without = log_joint[None] + gain + np.log(2 * np.pi).astype(np.float32)
    return Others(log_joint, without, jnp.stack([right, down], axis=1), spread)


@functools.partial(jax.jit, static_argnames="kept")
def likeliest_by_parts(
    terms: Terms, W: Float[Array, "n p 2"], *, kept: int = _KEPT
) -> Int[Array, "n k"]:
    """The pairs that explain some joints of each complete sample best.

    Chosen by the log density of all joints the right pair would be lost where one is
    wrong, and by that of all joints but one where two are.
    """

    # About T log(exp(a / T) + exp(b / T)), where a and b are alike or far apart.
    def either(a, b):
        alike = np.float32(np.log(2) * _TEMPERATURE) - 0.25 * jnp.abs(a - b)
        return jnp.maximum(a, b) + jnp.maximum(alike, 0)

    def together(w):
        parts = zip(parts_of(w.shape[1] // 2), terms.parts, strict=True)
        each = (quadratic(part, w[:, i]) for i, part in parts)
        ranked = functools.reduce(either, each)
        return jax.lax.top_k(ranked, min(kept, ranked.shape[1]))[1]

    n = len(W)
    rows = jnp.arange(-(-n // _TOGETHER) * _TOGETHER) % n
    parts = W.reshape(n, -1)[rows].reshape(-1, _TOGETHER, 2 * W.shape[1])
    done = jax.lax.map(together, parts)
    return done.reshape(-1, done.shape[-1])[:n]


class Whole(NamedTuple):
    """One sample and k pairs: log p(w, c), a, Q, and the squared error (w - m)^T a."""

    log_joint: Float[Array, " k"]
    pulled: Float[Array, "e k"]
    Q: Float[Array, "e e k"]
    square: Float[Array, " k"]


def whole(
    pairs: Looser,
    chosen: Int[Array, " k"],
    w: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    variance: Float[Array, " p"],
) -> Whole:
    """Of the chosen pairs, with a noise per joint and landmarks that are missing."""
    mean, S = shapes_of(pairs, chosen, axes=2)
    k, P, _ = mean.shape
    known = jnp.repeat(labelled.astype(w.dtype), 2)
    noise = jnp.tile(jnp.eye(2, dtype=w.dtype), (P, P)) * SHIFT_VARIANCE
    noise = noise + jnp.diag(jnp.repeat(variance, 2))
    both = known[:, None] * known[None, :]
    # In blocks: to the last axis in one pass.
    S, noise, both, alone = (
        x.reshape(*x.shape[:-2], P, 2, P, 2)
        for x in (S, noise, both, jnp.diag(1 - known))
    )
    C = jnp.moveaxis(S, 0, -1) + noise[..., None]
    C = (C * both[..., None] + alone[..., None]).reshape(2 * P, 2 * P, k)
    error = (w[None] - mean).reshape(k, 2 * P) * known[None]
    Q, log_det = sweep(C, pivots=2 * P)
    pulled = jnp.sum(Q * error.T[None], axis=1)
    freedom = (jnp.sum(known) * np.log(2 * np.pi)).astype(w.dtype)
    square = jnp.sum(pulled * error.T, axis=0)
    log_joint = pairs.log_prior[chosen] - 0.5 * (log_det + square + freedom)
    return Whole(log_joint, pulled, Q, square)


def others_exactly(
    pairs: Looser,
    chosen: Int[Array, " k"],
    w: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    variance: Float[Array, " p"],
) -> Others:
    """:func:`whole`, without each joint in turn."""
    found = whole(pairs, chosen, w, labelled, variance)
    return others(found.log_joint, found.pulled, blocks_of(found.Q))


class Hiding(NamedTuple):
    """What each of k pairs says after it has hidden 0, 1, ... joints of one sample."""

    log_joint: Float[Array, "h k"]  # of the others and the pair, less the cost
    left: Bool[Array, "h p k"]  # joints that are not hidden


class _Left(NamedTuple):
    """Of the joints that are left: a, Q_pp, and the sum of the squared errors.

    Their Q is that of all joints less U^T U, which is never formed.
    """

    pulled: Float[Array, "e k"]
    block: Float[Array, "p 2 2 k"]
    square: Float[Array, " k"]
    U: Float[Array, "u e k"]


def _without(
    left: _Left, column: Float[Array, "e k"], i: Float[Array, "e k"], number: Array
) -> _Left:
    """One coordinate less, which i picks, with its column of Q."""
    pulled, block, square, U = left
    column = column - jnp.sum(U * jnp.sum(U * i[None], axis=1)[:, None], axis=0)
    u = column / jnp.sqrt(jnp.sum(column * i, axis=0))[None]
    error = jnp.sum(pulled * i, axis=0) / jnp.sum(u * i, axis=0)
    v = u.reshape(-1, 2, u.shape[-1])
    return _Left(
        pulled - u * error[None],
        block - v[:, :, None] * v[:, None],
        square - error**2,
        U.at[number].set(u),
    )


def hiding(
    pairs: Looser,
    chosen: Int[Array, " k"],
    w: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    variance: Float[Array, " p"],
    cost: Float[Array, " p"],
) -> Hiding:
    """Each pair hides the joint that it pays most to hide, again and again.

    At most 6, and never more than leaves half of the joints. What is not likely to come
    near to the best has log_joint -1e9.
    """
    found = whole(pairs, chosen, w, labelled, variance)
    (e, k), P = found.pulled.shape, len(w)

    def hopeful(state):
        n, done, left = state
        hope = done.log_joint[n] + 0.5 * left.square
        return (n < _MOST) & (jnp.max(hope) > jnp.max(done.log_joint) - _SHORT)

    def hide(state):
        n, (log_joint, shown), left = state
        gain, fewer, left = _next(found.Q, shown[n], left, cost, n)
        best = jnp.maximum(log_joint[n] + gain, _NEVER)
        done = Hiding(log_joint.at[n + 1].set(best), shown.at[n + 1].set(fewer))
        return n + 1, done, left

    first = Hiding(
        jnp.full((_MOST + 1, k), _NEVER, w.dtype).at[0].set(found.log_joint),
        jnp.tile(labelled[None, :, None], (_MOST + 1, 1, k)),
    )
    block = found.Q.reshape(P, 2, P, 2, k)[np.arange(P), :, np.arange(P)]
    U = jnp.zeros((2 * _MOST, e, k), w.dtype)
    left = _Left(found.pulled, block, found.square, U)
    return jax.lax.while_loop(hopeful, hide, (jnp.int32(0), first, left))[1]


def _next(
    Q: Float[Array, "e e k"],
    shown: Bool[Array, "p k"],
    left: _Left,
    cost: Float[Array, " p"],
    n: Int[Array, ""],
) -> tuple[Float[Array, " k"], Bool[Array, "p k"], _Left]:
    """What the next joint of each pair pays, and the joints that are left then."""
    (e, _, k), P = Q.shape, len(cost)
    every = others(jnp.zeros(k, Q.dtype), left.pulled, inverse_of(left.block))
    allowed = shown & (2 * jnp.sum(shown, axis=0) > P)[None]
    gain = jnp.where(allowed, every.without - cost[:, None], _NEVER)
    worst = jnp.argmax(gain, axis=0)
    here = jnp.arange(P)[:, None] == worst[None]
    column = jnp.moveaxis(Q.reshape(e, P, 2, k)[:, worst, :, jnp.arange(k)], 0, -1)
    for axis in range(2):
        i = jnp.arange(e)[:, None] == 2 * worst[None] + axis
        left = _without(left, column[:, axis], i.astype(Q.dtype), 2 * n + axis)
    # What is hidden has no block any more.
    unit = jnp.eye(2, dtype=Q.dtype)[None, ..., None]
    block = jnp.where(here[:, None, None], unit, left.block)
    return jnp.max(gain, axis=0), shown & ~here, left._replace(block=block)


@jax.jit
def doubts(
    pairs: Looser,
    chosen: Int[Array, "n k"],
    W: Float[Array, "n p 2"],
    labelled: Bool[Array, "n p"],
    variance: Float[Array, "n p"],
    cost: Float[Array, "n p"],
) -> tuple[Float[Array, "n p"], Float[Array, " n"]]:
    """The probability that a joint is an outlier, and log p(w)."""

    def one(own):
        found = hiding(pairs, *own)
        log_p = jax.nn.logsumexp(found.log_joint)
        r = jnp.exp(found.log_joint - log_p)
        return 1 - jnp.sum(jnp.where(found.left, r[:, None], 0), axis=(0, 2)), log_p

    return jax.lax.map(one, (chosen, W, labelled, variance, cost))


def find_outliers(
    pairs: Looser,
    terms: Terms,
    patches: Patches,
    filled: Float[np.ndarray, "n p 2"],
    variance: Float[np.ndarray, "n p"],
    cost: Float[np.ndarray, "n p"],
    *,
    sure: float,
) -> Bool[np.ndarray, "n p"]:
    """What is likely to be an outlier, see :func:`hiding`.

    Args:
        pairs: the shapes.
        terms: of them, at about the right noise.
        patches: the landmarks.
        filled: the same with a guess of the missing ones, centred over all joints.
        variance: of the noise.
        cost: see :func:`price`.
        sure: how likely it has to be.

    Returns:
        True where a landmark is an outlier.
    """
    rows = repeated(len(filled))
    chosen = likeliest_by_parts(terms, jnp.asarray(filled[rows]))
    own = patches.W, patches.labelled, variance, cost
    found, _ = doubts(pairs, chosen, *(jnp.asarray(x[rows]) for x in own))
    return patches.labelled & (np.asarray(found)[: len(filled)] > sure)


def outliers_among_fitted(
    shapes: GaussianMixture,
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
) -> Bool[np.ndarray, "n p"]:
    """:func:`find_outliers` of landmarks that the shapes were fitted to.

    Args:
        shapes: of the EM.
        W: centred over the labelled landmarks, patch units.
        labelled: which are known.
    """
    n, pairs = len(W), as_fitted(shapes)
    level = max(_FITTED, float(shapes.sigma))
    filled = expected_pose(shapes, W, labelled)[0][..., :2]
    return find_outliers(
        pairs,
        terms_of(pairs, jnp.float32(level)),
        Patches(W, labelled, np.zeros((n, 2)), np.ones(n)),
        filled - filled.mean(1, keepdims=True),
        np.full(labelled.shape, level**2, np.float32),
        price(np.full(labelled.shape, OUTLIERS)),
        sure=_SURE_FITTED,
    )


@jax.jit
def _log_densities(
    pairs: Looser,
    chosen: Int[Array, "n k"],
    W: Float[Array, "n p 2"],
    labelled: Bool[Array, "n p"],
    variance: Float[Array, "n p"],
    factors: Float[Array, " f"],
) -> Float[Array, "n f"]:
    """Mean log density of the joints, each given the others, with wider shapes."""

    def one(own):
        chosen, w, labelled, variance = own
        found = others_exactly(pairs, chosen, w, labelled, variance)
        log_r = jax.nn.log_softmax(found.without, axis=1)
        noise = (
            variance[:, None, None, None] * jnp.eye(2, dtype=w.dtype)[None, ..., None]
        )

        def density(factor):
            C = jnp.square(factor) * (found.spread - noise) + noise
            det = C[:, 0, 0] * C[:, 1, 1] - C[:, 0, 1] ** 2
            x, y = found.shift[:, 0], found.shift[:, 1]
            square = C[:, 1, 1] * x**2 - 2 * C[:, 0, 1] * x * y + C[:, 0, 0] * y**2
            log_p = log_r - 0.5 * (square / det + jnp.log(det))
            log_p = jax.nn.logsumexp(log_p, axis=1)
            known = jnp.where(labelled, log_p, 0)
            return jnp.sum(known) / jnp.maximum(jnp.sum(labelled), 1).astype(w.dtype)

        return jax.lax.map(density, factors)

    return jax.lax.map(one, (chosen, W, labelled, variance))


def likeliest_inflation(
    pairs: Looser,
    chosen: Int[Array, "n k"],
    W: Float[Array, "n p 2"],
    labelled: Bool[Array, "n p"],
    variance: Float[Array, "n p"],
) -> float:
    """The factor of the standard deviations that tells hidden joints best."""
    factors = np.linspace(1, 2, 11).astype(np.float32)
    found = _log_densities(pairs, chosen, W, labelled, variance, jnp.asarray(factors))
    return float(factors[int(np.argmax(np.mean(np.asarray(found), axis=0)))])
