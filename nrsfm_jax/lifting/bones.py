"""Bones say how deep a limb points: lengths that are known turn into depth.

A pose of which m and C are known of the depth, and the image of x and y:

    minimise  1/2 (z - m)^T (C + e I)^-1 (z - m) + 1/2 sum_b ((l_b - L_b) / tau)^2,
    l_b = sqrt(dx_b^2 + dy_b^2 + dz_b^2)

L_b are in the proportions of the poses, L_b = s ell_b with the scale s that fits best.
Of a track of one individual they are found with the depth, see `chain`.
"""

# Paper: no such step; here: the shapes know the length of a bone on average only.

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nrsfm_jax.em.gaussians import HIGHEST, sweep

# Of a single frame: by how much a body's bones differ from the proportions, patch
# units; and the factor of the standard deviations of the depth beside them.
TAU, LOOSER = 0.05, 1.5
_STEPS, _SHARES = 8, (1.0, 0.5, 0.25, 0.1, 0.0)

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
    tau: Float[Array, ""],
    *,
    edges: Int[np.ndarray, "b 2"],
) -> Float[Array, " p"]:
    """The depth of one frame, 0 on average, by damped Gauss-Newton.

    Args:
        xy: of the joints, in the unit of the depth.
        m: mean of the depth.
        C: its covariance.
        ell: proportions of the bones.
        tau: standard deviation of a bone about its length.
        edges: the ends of each bone.
    """
    P = len(m)
    noise = 1e-4 * jnp.trace(C) / P + 0.01 * jnp.square(tau)
    Q = _inverse(C + noise * jnp.eye(P, dtype=m.dtype))
    D = differences(edges, P).astype(np.float32)
    flat = jnp.sum(jnp.square(jnp.dot(D, xy, precision=HIGHEST)), axis=1)
    # With the scale that fits best, the part along ell is free.
    unit = ell / jnp.linalg.norm(ell)

    def residual(z):
        dz = jnp.dot(D, z, precision=HIGHEST)
        length = jnp.sqrt(flat + dz**2 + 1e-4)
        r = length - jnp.dot(length, unit, precision=HIGHEST) * unit
        return r / tau, (dz / length / tau)[:, None] * D

    def cost(z):
        r, _ = residual(z)
        apart = jnp.dot(Q, z - m, precision=HIGHEST)
        return jnp.dot(z - m, apart, precision=HIGHEST) + jnp.sum(r**2)

    def step(_, z):
        r, J = residual(z)
        g = jnp.dot(Q, z - m, precision=HIGHEST) + jnp.dot(r, J, precision=HIGHEST)
        along = jnp.dot(unit, J, precision=HIGHEST)
        H = Q + jnp.matmul(J.T, J, precision=HIGHEST) - along[:, None] * along[None]
        change = jnp.dot(_inverse(H), g, precision=HIGHEST)
        # A whole step goes to and fro where limbs are nearly flat.
        tried = z[None] - jnp.asarray(_SHARES, m.dtype)[:, None] * change[None]
        return tried[jnp.argmin(jax.vmap(cost)(tried))]

    z = jax.lax.fori_loop(0, _STEPS, step, m)
    return z - jnp.mean(z)


@functools.partial(jax.jit, static_argnames="edges")
def fit_depths(
    xy: Float[Array, "n p 2"],
    m: Float[Array, "n p"],
    C: Float[Array, "n p p"],
    ell: Float[Array, " b"],
    tau: Float[Array, ""],
    *,
    edges: Edges,
) -> Float[Array, "n p"]:
    """:func:`fit_depth` of frames by themselves."""
    fit = functools.partial(fit_depth, ell=ell, tau=tau, edges=np.array(edges))
    return jax.vmap(fit)(xy, m, LOOSER**2 * C)


def differences(edges: Int[np.ndarray, "b 2"], joints: int) -> Float[np.ndarray, "b p"]:
    """From the depth of the joints to that of the bones: end less start."""
    return np.eye(joints)[edges[:, 1]] - np.eye(joints)[edges[:, 0]]


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
