"""The teacher: 3D shapes and cameras from 2D landmarks alone (Section 3).

``nrsfm_jax.train`` and ``nrsfm_jax.evaluate`` reach data and disks and are imported
by name; what is exported here is mathematics and the teacher's files.
"""

# ruff: noqa: F401
from nrsfm_jax.camera import estimate_camera, orthonormal_projection
from nrsfm_jax.em import GaussianMixture, expected_pose, fit_shapes, posterior_of
from nrsfm_jax.handedness import Handedness, synchronise_signs
from nrsfm_jax.lifting import Lifted, PoseLifter
from nrsfm_jax.loss import Objective
from nrsfm_jax.model import (
    estimate_code,
    init,
    mirror_depth,
    reconstruct,
    unit_norm_gauge,
)
from nrsfm_jax.sparse_coding import decode, encode, ista_step, shrink
from nrsfm_jax.teacher import (
    Reconstruction,
    Teacher,
    load,
    load_reconstruction,
    save,
)
