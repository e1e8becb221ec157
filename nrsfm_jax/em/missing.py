"""Missing landmarks in the EM: latent like the view, at the cost of complete ones.

In most of the fit the missing coordinates of a sample are independent of the pair of
component and view (:func:`complete`), in the last steps and afterwards they are not
(:func:`condition`).
"""

# A covariance for every pattern of missing joints and every pair would be exact too,
# and too slow where nearly every sample has a pattern of its own. Both ways here start
# from the covariances of the complete picture, which all samples share.

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nrsfm_jax.em.gaussians import (
    HIGHEST,
    GaussianMixture,
    PairTerms,
    ShapeSums,
    einsum,
    packed_index,
    sweep,
    terms_of_pairs,
    turned_back,
)
from nrsfm_jax.em.samples import Samples, equal_gaps

# Samples handled at once, and how often in one program.
_TOGETHER, _CHUNKS = 32, 8
# Pairs whose terms are computed at once.
BLOCK = 128
# Of each sample: the views that are looked at, by one broad Gaussian the likeliest.
VIEWS = 16


class Conditioned(NamedTuple):
    """One sample and several pairs, given the labelled landmarks."""

    log_joint: Float[Array, " c"]  # log p of the labelled coordinates and the pair
    error: Float[Array, "c e"]  # w - A_g mu, as expected where missing
    index: Int[Array, " m"]  # the missing coordinates, then others
    spread: Float[Array, "c m m"]  # their covariance, 0 for the others


def condition(
    terms: PairTerms,
    w: Float[Array, " e"],
    labelled: Bool[Array, " p"],
    *,
    gaps: int,
) -> Conditioned:
    """The exact posterior of what is missing of one sample.

    With Q = C^-1, e the error of the labelled coordinates and 0 elsewhere:
        missing error  -Q_mm^-1 (Q e)_m  with covariance Q_mm^-1,
        det C_oo = det C det Q_mm,
        e_o' C_oo^-1 e_o = e' Q e - (Q e)_m' Q_mm^-1 (Q e)_m.

    ``terms`` are those of all joints, ``w`` is 0 where missing, and at most ``gaps``
    joints are missing; 0 for a complete sample.
    """
    index, real = _missing_first(labelled, gaps=gaps)
    # The errors are taken before anything is squared: no large numbers cancel.
    error = jnp.where(jnp.repeat(labelled, 2)[None], w[None] - terms.mean, 0)
    pulled = einsum("cab,cb->ca", terms.precision, error)
    square = jnp.sum(error * pulled, axis=1)
    T = jax.vmap(_system, (0, 0, None, None, 0))(
        terms.precision, pulled, index, real, square
    )
    T, log_det = sweep(jnp.moveaxis(T, 0, -1), pivots=2 * gaps)
    # The unit coordinates that fill up the length have served.
    kept = jnp.append(real, 1)
    T = jnp.moveaxis(T, -1, 0) * (kept[:, None] * kept[None, :])[None]
    freed = 0.5 * (jnp.sum(real) * np.log(2 * np.pi) - log_det)
    return Conditioned(
        terms.constant + freed.astype(w.dtype) - 0.5 * T[:, -1, -1],
        error.at[:, index].add(-T[:, :-1, -1]),
        index,
        T[:, :-1, :-1],
    )


