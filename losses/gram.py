"""Eq. 14 for large batches: no dictionary is rotated, nothing of size K is stored.

The rotated dictionary of a sample has 3P x K numbers, although the samples share D and
differ only by a rotation. With D_c (P x K) the rows of D for coordinate c of the
shapes' own frame, B_a = sum_c R_ca D_c for axis a of the camera, and so

    B_z B_z^T = sum_cd R_cz R_dz (D_c D_d^T),

a sum of nine P x P matrices that are computed once. A multiplier y per joint says how
the code moves, B_z^T y = D^T v with v = vec(y r_z^T): one product of the whole batch
with D; and how the image moves, B_xy B_z^T y: one with D D^T, then R.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.camera_frame import rotation_from_camera
from losses.masked import Weight, keep_labelled, norm, product
from losses.shapes import of_one_sample
from losses.subspace import factor_gram

_ATOMS = 64  # that are worked on at a time


@of_one_sample
def dictionary_gram(D: Float[Array, " p3 k"]) -> Float[Array, " p3 p3"]:
    """(3P, 3P) D D^T of a dictionary, the blocks D_c D_d^T of all coordinates.

    Raises:
        ValueError: the number of rows of D is not a multiple of 3.
    """
    return product(D, D.T)


@of_one_sample
def gram_distillation_loss(
    z_hyp: Float[Array, " p"],
    phi: Float[Array, " k"],
    M: Float[Array, "3 2"],
    w: Float[Array, " p2"],
    D: Float[Array, " p3 k"],
    gram: Float[Array, " p3 p3"],
    *,
    code_l1_weight: Weight,
    labelled: Bool[Array, " p"] | None = None,
) -> Float[Array, ""]:
    """Eq. 14 from the dictionary itself (Wang et al. 2019), to be batched.

    Equal to ``distillation_loss(z_hyp, phi, *split_dictionary(D, M), w)``, with its
    gradients. Map it over samples with ``in_axes=(0, 0, 0, 0, None, None)``.

    Args:
        z_hyp: (P,) depth hypothesis z', in the unit of w. Its mean counts: see
            :func:`losses.match_depth_mean`.
        phi: (K,) the teacher's code.
        M: (3, 2) the teacher's camera.
        w: (2P,) centred landmarks, ``W.ravel()``.
        D: (3P, K) dictionary in the frame of the shape.
        gram: of :func:`dictionary_gram`.
        code_l1_weight: weight of the regulariser.
        labelled: (P,) joints that have a landmark.
    """
    R = rotation_from_camera(M)
    axis = R[:, 2]
    shape = product(product(D, phi).reshape(-1, 3), R)
    depth_gram = keep_labelled(
        keep_labelled(_seen_along(axis, gram), labelled).T, labelled
    )
    y = _multipliers(depth_gram, keep_labelled(z_hyp - shape[:, 2], labelled))
    v = (y[:, None] * axis[None]).ravel()
    moved = product(product(gram, v).reshape(-1, 3), R[:, :2])
    error = keep_labelled(shape[:, :2] + moved - w.reshape(-1, 2), labelled)
    return norm(error) + code_l1_weight * _moved_l1(phi, v, D)


def _seen_along(
    axis: Float[Array, "3"], gram: Float[Array, " p3 p3"]
) -> Float[Array, " p p"]:
    """B_z B_z^T for the axis of depth, r_z."""
    joints = gram.shape[0] // 3
    blocks = gram.reshape(joints, 3, joints, 3).transpose(1, 3, 0, 2)
    pairs = (axis[:, None] * axis[None]).ravel()
    return product(pairs, blocks.reshape(9, -1)).reshape(joints, joints)


def _multipliers(
    gram: Float[Array, " p p"], change: Float[Array, " p"]
) -> Float[Array, " p"]:
    """y with gram y = change, the depth that the code has to gain.

    As in :func:`losses.project_code`: the second step makes up for the ridge.
    """
    factor, scale = factor_gram(gram)

    def solve(rest: Array) -> Array:
        return jax.scipy.linalg.cho_solve((factor, True), rest / scale)

    y = solve(change)
    return y + solve(change - product(gram, y))


@jax.custom_vjp
def _moved_l1(
    phi: Float[Array, " k"], v: Float[Array, " p3"], D: Float[Array, " p3 k"]
) -> Float[Array, ""]:
    """||phi + D^T v||_1, some atoms at a time, so that no moved code is ever held."""
    return _moved_l1_and_slope(phi, v, D)[0]


def _moved_l1_and_slope(phi: Array, v: Array, D: Array) -> tuple[Array, Array]:
    """The norm and its gradient in v, D sign(phi + D^T v)."""
    atoms = D.shape[1]
    block = min(_ATOMS, atoms)

    def some(first: Array | int, size: int) -> tuple[Array, Array]:
        part = jax.lax.dynamic_slice_in_dim(D, first, size, axis=1)
        moved = jax.lax.dynamic_slice_in_dim(phi, first, size) + product(v, part)
        return jnp.sum(jnp.abs(moved)), product(part, jnp.sign(moved))

    def step(i: Array, total: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.tree.map(jnp.add, total, some(i * block, block))

    rest = atoms % block
    start = some(atoms - rest, rest)
    return jax.lax.fori_loop(0, atoms // block, step, start)


def _forward(phi: Array, v: Array, D: Array) -> tuple[Array, tuple[Array, ...]]:
    value, slope = _moved_l1_and_slope(phi, v, D)
    return value, (phi, v, D, slope)


def _backward(kept: tuple[Array, ...], g: Array) -> tuple[Array, Array, Array]:
    phi, v, D, slope = kept
    # Not computed where nobody asks for the gradient of the code or the dictionary.
    signs = g * jnp.sign(phi + product(v, D))
    return signs, g * slope, v[:, None] * signs[None]


_moved_l1.defvjp(_forward, _backward)
