"""Pictures of a Gaussian shape from a grid of views: likelihoods and the EM's sums.

With s ~ N(mu, Sigma), views R_g, noise sigma and a free shift (see `gaussian_shape`):
    C_g = A_g Sigma A_g^T + sigma^2 I + shift,   K_g = Sigma A_g^T C_g^-1,
and every sum of the EM is a product of matrices over all samples and views.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

HIGHEST = jax.lax.Precision.HIGHEST
# Variance of the shift t, patch units squared. The landmarks are centred over the
# labelled joints, the shape over all of them: t is the difference.
SHIFT_VARIANCE = 0.1

einsum = functools.partial(jnp.einsum, precision=HIGHEST)


class ViewTerms(NamedTuple):
    """log N(w; A_g mu, C_g) is quadratic in w: its terms, for one pattern."""

    mean: Float[Array, "g e"]  # A_g mu, 0 at missing joints
    precision: Float[Array, "g e e"]  # C_g^-1, 0 at missing joints
    constant: Float[Array, " g"]


def view_terms(
    mu: Float[Array, " d"],
    Sigma: Float[Array, "d d"],
    sigma: Float[Array, ""],
    views: Float[Array, "g 3 3"],
    labelled: Bool[Array, " p"],
) -> ViewTerms:
    """C_g = A_g Sigma A_g^T + sigma^2 I + shift, inverted over the labelled joints."""
    P, G = labelled.shape[0], views.shape[0]
    M = views[:, :, :2]
    shown = jnp.repeat(labelled.astype(mu.dtype), 2)
    mean = einsum("pa,gai->gpi", mu.reshape(P, 3), M).reshape(G, 2 * P) * shown[None]
    half = einsum("paqb,gbj->gpaqj", Sigma.reshape(P, 3, P, 3), M)
    C = einsum("gpaqj,gai->gpiqj", half, M).reshape(G, 2 * P, 2 * P)
    shift = jnp.tile(jnp.eye(2, dtype=mu.dtype), (P, P)) * SHIFT_VARIANCE
    identity = jnp.eye(2 * P, dtype=mu.dtype)
    C = C + (shift + jnp.square(sigma) * identity)[None]
    # A missing coordinate becomes an independent unit one: no effect on the rest.
    both = shown[:, None] * shown[None, :]
    # The inverse is formed, because one product with the quadratic features of all
    # samples then replaces a triangular solve per view.
    inverse, log_det = jax.vmap(inverse_and_log_det)(
        C * both[None] + jnp.diag(1 - shown)[None]
    )
    precision = 0.5 * (inverse + inverse.mT) * both[None]
    constant = -0.5 * (log_det + jnp.sum(shown) * jnp.log(2 * jnp.pi))
    return ViewTerms(mean, precision, constant)


def inverse_and_log_det(
    C: Float[Array, "e e"],
) -> tuple[Float[Array, "e e"], Float[Array, ""]]:
    """Inverse and log-determinant of a positive definite matrix (Gauss-Jordan).

    Positive definite matrices need no pivoting. LAPACK is avoided: called for
    hundreds of small matrices, its threads wait for each other, and on a busy
    machine the fit took minutes instead of seconds.
    """

    def eliminate(k, state):
        C, log_det = state
        pivot = C[k, k]
        row = C[k].at[k].set(1) / pivot
        column = C[:, k].at[k].set(0)
        C = C.at[:, k].set(0) - column[:, None] * row[None, :]
        return C.at[k].set(row), log_det + jnp.log(pivot)

    return jax.lax.fori_loop(0, len(C), eliminate, (C, jnp.zeros((), C.dtype)))


def features_of(w: Float[Array, "n e"]) -> Float[Array, "n f"]:
    """[w, w_a w_b for a <= b]: log-likelihoods and moments are linear in these."""
    a, b = np.triu_indices(w.shape[1])
    return jnp.concatenate([w, w[:, a] * w[:, b]], axis=1)


def view_log_likelihoods(
    features: Float[Array, "n f"], terms: ViewTerms
) -> Float[Array, "n g"]:
    """log N(w_i; A_g mu, C_g) of all samples and views by one matrix product."""
    e = terms.mean.shape[1]
    a, b = np.triu_indices(e)
    linear = einsum("gab,gb->ga", terms.precision, terms.mean)
    # Each pair a < b stands for two entries of the symmetric precision.
    factor = jnp.asarray(np.where(a == b, -0.5, -1.0), features.dtype)
    coefficients = jnp.concatenate(
        [linear, terms.precision[:, a, b] * factor[None]], axis=1
    )
    constant = terms.constant - 0.5 * jnp.sum(linear * terms.mean, axis=1)
    product = jnp.matmul(features, coefficients.T, precision=HIGHEST)
    return product + constant[None]


@functools.cache
def packed_index(e: int) -> Int[np.ndarray, "e e"]:
    """Where entry (a, b) of a symmetric matrix lies in its packed upper triangle."""
    index = np.zeros((e, e), np.int32)
    a, b = np.triu_indices(e)
    index[a, b] = index[b, a] = np.arange(a.size)
    return index


def depth_gain(
    Sigma: Float[Array, "d d"],
    views: Float[Array, "g 3 3"],
    precision: Float[Array, "g e e"],
) -> Float[Array, "g p e"]:
    """Rows of K_g in the camera's z: depth moves by this per error in the image."""
    P = precision.shape[1] // 2
    z_axis, M = views[:, :, 2], views[:, :, :2]
    half = einsum("paqb,ga->gpqb", Sigma.reshape(P, 3, P, 3), z_axis)
    covariance = einsum("gpqb,gbj->gpqj", half, M).reshape(-1, P, 2 * P)
    return jnp.matmul(covariance, precision, precision=HIGHEST)


