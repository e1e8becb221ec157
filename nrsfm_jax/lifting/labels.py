"""What a student learns from: the best that is known of its training landmarks.

The mean of the depths by the EM and by the network, and then the bones: those of one
kind of body have about the same proportions, which neither of the two knows. Other
landmarks are lifted by `PoseLifter`, whose looser shapes are worse for these.
"""

# Paper: the network's depth and code; here: both of the same cameras, but sharper.

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from losses.camera_frame import rotation_from_camera
from nrsfm_jax.lifting import bones
from nrsfm_jax.sparse_coding import PRECISION, ista_step
from nrsfm_jax.teacher import Reconstruction

# The EM is too sure of its depth, beside the bones: factor of its covariance.
_LOOSER = 4.0
# Of the codes: about as few atoms as the network's.
_SPARSITY, _STEPS = 0.02, 100


def mean_depth(
    em_depth: Float[np.ndarray, "n p"],
    said: Reconstruction,
    dictionary: Float[np.ndarray, "d k"],
) -> Float[np.ndarray, "n p"]:
    """Of the EM and of the network, patch units, 0 on average over the joints."""
    m = (em_depth + said.poses(dictionary)[..., 2]) / 2
    return np.asarray(m - m.mean(axis=1, keepdims=True), np.float32)


def labels_of(
    pose: Float[np.ndarray, "n p 3"],
    covariance: Float[np.ndarray, "n p p"],
    said: Reconstruction,
    dictionary: Float[np.ndarray, "d k"],
    ell: Float[np.ndarray, " b"],
    *,
    edges: bones.Edges,
) -> dict[str, np.ndarray]:
    """Depth and a code of every sample, in patch units.

    Args:
        pose: centred landmarks, as expected where they are missing, and `mean_depth`.
        covariance: of the EM's depth.
        said: what the network says.
        dictionary: (3P, K) of the network, columns of norm 1.
        ell: proportions of the bones, see :func:`nrsfm_jax.lifting.bones.proportions`.
        edges: the bones; without any the mean depth is the label.

    Returns:
        ``depth`` (N, P), and ``code_of_depth`` (N, K), whose shape has that depth under
        the network's camera.
    """
    z = pose[..., 2]
    if edges:
        own = (pose[..., :2], z, _LOOSER * covariance, ell, np.float32(bones.TAU))
        z = np.asarray(bones.fit_depths(*map(jnp.asarray, own), edges=edges))
    pose = np.concatenate([pose[..., :2], z[..., None]], axis=-1)
    code = _codes(said.code, pose, said.camera, dictionary)
    return {"depth": z, "code_of_depth": np.asarray(code)}


def code_of(
    phi: Float[Array, " k"],
    pose: Float[Array, "p 3"],
    M: Float[Array, "3 2"],
    D: Float[Array, " p3 k"],
) -> Float[Array, " k"]:
    """A sparse code of a pose, as in Eq. 3 with one layer, by ISTA from ``phi``.

        min over phi >= 0 of  1/2 ||s - D phi||^2 + sparsity ||phi||_1,   S = pose R^T

    Args:
        phi: (K,) the network's code of the sample.
        pose: (P, 3) camera frame, patch units.
        M: (3, 2) the camera.
        D: (3P, K) dictionary, columns of norm 1.
    """
    R = rotation_from_camera(M)
    s = jnp.dot(pose, R.T, precision=PRECISION).ravel()
    step = 1 / jnp.linalg.norm(D, 2) ** 2
    threshold = jnp.full_like(phi, _SPARSITY) * step

    def improved(_: Any, phi: Float[Array, " k"]) -> Float[Array, " k"]:
        error = s - jnp.dot(D, phi, precision=PRECISION)
        correlation = jnp.dot(error, D, precision=PRECISION)
        return ista_step(phi, correlation, threshold, step=step)

    return jax.lax.fori_loop(0, _STEPS, improved, phi)


_codes = jax.jit(jax.vmap(code_of, (0, 0, 0, None)))
