"""The camera network q_M (Wang et al. 2019, Section 3) and its orthonormal output.

The paper's own q_M is in a supplement that is not public. The block form used here
follows the published description of Deep-NRSfM, with ReLU on the blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nrsfm_jax.sparse_coding import PRECISION, shrink

# cos^2 of the angle at which two columns count as parallel: float32 knows no better.
_PARALLEL = 1e-13


def estimate_camera(
    W: Float[Array, "p 2"],
    dictionaries: Sequence[Float[Array, "_ _"]],
    thresholds: Sequence[Float[Array, " _"]],
    mix: Float[Array, " deepest"],
) -> Float[Array, "3 2"]:
    """q_M: the camera of one sample from its landmarks.

    With the dictionary seen as one (P, 3) shape per atom, the first layer gives one
    3x2 block per atom, ``Psi_1[k] = relu(D_1[k]' W - b_k)``; the deeper layers act
    alike on each of the six cells, ``Psi_i = relu(D_i' Psi_{i-1} - b_i)``; the
    camera is the polar factor of ``A = sum_k c_k Psi_n[k]``.

    Args:
        W: centred landmarks, patch units; missing ones are 0.
        dictionaries: D_1 (3P, K_1) to D_n, shared with the codes.
        thresholds: (K_i,) for each layer, the same for the six cells of a block.
        mix: (K_n,) the weights c.

    Returns:
        M (3, 2) with orthonormal columns.
    """
    first, *deeper = dictionaries
    # Cells first, atoms last: under vmap each layer is then one product of
    # (samples * 6, K_{i-1}) with (K_{i-1}, K_i), without any transposition.
    by_landmark = first.reshape(W.shape[0], -1)
    cells = jnp.dot(W.T, by_landmark, precision=PRECISION).reshape(6, -1)
    cells = shrink(cells, thresholds[0])
    for D, threshold in zip(deeper, thresholds[1:], strict=True):
        cells = shrink(jnp.dot(cells, D, precision=PRECISION), threshold)
    A = jnp.dot(cells, mix, precision=PRECISION).reshape(2, 3).T
    return orthonormal_projection(A)


def orthonormal_projection(A: Float[Array, "3 2"]) -> Float[Array, "3 2"]:
    """The matrix with orthonormal columns nearest to A: its polar factor.

    ``Q = A (A'A)^(-1/2)``. With ``n = a_1 x a_2 / s``, ``s = ||a_1 x a_2||`` (the
    square root of det A'A) and ``t^2 = trace A'A + 2 s``, the closed inverse root of
    the 2x2 matrix gives ``q_1 = (a_1 + a_2 x n) / t`` and ``q_2 = n x q_1``. So no
    singular value is ever divided by a difference of singular values: the gradient
    is right where they meet, and for A of any scale.

    Args:
        A: columns a_1, a_2, any scale.

    Returns:
        Q, orthonormal to float precision. For parallel columns the factor is not
        unique: one of them is returned, and the normal gets no gradient. For A = 0
        it is the first two axes, with a zero gradient.
    """
    m_1, m_2 = polar_factor(*columns(A))
    return jnp.stack([*m_1, *m_2]).reshape(2, 3).T


# Vectors below are triples of scalars: under vmap each is one array over the samples,
# which compiles in a third of the time of arrays that are stacked and taken apart.
Vector = tuple[Array, Array, Array]


def columns(A: Float[Array, "3 2 *n"]) -> tuple[Vector, Vector]:
    """a_1 and a_2."""
    return (A[0, 0], A[1, 0], A[2, 0]), (A[0, 1], A[1, 1], A[2, 1])


def polar_factor(a_1: Vector, a_2: Vector) -> tuple[Vector, Vector]:
    """:func:`orthonormal_projection` of columns given as triples, see above."""
    # The factor has degree 0 in A: the scale needs no gradient of its own.
    scale = functools.reduce(jnp.maximum, map(jnp.abs, (*a_1, *a_2)))
    scale = jax.lax.stop_gradient(scale)
    is_zero = scale == 0
    scale = jnp.where(is_zero, 1, scale)

    def unit(a: Vector, instead: tuple[int, int, int]) -> Vector:
        x, y, z = (
            jnp.where(is_zero, float(e), c) / scale
            for e, c in zip(instead, a, strict=True)
        )
        return x, y, z

    a_1, a_2 = unit(a_1, (1, 0, 0)), unit(a_2, (0, 1, 0))
    n = _unit_normal(a_1, a_2)
    # t q_1; the outer cross products remove what rounding left of it along n.
    x, y, z = (p + q for p, q in zip(a_1, cross(a_2, n), strict=True))
    q_1 = _normalize(cross(cross(n, (x, y, z)), n))
    return q_1, cross(n, q_1)


def _unit_normal(a_1: Vector, a_2: Vector) -> Vector:
    """``a_1 x a_2`` at length one; some normal of the longer where parallel."""
    normal = cross(a_1, a_2)
    square_1, square_2 = _dot(a_1, a_1), _dot(a_2, a_2)
    parallel = _dot(normal, normal) <= _PARALLEL * square_1 * square_2
    x, y, z = (
        jax.lax.stop_gradient(jnp.where(square_1 >= square_2, c_1, c_2))
        for c_1, c_2 in zip(a_1, a_2, strict=True)
    )
    # Across the axis that the vector is farthest from, so that it is never zero.
    zero, smallest = jnp.zeros_like(x), jnp.minimum(jnp.abs(x), jnp.abs(y))
    along_z = jnp.abs(z) <= smallest
    along_x = jnp.abs(x) <= jnp.abs(y)
    by_axis = zip((zero, z, -y), (-z, zero, x), (y, -x, zero), strict=True)
    some_normal = (
        jnp.where(along_z, c_z, jnp.where(along_x, c_x, c_y))
        for c_x, c_y, c_z in by_axis
    )
    u, v, w = (
        jnp.where(parallel, other, c)
        for other, c in zip(some_normal, normal, strict=True)
    )
    return _normalize((u, v, w))


def _normalize(v: Vector) -> Vector:
    """v at length one. Scaled first, so that squares of small vectors survive."""
    largest = jnp.maximum(jnp.maximum(jnp.abs(v[0]), jnp.abs(v[1])), jnp.abs(v[2]))
    v = _scaled(v, 1 / jax.lax.stop_gradient(largest))
    return _scaled(v, jax.lax.rsqrt(_dot(v, v)))


def _scaled(v: Vector, factor: Array) -> Vector:
    return v[0] * factor, v[1] * factor, v[2] * factor


def _dot(a: Vector, b: Vector) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    """``a x b``."""
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )
