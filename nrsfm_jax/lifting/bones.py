"""Bones say how deep a limb points: lengths that are known turn into depth.

A pose of which m and C are known of the depth, and the image of x and y:

    minimise  1/2 (z - m)^T (C + e I)^-1 (z - m) + 1/2 sum_b ((l_b - L_b) / tau)^2,
    l_b = sqrt(dx_b^2 + dy_b^2 + dz_b^2)

L_b are the lengths of one individual, from a track of it; or, of a single frame, in the
proportions of the training poses, L_b = s ell_b with the scale s that fits best.
"""

# Paper: no such step; here: the shapes know the length of a bone on average only.

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import optimize

from nrsfm_jax.em.gaussians import HIGHEST, sweep

# Of a single frame: by how much a body's bones differ from the proportions, patch
# units; and the factor of the standard deviations of the depth beside them.
TAU, LOOSER = 0.05, 1.5
_STEPS = 8

Edges = tuple[tuple[int, int], ...]


def lengths(
    pose: Float[Array, "*n p 3"], edges: Int[np.ndarray, "b 2"]
) -> Float[Array, "*n b"]:
    """l_b, at least .01 so that it has a gradient."""
    bone = pose[..., edges[:, 1], :] - pose[..., edges[:, 0], :]
    return jnp.sqrt(jnp.sum(bone**2, axis=-1) + 1e-4)


def fit_depth(
    xy: Float[Array, "p 2"],
    m: Float[Array, " p"],
    C: Float[Array, "p p"],
    ell: Float[Array, " b"],
    scale: Float[Array, ""],
    tau: Float[Array, " b"],
    *,
    edges: Int[np.ndarray, "b 2"],
) -> tuple[Float[Array, " p"], Float[Array, "p p"]]:
    """The depth of one frame, 0 on average, and its covariance, by Gauss-Newton.

    Args:
        xy: of the joints, in the unit of the depth.
        m: mean of the depth.
        C: its covariance.
        ell: lengths of the bones, or their proportions.
        scale: by which ``ell`` is multiplied; 0: the one that fits best.
        tau: standard deviation of each bone about its length.
        edges: the ends of each bone.
    """
    P = len(m)
    noise = 1e-4 * jnp.trace(C) / P + 0.01 * jnp.square(jnp.min(tau))
    Q = _inverse(C + noise * jnp.eye(P, dtype=m.dtype))
    D = np.zeros((len(edges), P), np.float32)
    D[np.arange(len(edges)), edges[:, 1]] += 1
    D[np.arange(len(edges)), edges[:, 0]] -= 1
    weight = 1 / jnp.square(tau)

    def gradient_and_hessian(z):
        dz = jnp.dot(D, z, precision=HIGHEST)
        flat = jnp.sum(jnp.square(jnp.dot(D, xy, precision=HIGHEST)), axis=1)
        length = jnp.sqrt(flat + dz**2 + 1e-4)
        J = (dz / length)[:, None] * D
        best = jnp.sum(weight * length * ell) / jnp.sum(weight * ell**2)
        r = length - jnp.where(scale > 0, scale, best) * ell
        # With the best scale the residual moves less: its part along ell is free.
        along = jnp.dot(weight * ell, J, precision=HIGHEST)
        share = jnp.where(scale > 0, 0.0, 1.0) / jnp.sum(weight * ell**2)
        JtJ = jnp.matmul(J.T, weight[:, None] * J, precision=HIGHEST)
        JtJ = JtJ - share * along[:, None] * along[None, :]
        g = jnp.dot(Q, z - m, precision=HIGHEST)
        return g + jnp.dot(weight * r, J, precision=HIGHEST), Q + JtJ

    def step(_, z):
        g, H = gradient_and_hessian(z)
        return z - jnp.dot(_inverse(H), g, precision=HIGHEST)

    z = jax.lax.fori_loop(0, _STEPS, step, m)
    covariance = _inverse(gradient_and_hessian(z)[1])
    return z - jnp.mean(z), covariance


@functools.partial(jax.jit, static_argnames="edges")
def fit_depths(
    xy: Float[Array, "n p 2"],
    m: Float[Array, "n p"],
    C: Float[Array, "n p p"],
    ell: Float[Array, " b"],
    *,
    edges: Edges,
) -> Float[Array, "n p"]:
    """:func:`fit_depth` of single frames, in proportions."""
    tau = jnp.full(len(edges), TAU, m.dtype)
    fit = functools.partial(
        fit_depth, ell=ell, scale=jnp.float32(0), tau=tau, edges=np.array(edges)
    )
    return jax.vmap(fit)(xy, m, LOOSER**2 * C)[0]


def _inverse(A: Float[Array, "p p"]) -> Float[Array, "p p"]:
    return sweep(A[..., None], pivots=len(A))[0][..., 0]


def proportions(
    poses: Float[np.ndarray, "n p 3"],
    edges: Edges,
    left_right: Sequence[Sequence[int]],
) -> Float[np.ndarray, " b"]:
    """ell_b: the median of the lengths over their mean, left and right together.

    In the unit of the poses: times the mean of all lengths.
    """
    every = np.asarray(lengths(jnp.asarray(poses), np.array(edges)))
    ell = every.mean() * np.median(every / every.mean(1, keepdims=True), axis=0)
    groups = same_bones(edges, left_right)
    return (np.bincount(groups, ell) / np.bincount(groups))[groups].astype(np.float32)


