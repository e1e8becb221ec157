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

from nrsfm_jax.em.gaussians import HIGHEST, SHIFT_VARIANCE, PairTerms, einsum, sweep
from nrsfm_jax.lifting.batches import repeated
from nrsfm_jax.lifting.looser import Looser
from nrsfm_jax.lifting.patches import Patches
from nrsfm_jax.lifting.posterior import shapes_of

# The share of outliers that is expected, and the density of a point anywhere in the
# patch, which says that a landmark is none of the joint.
OUTLIERS, ANYWHERE = 0.05, 0.25
# Pairs of each sample that are looked at again; landmarks hidden at most.
_KEPT, _MOST = 48, 6
# Samples at once: a precision of every pair meets all of them.
_TOGETHER = 8


class Others(NamedTuple):
    """Of one sample and several pairs, without each joint in turn."""

    log_joint: Float[Array, " c"]
    without: Float[Array, "c p"]  # the same of all joints but p
    shift: Float[Array, "c p 2"]  # Q_pp^-1 a_p: w_p less what the others expect
    spread: Float[Array, "c p 2 2"]  # Q_pp^-1, with the noise of w_p


def price(eps: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """What it costs to call a landmark an outlier, nats, expecting a share eps."""
    return np.log((1 - eps) / (ANYWHERE * eps)).astype(np.float32)


def others(
    log_joint: Float[Array, " c"],
    pulled: Float[Array, "c e"],
    blocks: Float[Array, "c p 2 2"],
) -> Others:
    """From log p(w, c), a and the blocks Q_pp of each pair."""
    a = pulled.reshape(len(pulled), -1, 2)
    (q00, q01), (_, q11) = ((blocks[..., i, 0], blocks[..., i, 1]) for i in range(2))
    det = q00 * q11 - q01**2
    spread = jnp.stack([q11, -q01, -q01, q00], -1) / det[..., None]
    spread = spread.reshape(*det.shape, 2, 2)
    shift = jnp.sum(spread * a[:, :, None], axis=-1)
    gain = 0.5 * jnp.sum(a * shift, -1) - 0.5 * jnp.log(det)
    without = log_joint[:, None] + gain + np.log(2 * np.pi).astype(np.float32)
    return Others(log_joint, without, shift, spread)


def blocks_of(Q: Float[Array, "c e e"]) -> Float[Array, "c p 2 2"]:
    """Q_pp of every joint."""
    P = Q.shape[1] // 2
    joints = np.arange(P)
    return jnp.moveaxis(Q.reshape(-1, P, 2, P, 2)[:, joints, :, joints], 0, 1)


@functools.partial(jax.jit, static_argnames="kept")
def likeliest_but_one(
    terms: PairTerms,
    W: Float[Array, "n p 2"],
    cost: Float[Array, "n p"],
    *,
    kept: int = _KEPT,
) -> tuple[Int[Array, "n k"], Float[Array, " n"]]:
    """The pairs that explain each complete sample best if one joint may be wrong.

    Chosen by the log density of all joints alone the right pair would be lost.

    Returns:
        Their numbers, and log p(w) if at most one joint is an outlier.
    """
    blocks = blocks_of(terms.precision)
    pull = einsum("cab,cb->ca", terms.precision, terms.mean)

    def one(own):
        w, pulled, cost = own
        pulled = pulled - pull
        square = jnp.sum(pulled * (w[None] - terms.mean), axis=1)
        found = others(terms.constant - 0.5 * square, pulled, blocks)
        best = jnp.maximum(found.log_joint, jnp.max(found.without - cost[None], axis=1))
        without = jax.nn.logsumexp(found.without, axis=0) - cost
        every = jnp.append(without, jax.nn.logsumexp(found.log_joint))
        chosen = jax.lax.top_k(best, min(kept, len(best)))[1]
        return chosen, jax.nn.logsumexp(every)

    def together(own):
        w, cost = own
        pulled = jnp.einsum("cab,nb->nca", terms.precision, w, precision=HIGHEST)
        return jax.lax.map(one, (w, pulled, cost))

    n = len(W)
    rows = jnp.arange(-(-n // _TOGETHER) * _TOGETHER) % n
    parts = W.reshape(n, -1)[rows], cost[rows]
    parts = [x.reshape(-1, _TOGETHER, x.shape[-1]) for x in parts]
    done = jax.lax.map(together, parts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], done)


def others_exactly(
    pairs: Looser,
    chosen: Int[Array, " k"],
    w: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    variance: Float[Array, " p"],
) -> Others:
    """Of the chosen pairs, with a noise per joint and landmarks that are missing."""
    mean, S = shapes_of(pairs, chosen)
    k, P, _ = mean.shape
    rows = (3 * np.arange(P)[:, None] + np.arange(2)).reshape(-1)
    known = jnp.repeat(labelled.astype(w.dtype), 2)
    noise = jnp.tile(jnp.eye(2, dtype=w.dtype), (P, P)) * SHIFT_VARIANCE
    C = S[:, rows][:, :, rows] + (noise + jnp.diag(jnp.repeat(variance, 2)))[None]
    C = C * (known[:, None] * known[None, :])[None] + jnp.diag(1 - known)[None]
    error = (w[None] - mean[..., :2]).reshape(k, 2 * P) * known[None]
    Q, log_det = sweep(jnp.moveaxis(C, 0, -1), pivots=2 * P)
    Q = jnp.moveaxis(Q, -1, 0)
    pulled = einsum("kab,kb->ka", Q, error)
    freedom = (jnp.sum(known) * np.log(2 * np.pi)).astype(w.dtype)
    square = jnp.sum(pulled * error, axis=1)
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
        r = jax.nn.softmax(found.without, axis=0)
        shift = jnp.sum(r[..., None] * found.shift, axis=0)
        gain = jax.nn.logsumexp(found.without, axis=0)
        gain = gain - jax.nn.logsumexp(found.log_joint) - cost
        return jnp.where(labelled, gain, -jnp.inf), shift

    return jax.lax.map(one, (chosen, W, labelled, variance, cost))


def find_outliers(
    pairs: Looser,
    terms: PairTerms,
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
        chosen, _ = likeliest_but_one(terms, jnp.asarray(x), jnp.asarray(cost[rows]))
        own = (jnp.asarray(y) for y in (W[rows], left, variance[rows], cost[rows]))
        found = jax.device_get(gains(pairs, chosen, *own))
        gain, shift = (x[: len(active)] for x in found)
        pays = (gain.max(1) > 0) & (2 * left[: len(active)].sum(1) > labelled.shape[1])
        active, worst = active[pays], gain.argmax(1)[pays]
        outlier[active, worst] = True
        filled[active, worst] -= shift[pays, worst]
    return outlier


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
        log_r = jax.nn.log_softmax(found.without, axis=0)
        noise = variance[None, :, None, None] * jnp.eye(2, dtype=w.dtype)[None, None]

        def density(factor):
            C = jnp.square(factor) * (found.spread - noise) + noise
            det = C[..., 0, 0] * C[..., 1, 1] - C[..., 0, 1] ** 2
            x, y = found.shift[..., 0], found.shift[..., 1]
            square = (
                C[..., 1, 1] * x**2 - 2 * C[..., 0, 1] * x * y + C[..., 0, 0] * y**2
            )
            log_p = log_r - 0.5 * (square / det + jnp.log(det))
            log_p = jax.nn.logsumexp(log_p, axis=0)
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
