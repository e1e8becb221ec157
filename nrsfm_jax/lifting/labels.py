"""What a student learns from: the training landmarks lifted, in the teacher's terms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from losses.camera_frame import rotation_from_camera
from nrsfm_jax.lifting.lifter import PoseLifter
from nrsfm_jax.lifting.records import Landmarks
from nrsfm_jax.lifting.setting import choose_setting
from nrsfm_jax.sparse_coding import PRECISION, ista_step
from nrsfm_jax.teacher import Reconstruction

# Of the codes, see `code_of`: about as few atoms as the network's have.
_SPARSITY, _STEPS = 0.02, 100


def labels_of(
    lifter: PoseLifter,
    xy: Float[np.ndarray, "n p 2"],
    half_side: Float[np.ndarray, " n"],
    said: Reconstruction,
) -> dict[str, np.ndarray]:
    """Depth, its covariance, and a code with that depth, of every sample.

    Landmarks may be noisy, missing or wrong. The camera is weak perspective, as that of
    a student is. The sign of each depth is the network's, whose signs agree.

    Args:
        lifter: of the teacher as trained.
        xy: pixels.
        half_side: pixels per patch unit.
        said: what the network says of them.

    Returns:
        ``depth`` (N, P), 0 on average, ``covariance`` (N, P, P), both in patch units,
        and ``lifted_code`` (N, K), see :func:`code_of`.
    """
    labelled = said.labelled
    known = np.where(labelled[..., None], xy, np.nan).astype(np.float64)
    given = Landmarks(known, labelled, np.ones(labelled.shape))
    setting = choose_setting(lifter, given, None, np.inf, None)
    n, P = labelled.shape
    depth = np.zeros((n, P), np.float32)
    covariance = np.zeros((n, P, P), np.float32)
    for rows, part in lifter.parts(given, np.full(n, -1), setting, covariance=True):
        unit = half_side[rows, None]
        depth[rows] = part["keypoints_3d"][..., 2] / unit
        C = part["covariance"].reshape(-1, P, 3, P, 3)[:, :, 2, :, 2]
        covariance[rows] = C / unit[..., None] ** 2
    own = said.poses(lifter.teacher.dictionary)
    z = own[..., 2] - own[..., 2].mean(axis=1, keepdims=True)
    depth -= depth.mean(axis=1, keepdims=True)
    depth *= np.where(np.sum(depth * z, axis=1) < 0, np.float32(-1), 1)[:, None]
    dark = np.isnan(depth).any(axis=1)  # too few joints to lift
    depth[dark], covariance[dark] = z[dark], np.eye(P)
    image = np.where(labelled[..., None], said.W, own[..., :2])
    pose = np.concatenate([image, depth[..., None]], axis=-1)
    code = jax.jit(jax.vmap(code_of, (0, 0, 0, None)))(
        said.code, pose, said.camera, lifter.teacher.dictionary
    )
    return {"depth": depth, "covariance": covariance, "lifted_code": np.asarray(code)}


def code_of(
    phi: Float[Array, " k"],
    pose: Float[Array, "p 3"],
    M: Float[Array, "3 2"],
    D: Float[Array, " p3 k"],
) -> Float[Array, " k"]:
    """A sparse code of a pose: of Eq. 3 with one layer, by ISTA.

        min over phi >= 0 of  1/2 ||s - D phi||^2 + sparsity ||phi||_1,   S = pose R^T

    Args:
        phi: (K,) the network's code of the sample, to start from.
        pose: (P, 3) camera frame, centred, patch units.
        M: (3, 2) the camera.
        D: (3P, K) dictionary, columns of norm 1.
    """
    R = rotation_from_camera(M)
    s = jnp.dot(pose, R.T, precision=PRECISION).ravel()
    step = 1 / jnp.linalg.norm(D, 2) ** 2
    threshold = jnp.full(phi.shape, _SPARSITY) * step

    def improved(_: Any, phi: Float[Array, " k"]) -> Float[Array, " k"]:
        error = s - jnp.dot(D, phi, precision=PRECISION)
        correlation = jnp.dot(error, D, precision=PRECISION)
        return ista_step(phi, correlation, threshold, step=step)

    return jax.lax.fori_loop(0, _STEPS, improved, phi)
