"""What helps a student to learn beside Eq. 15, ours: where a joint is, how one faces.

Trained by the L1 loss alone, a network first puts each limb at the mean of left and
right, and stays there until it can tell which way a body faces.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from input_pipeline.skeleton import Skeleton
from losses.masked import norm
from pose_jax.integral_head import voxel_centres

HEAT_SIGMA = 0.6  # of the Gaussians that the heat is compared with, cells
YAW_SHARPNESS = 4.0


def heat_cross_entropy(
    log_heat: Float[Array, "h w p"],
    keypoints: Float[Array, " p 2"],
    labelled: Bool[Array, " p"],
) -> Float[Array, ""]:
    """Cross-entropy of the heat with a Gaussian about each landmark, summed.

    The L1 loss knows the mean of the heat alone; this says where the heat should be.
    A landmark outside of the picture draws it to the nearest edge.
    """
    h, w, _ = log_heat.shape

    def gaussian(x: Float[Array, " p"], count: int) -> Float[Array, "p n"]:
        cells = (x[:, None] - voxel_centres(count).reshape(1, -1)) * (count / 2)
        return jax.nn.softmax(-0.5 * jnp.square(cells / HEAT_SIGMA), axis=1)

    each = jnp.einsum(
        "py,px,yxp->p",
        gaussian(keypoints[:, 1], h),
        gaussian(keypoints[:, 0], w),
        log_heat,
    )
    return -jnp.sum(jnp.where(labelled, each, 0.0))


def facing_pairs(skeleton: Skeleton) -> Int[np.ndarray, "pairs 2"]:
    """(left, right) joints across the trunk: which way these point, the body faces.

    Pairs that a bone joins to each other or to a joint without a side, such as hips and
    shoulders; all pairs where there is none.
    """
    sides, bones = skeleton.sides, {frozenset(edge) for edge in skeleton.edges}
    near = {
        joint
        for a, b in skeleton.edges
        for joint, other in ((a, b), (b, a))
        if sides[other] == "centre"
    }
    trunk = [
        pair
        for pair in skeleton.left_right
        if frozenset(pair) in bones or near.issuperset(pair)
    ]
    return np.array(trunk or skeleton.left_right, np.int32).reshape(-1, 2)


def yaw_divergence(
    logits: Float[Array, " k"],
    pose: Float[Array, " p 3"],
    labelled: Bool[Array, " p"],
    pairs: Int[np.ndarray, "pairs 2"],
) -> Float[Array, ""]:
    """Divergence of the predicted yaw from that of a pose, in K directions.

        KL(q || p),  q = softmax_k(4 cos(a - 2 pi k / K))

    with the angle ``a`` in the plane of x and z of the summed vectors from right to
    left. 0 where no pair is labelled.

    Args:
        logits: of p.
        pose: landmarks and the label of the depth, one unit, in the picture's frame.
        labelled: joints that have both.
        pairs: of `facing_pairs`.
    """
    left, right = pairs.T
    across = (pose[left] - pose[right])[:, ::2]
    across = jnp.sum(
        jnp.where((labelled[left] & labelled[right])[:, None], across, 0.0), 0
    )
    length = norm(across)
    angles = 2 * np.pi * np.arange(len(logits), dtype=np.float32) / len(logits)
    directions = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    known = length > 0
    cosines = across @ directions / jnp.where(known, length, 1.0)
    log_q = jax.nn.log_softmax(YAW_SHARPNESS * cosines)
    each = jnp.exp(log_q) * (log_q - jax.nn.log_softmax(logits))
    return jnp.where(known, jnp.sum(each), 0.0)
