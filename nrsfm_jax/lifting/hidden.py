"""What the other joints say of one: outliers, and how wide the error bars must be.

For a pair c with Q = C^-1 and a = Q (w - A mu) the density of all joints but p, and
what they expect of it, are 2 x 2 blocks away:

    log N_c(w without p) = log N_c(w) + 1/2 a_p^T Q_pp^-1 a_p - 1/2 log det Q_pp
                           + log 2 pi,
    w_p | the others ~ N(w_p - Q_pp^-1 a_p, Q_pp^-1)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nrsfm_jax.em.gaussians import HIGHEST, SHIFT_VARIANCE, GaussianMixture, sweep
from nrsfm_jax.em.posterior import expected_pose
from nrsfm_jax.lifting.batches import repeated
from nrsfm_jax.lifting.looser import Looser, Terms, as_fitted, terms_of
from nrsfm_jax.lifting.patches import Patches
from nrsfm_jax.lifting.posterior import shapes_of

# The share of outliers that is expected, and the density of a point anywhere in the
# patch, which says that a landmark is none of the joint.
OUTLIERS, ANYWHERE = 0.05, 0.25
# Pairs of each sample that are looked at again; landmarks hidden at most.
_KEPT, _MOST = 48, 6
# Samples at once: a precision of every pair meets all of them.
_TOGETHER = 16
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
    block = Q.reshape(e // 2, 2, e // 2, 2, C)[joints, :, joints]
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
def likeliest_but_one(
    terms: Terms,
    W: Float[Array, "n p 2"],
    cost: Float[Array, "n p"],
    *,
    kept: int = _KEPT,
) -> Int[Array, "n k"]:
    """The pairs that explain each complete sample best if one joint may be wrong.

    Chosen by the log density of all joints alone the right pair would be lost.
    """

    def best(found: Others, cost: Float[Array, " p"]) -> Int[Array, " k"]:
        but_one = jnp.max(found.without - cost[:, None], axis=0)
        every = jnp.maximum(found.log_joint, but_one)
        return jax.lax.top_k(every, min(kept, len(every)))[1]

    return _of_others(best, terms, W, cost)


@jax.jit
def evidence_but_one(
    terms: Terms, W: Float[Array, "n p 2"], cost: Float[Array, "n p"]
) -> Float[Array, " n"]:
    """log p(w) of complete samples if at most one joint is an outlier."""

    def evidence(found: Others, cost: Float[Array, " p"]) -> Float[Array, ""]:
        but_one = jax.nn.logsumexp(found.without, axis=1) - cost
        return jax.nn.logsumexp(jnp.append(but_one, jax.nn.logsumexp(found.log_joint)))

    return _of_others(evidence, terms, W, cost)


def _of_others(
    function: Callable[[Others, Float[Array, " p"]], Array],
    terms: Terms,
    W: Float[Array, "n p 2"],
    cost: Float[Array, "n p"],
) -> Array:
    """A function of :class:`Others` of all pairs, and of the cost, of each sample."""
    (C, e), Q, mean = terms.mean.shape, terms.precision, terms.mean.T
    blocks, pull = blocks_of(Q), terms.packed[:, :e].T

    def one(own):
        w, pulled, cost = own
        pulled = pulled.reshape(e, C) - pull
        square = jnp.sum(pulled * (w[:, None] - mean), axis=0)
        return function(others(terms.constant - 0.5 * square, pulled, blocks), cost)

    def together(own):
        w, cost = own
        # One product of two matrices: a precision is symmetric.
        pulled = jnp.matmul(w, Q.reshape(e, e * C), precision=HIGHEST)
        return jax.lax.map(one, (w, pulled, cost))

    n = len(W)
    rows = jnp.arange(-(-n // _TOGETHER) * _TOGETHER) % n
    parts = W.reshape(n, -1)[rows], cost[rows]
    parts = [x.reshape(-1, _TOGETHER, x.shape[-1]) for x in parts]
    done = jax.lax.map(together, parts)
    return done.reshape(-1, *done.shape[2:])[:n]


def others_exactly(
    pairs: Looser,
    chosen: Int[Array, " k"],
    w: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    variance: Float[Array, " p"],
) -> Others:
    """Of the chosen pairs, with a noise per joint and landmarks that are missing."""
    mean, S = shapes_of(pairs, chosen, axes=2)
    k, P, _ = mean.shape
    known = jnp.repeat(labelled.astype(w.dtype), 2)
    noise = jnp.tile(jnp.eye(2, dtype=w.dtype), (P, P)) * SHIFT_VARIANCE
    C = S + (noise + jnp.diag(jnp.repeat(variance, 2)))[None]
    C = C * (known[:, None] * known[None, :])[None] + jnp.diag(1 - known)[None]
    error = (w[None] - mean).reshape(k, 2 * P) * known[None]
    Q, log_det = sweep(jnp.moveaxis(C, 0, -1), pivots=2 * P)
    pulled = jnp.sum(Q * error.T[None], axis=1)
    freedom = (jnp.sum(known) * np.log(2 * np.pi)).astype(w.dtype)
    square = jnp.sum(pulled * error.T, axis=0)
    log_joint = pairs.log_prior[chosen] - 0.5 * (log_det + square + freedom)
    return others(log_joint, pulled, blocks_of(Q))


@jax.jit
def gains(
    pairs: Looser,
    chosen: Int[Array, "n k"],
    W: Float[Array, "n p 2"],
    labelled: Bool[Array, "n p"],
    variance: Float[Array, "n p"],
    cost: Float[Array, "n p"],
) -> tuple[Float[Array, "n p"], Float[Array, "n p 2"]]:
    """By how many nats it pays to hide each joint, and how far off it seems."""

    def one(own):
        chosen, w, labelled, variance, cost = own
        found = others_exactly(pairs, chosen, w, labelled, variance)
        r = jax.nn.softmax(found.without, axis=1)
        shift = jnp.sum(r[:, None] * found.shift, axis=-1)
        gain = jax.nn.logsumexp(found.without, axis=1)
        gain = gain - jax.nn.logsumexp(found.log_joint) - cost
        return jnp.where(labelled, gain, -jnp.inf), shift

    return jax.lax.map(one, (chosen, W, labelled, variance, cost))


def find_outliers(
    pairs: Looser,
    terms: Terms,
    patches: Patches,
    filled: Float[np.ndarray, "n p 2"],
    variance: Float[np.ndarray, "n p"],
    cost: Float[np.ndarray, "n p"],
) -> Bool[np.ndarray, "n p"]:
    """Hides the joint that it pays most to hide, again and again.

    At most 6 of a sample, and never more than leaves half of the joints.

    Args:
        pairs: the shapes.
        terms: of them, at about the right noise.
        patches: the landmarks.
        filled: the same with a guess of the missing ones, centred over all joints.
        variance: of the noise.
        cost: see :func:`price`.

    Returns:
        True where a landmark is an outlier.
    """
    W, labelled = patches.W, patches.labelled
    outlier, filled = np.zeros(labelled.shape, bool), np.array(filled)
    active = np.flatnonzero(2 * labelled.sum(1) > labelled.shape[1])
    for _ in range(_MOST):
        if not len(active):
            break
        rows = active[repeated(len(active))]
        left = labelled[rows] & ~outlier[rows]
        x = filled[rows] - filled[rows].mean(1, keepdims=True)
        chosen = likeliest_but_one(terms, jnp.asarray(x), jnp.asarray(cost[rows]))
        own = (jnp.asarray(y) for y in (W[rows], left, variance[rows], cost[rows]))
        found = jax.device_get(gains(pairs, chosen, *own))
        gain, shift = (x[: len(active)] for x in found)
        pays = (gain.max(1) > 0) & (2 * left[: len(active)].sum(1) > labelled.shape[1])
        active, worst = active[pays], gain.argmax(1)[pays]
        outlier[active, worst] = True
        filled[active, worst] -= shift[pays, worst]
    return outlier


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
