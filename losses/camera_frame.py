"""Wang et al. 2019, Eqs. 5-7: the dictionary in the frame of one camera.

The camera frame has x to the right, y down and z away from the camera. The rows of a
dictionary are ordered x1 y1 z1 x2 y2 z2 ..., so that ``(D @ phi).reshape(P, 3)`` is a
shape.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from losses.shapes import of_one_sample


@of_one_sample
def rotation_from_camera(M: Float[Array, "3 2"]) -> Float[Array, "3 3"]:
    """Rotation of a camera (Wang et al. 2019, Eq. 5).

        R = [m1, m2, m1 x m2]

    Args:
        M: (3, 2) weak-perspective camera with orthonormal columns m1, m2; a shape
            S (P, 3) in its own frame is seen as W = S M.

    Returns:
        (3, 3) rotation; S R is the shape in the camera frame, its last column the
        depth, growing away from the camera.
    """
    m1, m2 = M[:, 0], M[:, 1]
    return jnp.stack([m1, m2, jnp.cross(m1, m2)], axis=1)


@of_one_sample
def rotate_dictionary(
    D: Float[Array, " p3 k"], R: Float[Array, "3 3"]
) -> Float[Array, " p3 k"]:
    """Dictionary in the camera frame (Wang et al. 2019, Eq. 6).

        B = [[d_x^1 d_y^1 d_z^1] R ... [d_x^P d_y^P d_z^P] R]^T

    Args:
        D: (3P, K) dictionary in the frame of the shape.
        R: (3, 3) rotation of :func:`rotation_from_camera`.

    Returns:
        (3P, K) dictionary B: ``(B @ phi).reshape(P, 3)`` is the shape in the frame
        of the camera.

    Raises:
        ValueError: the number of rows of D is not a multiple of 3.
    """
    points = D.reshape(-1, 3, D.shape[1])
    turned = jnp.einsum("pck,cd->pdk", points, R, precision=jax.lax.Precision.HIGHEST)
    return turned.reshape(D.shape)


@of_one_sample
def split_dictionary(
    D: Float[Array, " p3 k"], M: Float[Array, "3 2"]
) -> tuple[Float[Array, " p2 k"], Float[Array, " p k"]]:
    """Image part and depth part of the dictionary (Wang et al. 2019, Eqs. 5-7).

        B_xy = [b_x^1 b_y^1 ... b_x^P b_y^P]^T,   B_z = [b_z^1 ... b_z^P]^T

    Args:
        D: (3P, K) dictionary in the frame of the shape.
        M: (3, 2) camera with orthonormal columns.

    Returns:
        B_xy (2P, K), rows u1 v1 u2 v2 ... like ``W.ravel()``, and B_z (P, K).

    Examples:
        >>> import jax.numpy as jnp
        >>> D = jnp.asarray([[1.0], [2.0], [3.0]])
        >>> B_xy, B_z = split_dictionary(D, jnp.eye(3, 2))
        >>> B_xy.ravel().tolist(), B_z.ravel().tolist()
        ([1.0, 2.0], [3.0])
    """
    B = rotate_dictionary(D, rotation_from_camera(M))
    joints, atoms = B.shape[0] // 3, B.shape[1]
    B = B.reshape(joints, 3, atoms)
    return B[:, :2].reshape(2 * joints, atoms), B[:, 2]
