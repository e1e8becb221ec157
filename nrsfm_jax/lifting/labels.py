"""What a student learns from: the best depth of its training landmarks.

The mean of what the EM expects and of what the network says, made sharper by the bones:
those of one kind of body have about the same proportions, which neither of the two
knows. Nearer to the truth than either, on the training landmarks by a fifth; for
others see `PoseLifter`, whose looser shapes are worse where the shapes were fitted.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from losses.camera_frame import rotation_from_camera
from nrsfm_jax.lifting import bones
from nrsfm_jax.sparse_coding import PRECISION, ista_step
from nrsfm_jax.teacher import Reconstruction

# The EM is too sure of its depth: factor of its standard deviations beside the bones.
_LOOSER = 3.0
# Of the codes, see `code_of`: about as few atoms as the network's have.
_SPARSITY, _STEPS = 0.02, 100


def labels_of(
    W: Float[np.ndarray, "n p 2"],
    depth: Float[np.ndarray, "n p"],
    covariance: Float[np.ndarray, "n p p"],
    said: Reconstruction,
    dictionary: Float[np.ndarray, "d k"],
    ell: Float[np.ndarray, " b"],
    edges: bones.Edges,
) -> dict[str, np.ndarray]:
    """Depth, its covariance, and a code with that depth, of every sample.

    Args:
        W: centred landmarks, patch units; as expected where they are missing.
        depth: that the EM expects, patch units, with signs that agree.
        covariance: of it.
        said: what the network says.
        dictionary: (3P, K) of the network.
        ell: proportions of the bones, :func:`proportions_of`.
        edges: the bones; without any the depth is the mean of both.

    Returns:
        ``depth`` (N, P), 0 on average, ``covariance`` (N, P, P), both in patch units,
        and ``lifted_code`` (N, K), see :func:`code_of`.
    """
    m, apart = _mean(depth, said, dictionary)
    z, C = m, covariance
    if edges:
        z, C = map(np.asarray, _with_bones(W, m, covariance, ell, edges=edges))
    code = jax.jit(jax.vmap(code_of, (0, 0, 0, None)))(
        said.code,
        np.concatenate([W, z[..., None]], axis=-1),
        said.camera,
        dictionary,
    )
    return {"depth": z, "covariance": C, "lifted_code": np.asarray(code)}