def _missing_first(
    labelled: Bool[Array, " p"], *, gaps: int
) -> tuple[Int[Array, " m"], Float[Array, " m"]]:
    """Missing coordinates, then labelled ones up to the length; 1 where missing."""
    # A fixed length, so that samples with other gaps run the same program.
    joints = jnp.argsort(labelled.astype(jnp.int32))[:gaps]
    index = (2 * joints[:, None] + jnp.arange(2)[None]).reshape(-1)
    return index, 1 - labelled[index // 2].astype(jnp.float32)


def _system(
    Q: Float[Array, "e e"],
    pulled: Float[Array, " e"],
    index: Int[Array, " m"],
    real: Float[Array, " m"],
    square: Float[Array, ""],
) -> Float[Array, "m1 m1"]:
    """[Q_mm, pulled_m; pulled_m', square] for :func:`sweep`."""
    # A coordinate that is not missing becomes an independent unit one: no effect.
    block = Q[index[:, None], index[None, :]] * (real[:, None] * real[None, :])
    block, side = block + jnp.diag(1 - real), pulled[index] * real
    return jnp.block([[block, side[:, None]], [side[None, :], square[None, None]]])


# --- independent of the pair --------------------------------------------------------


def complete(
    w: Float[Array, "n e"],
    labelled: Bool[Array, "n p"],
    r: Float[Array, "n c"],
    terms: PairTerms,
    *,
    gaps: int,
) -> tuple[Float[Array, "n f"], Float[Array, " n"]]:
    """What `gaussians.features_of` is expected to be where landmarks are missing.

    The missing coordinates of a sample are latent, normal and independent of the pair:
        q(w_m) = N(V (b - P w)_m, V),
        P = sum_c r_c C_c^-1,  b = sum_c r_c C_c^-1 A_g mu,
    V the inverse of the block P_mm: the best such q for the responsibilities r. The
    arguments are as in :func:`condition`.

    Returns:
        The expected features, and the entropy of q in nats.
    """
    # Independent of the pair, so that all samples share one covariance per pair: the
    # sums of the maximisation stay one product over all of them.
    a, b = np.triu_indices(w.shape[1])
    packed = jnp.matmul(r, terms.precision[:, a, b], precision=HIGHEST)
    pull = einsum("cab,cb->ca", terms.precision, terms.mean)
    pull = jnp.matmul(r, pull, precision=HIGHEST)

    def together(chunk):
        w, labelled, packed, pull = chunk
        index, real = jax.vmap(functools.partial(_missing_first, gaps=gaps))(labelled)
        P = packed[:, packed_index(w.shape[1])]
        pulled = einsum("nab,nb->na", P, w) - pull
        T = jax.vmap(_system)(P, pulled, index, real, jnp.zeros(len(w), w.dtype))
        T, log_det = sweep(jnp.moveaxis(T, 0, -1), pivots=2 * gaps)
        features = jax.vmap(_expected_features)(w, jnp.moveaxis(T, -1, 0), index, real)
        entropy = 0.5 * (jnp.sum(real, axis=1) * (1 + np.log(2 * np.pi)) - log_det)
        return features, entropy.astype(w.dtype)

    # Few at a time: the matrices of all samples together do not fit any cache.
    n, rows = len(w), jnp.arange(-(-len(w) // _TOGETHER) * _TOGETHER) % len(w)
    chunks = jax.tree.map(
        lambda x: x[rows].reshape(-1, _TOGETHER, *x.shape[1:]),
        (w, labelled, packed, pull),
    )
    done = jax.lax.map(together, chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], done)


def _expected_features(
    w: Float[Array, " e"],
    T: Float[Array, "m1 m1"],
    index: Int[Array, " m"],
    real: Float[Array, " m"],
) -> Float[Array, " f"]:
    """E[w] and E[w_a w_b] from V and V (P w - b)_m, the blocks of T."""
    a, b = np.triu_indices(w.shape[0])
    w = w.at[index].add(-T[:-1, -1] * real)
    V = jnp.zeros((w.shape[0],) * 2, w.dtype)
    V = V.at[index[:, None], index[None, :]].set(
        T[:-1, :-1] * (real[:, None] * real[None, :])
    )
    return jnp.concatenate([w, w[a] * w[b] + V[a, b]])


# --- exact: a posterior for every sample and pair -----------------------------------


class Group(NamedTuple):
    """Samples with about as many missing joints, in chunks."""

    w: Float[Array | np.ndarray, "t b e"]  # landmarks, 0 where missing
    labelled: Bool[Array | np.ndarray, "t b p"]
    weight: Float[Array | np.ndarray, "t b"]  # 1 for a sample, 0 for padding


def groups_of(samples: Samples) -> list[tuple[Group, int]]:
    """The samples, sorted by the number of missing joints, which is at most that."""
    W, labelled = map(np.asarray, samples)
    w, shape = W.reshape(len(W), -1), (_CHUNKS, _TOGETHER)
    groups = []
    # All of one size, so that few programs are compiled.
    for rows, gaps in equal_gaps(labelled, chunk=_CHUNKS * _TOGETHER):
        weight = np.ones(shape, np.float32)
        weight.reshape(-1)[len(np.unique(rows)) :] = 0
        rows = np.resize(rows, shape)
        groups.append((Group(w[rows], labelled[rows], weight), gaps))
    return groups


@jax.jit
def terms_at(
    mixture: GaussianMixture, pairs: Int[Array, " c"], count: Int[Array, ""]
) -> PairTerms:
    """The terms of the first ``count`` of the given pairs, each at its place; 0 else.

    The number of pairs is a multiple of ``BLOCK``.
    """
    e = mixture.mu.shape[1] // 3 * 2
    C = len(mixture.mu) * len(mixture.views)

    def fill(i, terms):
        some = jax.lax.dynamic_slice_in_dim(pairs, i * BLOCK, BLOCK)
        own = terms_of_pairs(mixture, some)
        return jax.tree.map(lambda every, x: every.at[some].set(x), terms, own)

    shapes = (C, e), (C, e, e), (C,)
    nothing = PairTerms(*(jnp.zeros(shape, mixture.mu.dtype) for shape in shapes))
    # So few at a time that their matrices fit the cache.
    return jax.lax.fori_loop(0, (count + BLOCK - 1) // BLOCK, fill, nothing)


def terms_in_use(
    mixture: GaussianMixture, pairs: Sequence[Int[Array | np.ndarray, "..."]]
) -> PairTerms:
    """The terms of all pairs that occur."""
    C = len(mixture.mu) * len(mixture.views)
    used = np.unique(np.concatenate([np.ravel(some) for some in pairs]))
    length = -(-C // BLOCK) * BLOCK
    return terms_at(mixture, jnp.asarray(np.resize(used, length)), len(used))


@functools.partial(jax.jit, static_argnames=("gaps", "kept"))
def likeliest(
    terms: PairTerms,
    group: Group,
    pairs: Int[Array, "t b c"] | None = None,
    *,
    gaps: int,
    kept: int,
) -> Int[Array, "t b k"]:
    """The pairs, of all or of the given ones, that explain each sample best."""

    def one(sample):
        w, labelled, own = sample
        some = terms if own is None else jax.tree.map(lambda x: x[own], terms)
        log_joint = condition(some, w, labelled, gaps=gaps).log_joint
        best = jax.lax.top_k(log_joint, min(kept, len(log_joint)))[1]
        return best if own is None else own[best]

    rows = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), (*group[:2], pairs))
    return jax.lax.map(one, rows).reshape(*group.weight.shape, -1)


def pairs_of_views(
    views: Int[Array, "*n v"], *, components: int, count: int
) -> Int[Array, "*n c"]:
    """The pairs of these views out of ``count`` with every component."""
    of_each = [views + k * count for k in range(components)]
    return jnp.concatenate(of_each, axis=-1)


def no_sums(mixture: GaussianMixture) -> tuple[ShapeSums, Float[Array, " c"]]:
    """Of no samples; and sum_i r_ic."""
    K, d = mixture.mu.shape
    shapes = (K,), (K, d), (K, d, d), ()
    sums = ShapeSums(*(jnp.zeros(shape, mixture.mu.dtype) for shape in shapes))
    return sums, jnp.zeros(K * len(mixture.views), mixture.mu.dtype)


@functools.partial(jax.jit, static_argnames="gaps", donate_argnums=0)
def add_sums(
    sums: tuple[ShapeSums, Float[Array, " c"]],
    mixture: GaussianMixture,
    terms: PairTerms,
    group: Group,
    pairs: Int[Array, "t b k"],
    *,
    gaps: int,
) -> tuple[ShapeSums, Float[Array, " c"]]:
    """The sums with those of a group added, over the given pairs of each sample.

    The precision of the labelled coordinates is C^-1 - C^-1_.m Q_mm^-1 C^-1_m.; the
    part with C^-1 is left to :func:`all_sums`, which has it once for all samples.
    """
    K, G = len(mixture.mu), len(mixture.views)

    def of_sample(w, labelled, pairs):
        own = jax.tree.map(lambda x: x[pairs], terms)
        given = condition(own, w, labelled, gaps=gaps)
        log_p = jax.nn.logsumexp(given.log_joint)
        M = mixture.views[pairs % G][:, :, :2]
        y = einsum("cab,cb->ca", own.precision, given.error)[..., None]
        back = jnp.concatenate([y, own.precision[:, :, given.index]], axis=-1)
        count, wide = len(pairs), back.shape[-1]
        back = einsum("cpim,cai->cpam", back.reshape(count, -1, 2, wide), M)
        back = back.reshape(count, -1, wide)
        spread = einsum("cdm,cml->cdl", back[..., 1:], given.spread)
        both = jnp.concatenate([back[..., :1], spread], axis=-1)
        return jnp.exp(given.log_joint - log_p), back, both, log_p

    def add_chunk(carry, chunk):
        (sums, N), ((w, labelled, weight), pairs) = carry, chunk
        r, back, both, log_p = jax.vmap(of_sample)(w, labelled, pairs)
        r = r * weight[:, None]
        share = jax.nn.one_hot(pairs // G, K, axis=0) * r[None]
        scaled = share[..., None, None] * both[None]
        new = ShapeSums(
            sums.N + jnp.sum(share, (1, 2)),
            sums.first + jnp.sum(scaled[..., 0], (1, 2)),
            sums.second + einsum("kbcdm,bcem->kde", scaled, back),
            sums.log_p + jnp.dot(weight, log_p),
        )
        return (new, N.at[pairs].add(r)), None

    return jax.lax.scan(add_chunk, sums, (group, pairs))[0]


@jax.jit
def all_sums(
    sums: tuple[ShapeSums, Float[Array, " c"]],
    mixture: GaussianMixture,
    terms: PairTerms,
) -> ShapeSums:
    """The sums of all groups, complete."""
    K, G, e = len(mixture.mu), len(mixture.views), terms.mean.shape[1]
    done, N = sums

    def of_component(own):
        H = -own[1][:, None, None] * own[0]
        return turned_back(mixture.views, jnp.zeros((G, e), H.dtype), H)[1]

    rest = jax.lax.map(
        of_component, (terms.precision.reshape(K, G, e, e), N.reshape(K, G))
    )
    return done._replace(second=done.second + rest)