def score_sums(
    features: Float[Array, "n f"], r: Float[Array, "n g"], terms: ViewTerms
) -> tuple[Float[Array, "g e"], Float[Array, "g e e"]]:
    """h_g = C_g^-1 sum_i r e and H_g = C_g^-1 (sum_i r e e^T) C_g^-1 - N_g C_g^-1.

    Args:
        features: of the samples, :func:`features_of`.
        r: responsibilities r_ig; e = w_i - A_g mu, N_g = sum_i r_ig.
        terms: of the views.
    """
    mean, precision, _ = terms
    e = mean.shape[1]
    N = jnp.sum(r, axis=0)
    moments = jnp.matmul(r.T, features, precision=HIGHEST)
    first, second = moments[:, :e], moments[:, e + packed_index(e)]
    cross = first[:, :, None] * mean[:, None, :]
    square = mean[:, :, None] * mean[:, None, :] * N[:, None, None]
    about_mean = second - cross - cross.mT + square
    return scores(first - N[:, None] * mean, about_mean, N, precision)


def scores(
    first: Float[Array, "g e"],
    second: Float[Array, "g e e"],
    N: Float[Array, " g"],
    precision: Float[Array, "g e e"],
) -> tuple[Float[Array, "g e"], Float[Array, "g e e"]]:
    """:func:`score_sums` from N_g, sum_i r e and sum_i r e e^T."""
    h = einsum("gab,gb->ga", precision, first)
    H = jnp.matmul(precision, second, precision=HIGHEST)
    H = jnp.matmul(H, precision, precision=HIGHEST) - N[:, None, None] * precision
    return h, H


def updated(
    mu: Float[Array, " d"],
    Sigma: Float[Array, "d d"],
    views: Float[Array, "g 3 3"],
    h: Float[Array, "g e"],
    H: Float[Array, "g e e"],
    n: Float[Array, ""],
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """The maximisation from :func:`score_sums` over samples of total weight n.

        d = sum_g K_g sum_i r e / n                 = Sigma u,
        Sigma + sum_g K_g (...) K_g^T / n - ...     = Sigma + Sigma U Sigma - d d^T,
    with u = sum_g A_g^T h_g / n and U = sum_g A_g^T H_g A_g / n: K_g itself is never
    needed, and samples with missing joints add up alike.
    """
    G, P = views.shape[0], mu.shape[0] // 3
    M = views[:, :, :2]
    u = einsum("gpi,gai->pa", h.reshape(G, P, 2), M).reshape(3 * P) / n
    half = einsum("gpiqj,gbj->gpiqb", H.reshape(G, P, 2, P, 2), M)
    U = einsum("gpiqb,gai->paqb", half, M).reshape(3 * P, 3 * P) / n
    d = jnp.matmul(Sigma, u, precision=HIGHEST)
    change = jnp.matmul(Sigma, U, precision=HIGHEST)
    change = jnp.matmul(change, Sigma, precision=HIGHEST)
    Sigma = Sigma + change - d[:, None] * d[None, :]
    return mu + d, 0.5 * (Sigma + Sigma.T)