def same_bones(
    edges: Edges, left_right: Sequence[Sequence[int]]
) -> Int[np.ndarray, " b"]:
    """A number for each bone, the same for a left one and its right one."""
    other = {a: b for pair in left_right for a, b in (pair, reversed(pair))}
    names = [tuple(sorted(edge)) for edge in edges]
    images = [tuple(sorted(other.get(j, j) for j in name)) for name in names]
    keys = [min(pair) for pair in zip(names, images, strict=True)]
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys])


# --- one individual in a track ------------------------------------------------------

# Patch units: by how much the bones of one body change, beside the noise of x and y;
# times the rms motion of the image from frame to frame, how much the depth moves; and
# the frames that its lengths are taken from.
TRACK_TAU, MOTION, FRAMES = 0.012, 4.0, 256
_ITERATIONS = 100


class Track(NamedTuple):
    """Frames of one individual, in order and in one unit."""

    xy: Float[np.ndarray, "f p 2"]
    m: Float[np.ndarray, "f p"]
    C: Float[np.ndarray, "f p p"]


def bone_lengths(
    track: Track, tau: float, *, edges: Edges, groups: Int[np.ndarray, " b"]
) -> Float[np.ndarray, " b"]:
    """The lengths L_b that minimise the cost together with the depth, frames apart."""
    z = _minimise(track, tau, 0.0, None, edges, groups)
    every = lengths(
        jnp.asarray(np.concatenate([track.xy, z[..., None]], -1)), np.array(edges)
    )
    every = np.asarray(every).mean(0)
    return (np.bincount(groups, every) / np.bincount(groups))[groups]


def track_depth(
    track: Track,
    tau: float,
    motion: float,
    L: Float[np.ndarray, " b"],
    *,
    edges: Edges,
) -> Float[np.ndarray, "f p"]:
    """The depth of following frames with given lengths; ``motion`` as a sd a frame."""
    z = _minimise(track, tau, motion, L, edges, np.arange(len(edges)))
    return z - z.mean(1, keepdims=True)


def _minimise(
    track: Track,
    tau: float,
    motion: float,
    L: Float[np.ndarray, " b"] | None,
    edges: Edges,
    groups: Int[np.ndarray, " b"],
) -> Float[np.ndarray, "f p"]:
    F, P = track.m.shape
    # In coordinates in which the depth's own distribution is round.
    noise = 1e-4 * np.trace(track.C, axis1=1, axis2=2).mean() / P + 0.01 * tau**2
    # Rounding may leave a covariance without a Cholesky factor.
    variance, axes = np.linalg.eigh(LOOSER**2 * track.C)
    root = axes * np.sqrt(np.maximum(variance, 0) + noise)[:, None]
    # Few lengths of track are compiled.
    pad = (1 << max(F - 1, 31).bit_length()) - F
    real = np.pad(np.ones(F, np.float32), (0, pad))
    given = [
        np.pad(x, ((0, pad), *[(0, 0)] * (x.ndim - 1)), mode="edge").astype(np.float32)
        for x in (track.xy, track.m, root)
    ]
    known = np.zeros(len(edges)) if L is None else L
    rest = np.float32(tau), np.float32(motion), known.astype(np.float32)
    args = [jnp.asarray(x) for x in (*given, real, *rest)]
    kind = tuple(groups.tolist()) if L is None else None

    def cost(y):
        value, slope = _track_cost(
            jnp.asarray(y.reshape(F + pad, P), jnp.float32),
            *args,
            edges=edges,
            groups=kind,
        )
        return float(value), np.asarray(slope, np.float64).ravel()

    how = {"jac": True, "method": "L-BFGS-B", "options": {"maxiter": _ITERATIONS}}
    found = optimize.minimize(cost, np.zeros((F + pad) * P), **how)
    y = found.x.reshape(F + pad, P)[:F]
    return track.m + np.einsum("fab,fb->fa", root, y)


@functools.partial(jax.jit, static_argnames=("edges", "groups"))
@functools.partial(jax.value_and_grad)
def _track_cost(
    y: Float[Array, "f p"],
    xy: Float[Array, "f p 2"],
    m: Float[Array, "f p"],
    root: Float[Array, "f p p"],
    real: Float[Array, " f"],
    tau: Float[Array, ""],
    motion: Float[Array, ""],
    L: Float[Array, " b"],
    *,
    edges: Edges,
    groups: tuple[int, ...] | None,
) -> Float[Array, ""]:
    """The cost of z = m + root y; with ``groups`` L is the mean of the lengths."""
    z = m + jnp.einsum("fab,fb->fa", root, y, precision=HIGHEST)
    length = lengths(jnp.concatenate([xy, z[..., None]], -1), np.array(edges))
    if groups is not None:
        number = np.array(groups)
        total = jnp.zeros(max(groups) + 1).at[number].add(jnp.dot(real, length))
        L = (total / np.bincount(number).astype(np.float32))[number] / jnp.sum(real)
    apart = jnp.sum(jnp.square((length - L[None]) / tau), axis=1)
    moved = jnp.sum(jnp.square(z[1:] - z[:-1]), axis=1) * real[1:]
    smooth = jnp.where(motion > 0, 1 / jnp.where(motion > 0, motion, 1) ** 2, 0)
    own = jnp.sum(y**2, axis=1)
    return 0.5 * jnp.sum(real * (own + apart)) + 0.5 * smooth * jnp.sum(moved)
