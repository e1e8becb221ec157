"""Missing landmarks in the EM: latent like the view, at the price of complete ones.

A covariance for every pattern of missing joints and every view would be exact, and
too slow where nearly every sample has a pattern of its own. In most of the fit the
missing coordinates of a sample are normal and independent of the view instead, so
that all samples share the covariances of the complete picture (:func:`complete`). The
last steps (`exact_em`) and everything afterwards are exact (:func:`completed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nrsfm_jax.view_likelihood import (
    HIGHEST,
    ViewTerms,
    einsum,
    features_of,
    inverse_and_log_det,
    packed_index,
)
from nrsfm_jax.visibility import Samples

# Samples whose missing landmarks are worked out at once.
_TOGETHER = 64


def start_features(samples: Samples) -> Float[Array, "n f"]:
    """What the EM starts from: the features, or what they are on average."""
    w = jnp.asarray(samples.W).reshape(len(samples.W), -1)
    if samples.labelled is None:
        return features_of(w)
    return first_features(w, jnp.asarray(samples.labelled))


def responsibilities(
    log_joint: Float[Array, "n g"],
    features: Float[Array, "n f"],
    samples: Samples,
    terms: ViewTerms,
) -> tuple[Float[Array, "n g"], Float[Array, ""], Float[Array, "n f"]]:
    """Posterior of the views, mean log-likelihood, and the features given both."""
    log_p = jax.nn.logsumexp(log_joint, axis=1)
    r = jnp.exp(log_joint - log_p[:, None])
    if samples.labelled is None:
        return r, jnp.mean(log_p), features
    w = jnp.asarray(samples.W).reshape(len(samples.W), -1)
    features, entropy = complete(w, jnp.asarray(samples.labelled), r, terms)
    return r, jnp.mean(log_p + entropy), features


def complete(
    w: Float[Array, "n e"],
    labelled: Bool[Array, "n p"],
    r: Float[Array, "n g"],
    terms: ViewTerms,
) -> tuple[Float[Array, "n f"], Float[Array, " n"]]:
    """What :func:`features_of` is expected to be where landmarks are missing.

    The missing coordinates of a sample are latent, normal and, so that all samples
    still share one covariance per view, independent of the view:
        q(w_m) = N(V (b - P w)_m, V),
        P = sum_g r_g C_g^-1,  b = sum_g r_g C_g^-1 A_g mu,
    V the inverse of the block P_mm: the best such q for the responsibilities r.

    Args:
        w: landmarks, 0 where missing.
        labelled: joints that have a landmark.
        r: responsibilities of the views.
        terms: of the views, all joints labelled.

    Returns:
        The expected features, and the entropy of q in nats.
    """
    a, b = np.triu_indices(w.shape[1])
    packed = jnp.matmul(r, terms.precision[:, a, b], precision=HIGHEST)
    pull = einsum("gab,gb->ga", terms.precision, terms.mean)
    pull = jnp.matmul(r, pull, precision=HIGHEST)
    # Few at a time: the matrices of all samples together do not fit any cache.
    return jax.lax.map(
        lambda x: _complete_one(*x), (w, labelled, packed, pull), batch_size=_TOGETHER
    )


def _complete_one(
    w: Float[Array, " e"],
    labelled: Bool[Array, " p"],
    packed: Float[Array, " q"],
    pull: Float[Array, " e"],
) -> tuple[Float[Array, " f"], Float[Array, ""]]:
    """:func:`complete` of one sample, P as its packed upper triangle and b."""
    e = w.shape[0]
    a, b = np.triu_indices(e)
    P = packed[packed_index(e)]
    pull = pull - jnp.dot(P, w, precision=HIGHEST)
    hidden = 1 - jnp.repeat(labelled.astype(w.dtype), 2)
    both = hidden[:, None] * hidden[None, :]
    V, log_det = inverse_and_log_det(P * both + jnp.diag(1 - hidden))
    V = V * both
    w = w + jnp.dot(V, pull, precision=HIGHEST)
    second = w[a] * w[b] + V[a, b]
    entropy = 0.5 * (jnp.sum(hidden) * (1 + np.log(2 * np.pi)) - log_det)
    return jnp.concatenate([w, second]), entropy.astype(w.dtype)


def first_features(
    w: Float[Array, "n e"], labelled: Bool[Array, "n p"]
) -> Float[Array, "n f"]:
    """:func:`complete` before anything is fitted: each joint as it is on average."""
    e = w.shape[1]
    shown = jnp.repeat(labelled.astype(w.dtype), 2, axis=1)
    count = jnp.maximum(jnp.sum(shown, axis=0), 1)
    mean = jnp.sum(w * shown, axis=0) / count
    variance = jnp.sum(jnp.square(w - mean[None]) * shown, axis=0) / count
    w = jnp.where(shown > 0, w, mean[None])
    a, b = np.triu_indices(e)
    spread = jnp.asarray(a == b, w.dtype)[None] * ((1 - shown) * variance[None])[:, a]
    return jnp.concatenate([w, w[:, a] * w[:, b] + spread], axis=1)


def equal_gaps(
    labelled: Bool[np.ndarray, "n p"], *, chunk: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Rows with about as many missing joints, ``chunk`` at most, and that number.

    The number is rounded up and the rows are repeated up to a whole chunk, so that
    few programs are compiled; repeated rows only write the same result again.
    """
    P = labelled.shape[1]
    missing = P - labelled.sum(1)
    halves = (2**k // 2 * j // 2 for k in range(P.bit_length() + 1) for j in (2, 3))
    steps = sorted({0, P, *(min(size, P) for size in halves)})
    level = np.searchsorted(steps, missing)
    for i, gaps in enumerate(steps):
        rows = np.flatnonzero(level == i)
        # A power of two: sets cut in pieces would compile a program for each.
        size = min(chunk, 1 << max(len(rows) - 1, 0).bit_length())
        for start in range(0, len(rows), size):
            yield np.resize(rows[start : start + size], size), gaps


class Completed(NamedTuple):
    """One sample and several pairs of component and view, labelled joints given."""

    log_joint: Float[Array, " g"]  # log p of the labelled coordinates and the pair
    error: Float[Array, "g e"]  # w - A_g mu, as expected where missing
    index: Int[Array, " m"]  # the missing coordinates, then others
    spread: Float[Array, "g m m"]  # their covariance, 0 for the others


def completed(
    terms: ViewTerms,
    w: Float[Array, " e"],
    labelled: Bool[Array, " p"],
    *,
    gaps: int,
    spread: bool = False,
) -> Completed:
    """The exact posterior of what is missing.

    With Q = C_g^-1, e the error of the labelled coordinates and 0 elsewhere:
        missing error  -Q_mm^-1 (Q e)_m  with covariance Q_mm^-1,
        det C_oo = det C det Q_mm,
        e_o' C_oo^-1 e_o = e' Q e - (Q e)_m' Q_mm^-1 (Q e)_m.

    Args:
        terms: of the pairs, all joints labelled.
        w: landmarks, 0 where missing.
        labelled: joints that have a landmark.
        gaps: at least the number of missing joints.
        spread: whether the covariance is wanted; without, it has no columns.
    """
    # Positions of the missing joints, then labelled ones up to the length.
    joints = jnp.argsort(labelled.astype(jnp.int32))[:gaps]
    index = (2 * joints[:, None] + jnp.arange(2)[None]).reshape(-1)
    hidden = 1 - jnp.repeat(labelled.astype(w.dtype), 2)
    error = (w[None] - terms.mean) * (1 - hidden)[None]
    pulled = einsum("gab,gb->ga", terms.precision, error)
    m = hidden[index]
    block = terms.precision[:, index[:, None], index[None, :]]
    block = block * (m[:, None] * m[None, :])[None] + jnp.diag(1 - m)[None]
    pull = pulled[:, index] * m[None]
    unit = jnp.tile(jnp.diag(m)[:, : len(m) if spread else 0], (len(block), 1, 1))
    right = jnp.concatenate([pull[:, :, None], unit], axis=2)
    solved, log_det = solve_and_log_det(block, right)
    solved = solved * m[None, :, None]
    expected = solved[:, :, 0]
    square = jnp.sum(error * pulled, axis=1) - jnp.sum(pull * expected, axis=1)
    freed = 0.5 * (jnp.sum(hidden) * np.log(2 * np.pi) - log_det)
    log_joint = terms.constant + freed.astype(w.dtype) - 0.5 * square
    error = error.at[:, index].add(-expected)
    return Completed(log_joint, error, index, solved[:, :, 1:])


def completed_pose(
    terms: ViewTerms,
    gain: Float[Array, "g p e"],
    mean_depth: Float[Array, "g p"],
    w: Float[Array, " e"],
    labelled: Bool[Array, " p"],
    *,
    gaps: int,
) -> tuple[Float[Array, " p"], Float[Array, " e"], Float[Array, ""]]:
    """Depth and landmarks expected of one sample, its missing ones marginalised.

    Args:
        terms: of all pairs of component and view, all joints labelled.
        gain: of the depth, for each pair.
        mean_depth: of each pair.
        w: landmarks, 0 where missing.
        labelled: joints that have a landmark.
        gaps: at least the number of missing joints.

    Returns:
        z (P,), w with the missing coordinates filled, and log p of the labelled ones.
    """
    log_joint, error, _, _ = completed(terms, w, labelled, gaps=gaps)
    log_p = jax.nn.logsumexp(log_joint)
    r = jnp.exp(log_joint - log_p)
    filled = jnp.dot(r, terms.mean + error, precision=HIGHEST)
    z = mean_depth + einsum("gpe,ge->gp", gain, error)
    z = jnp.dot(r, z, precision=HIGHEST)
    return z, jnp.where(jnp.repeat(labelled, 2), w, filled), log_p


def solve_and_log_det(
    A: Float[Array, "g m m"], b: Float[Array, "g m r"]
) -> tuple[Float[Array, "g m r"], Float[Array, " g"]]:
    """A^-1 b and log det A of many small positive definite matrices (Gauss-Jordan).

    The matrices lie side by side on the last axis, so that each operation runs over
    a long row of memory: on a CPU more than twice as fast as one after the other.
    """

    def eliminate(k, state):
        T, log_det = state
        pivot = T[k, k]
        row = T[k] / pivot[None]
        T = T - T[:, k][:, None] * row[None]
        return T.at[k].set(row), log_det + jnp.log(pivot)

    T = jnp.moveaxis(jnp.concatenate([A, b], axis=2), 0, -1)
    start = T, jnp.zeros(len(A), A.dtype)
    T, log_det = jax.lax.fori_loop(0, A.shape[1], eliminate, start)
    return jnp.moveaxis(T[:, A.shape[1] :], -1, 0), log_det
