"""The EM where landmarks are missing, exact: a posterior for every sample and pair.

What is missing of a sample is normal given the labelled landmarks and the pair c of
component and view; its covariance enters the maximisation (see `missing.completed`).
Doing so for all pairs would be too slow. Few of them explain a sample: the likeliest
are chosen anew every few steps, and the others are left out in between.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nrsfm_jax.missing import completed, equal_gaps
from nrsfm_jax.view_likelihood import ViewTerms
from nrsfm_jax.visibility import Samples

# Samples handled at once; what is kept of all pairs for each of them.
_CHUNK, _KEPT = 64, 8


class PairSums(NamedTuple):
    """What the maximisation needs, for each pair c, with e = w - A_g mu."""

    N: Float[Array, " c"]  # sum_i r_ic
    first: Float[Array, "c e"]  # sum_i r_ic E[e]
    second: Float[Array, "c e e"]  # sum_i r_ic E[e e^T]
    log_p: Float[Array, ""]  # sum_i log p(w_i), of the kept pairs


class Group(NamedTuple):
    """Samples with about as many missing joints, in chunks.

    Attributes:
        w: (T, B, 2P) landmarks, 0 where missing.
        labelled: (T, B, P).
        weight: (T, B) 1 for a sample, 0 for padding.
        gaps: at least the number of missing joints.
    """

    w: Float[np.ndarray, "t b e"]
    labelled: Bool[np.ndarray, "t b p"]
    weight: Float[np.ndarray, "t b"]
    gaps: int


def groups_of(samples: Samples) -> list[Group]:
    """The samples, sorted by the number of missing joints."""
    w, shown = np.reshape(samples.W, (len(samples.W), -1)), samples.shown
    groups = []
    for rows, gaps in equal_gaps(shown, chunk=2 * len(w)):
        rows = np.unique(rows)  # without the repeated ones
        chunks = -(-len(rows) // _CHUNK)
        weight = np.arange(chunks * _CHUNK) < len(rows)
        rows = np.resize(rows, (chunks, _CHUNK))
        weight = weight.reshape(rows.shape).astype(np.float32)
        groups.append(Group(w[rows], shown[rows], weight, max(gaps, 1)))
    return groups


def likeliest_pairs(
    terms: ViewTerms, group: Group, *, kept: int = _KEPT
) -> Int[Array, "t b k"]:
    """The pairs that explain each sample best."""
    kept = min(kept, len(terms.constant))
    return _likeliest_pairs(terms, group.w, group.labelled, group.gaps, kept)


@functools.partial(jax.jit, static_argnames=("gaps", "kept"))
def _likeliest_pairs(terms, w, labelled, gaps: int, kept: int):
    def one(sample):
        w, labelled = sample
        log_joint = completed(terms, w, labelled, gaps=gaps).log_joint
        return jax.lax.top_k(log_joint, kept)[1]

    flat = w.reshape(-1, w.shape[2]), labelled.reshape(-1, labelled.shape[2])
    return jax.lax.map(one, flat).reshape(*w.shape[:2], kept)


def no_sums(terms: ViewTerms) -> PairSums:
    """Of no samples."""
    mean, precision, constant = (jnp.zeros_like(x) for x in terms)
    return PairSums(N=constant, first=mean, second=precision, log_p=constant[0])


def add_sums(
    sums: PairSums, terms: ViewTerms, group: Group, pairs: Int[Array, "t b k"]
) -> PairSums:
    """The sums with those of a group added, over the given pairs of each sample."""
    return _add_sums(sums, terms, *group[:3], pairs, group.gaps)


@functools.partial(jax.jit, static_argnames="gaps")
def _add_sums(sums, terms, w, labelled, weight, pairs, gaps: int) -> PairSums:
    def of_sample(w, labelled, pairs):
        own = jax.tree.map(lambda x: x[pairs], terms)
        post = completed(own, w, labelled, gaps=gaps, spread=True)
        log_p = jax.nn.logsumexp(post.log_joint)
        second = post.error[:, :, None] * post.error[:, None, :]
        a, b = post.index[:, None], post.index[None, :]
        second = second.at[:, a, b].add(post.spread)
        return jnp.exp(post.log_joint - log_p), post.error, second, log_p

    def add_chunk(sums, chunk):
        w, labelled, weight, pairs = chunk
        r, first, second, log_p = jax.vmap(of_sample)(w, labelled, pairs)
        r = r * weight[:, None]
        new = PairSums(
            sums.N.at[pairs].add(r),
            sums.first.at[pairs].add(r[..., None] * first),
            sums.second.at[pairs].add(r[..., None, None] * second),
            sums.log_p + jnp.dot(weight, log_p),
        )
        return new, None

    return jax.lax.scan(add_chunk, sums, (w, labelled, weight, pairs))[0]
