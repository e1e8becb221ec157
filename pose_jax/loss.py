"""What a student minimises on one sample (Wang et al. 2019, Eq. 15 and baselines).

The landmarks are compared in the frame of the augmented patch, the depth in the
plain one, where the teacher's cameras and codes hold as they are. That is exact:

* turning the picture in its plane turns the camera about its own axis, which
  changes neither B_z nor ``||B_xy phi - w||``;
* enlarging it by ``scale`` multiplies w, phi and every length, depth included, so
  the depth is divided by ``scale`` and the loss keeps the unit of the plain patch;
* mirroring it swaps left and right joints and leaves every depth as it was, so the
  depth of joint p of the mirrored picture belongs to joint ``permutation[p]``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

import losses
from losses.masked import Weight

MODES = (
    "supervised",
    "weaksup_bs",
    "weaksup_residual",
    "weaksup_em",
    "weaksup_em_weighted",
    "distill",
    "distill_exact",
    "posterior",
    "posterior_teacher",
)
# Of Eq. 10 in training: its gradient need not be exact to more than this.
EXACT_TOLERANCE, EXACT_STEPS = 1e-2, 200


class JointTrust(NamedTuple):
    """Weights of the L1 loss, one for each joint of a sample."""

    weight: Float[Array, "*n p"]


class CodeProblem(NamedTuple):
    """What Eq. 10 needs of one sample; arguments of :func:`losses.min_code_cost`."""

    phi: Float[Array, "*n k"]
    B_xy: Float[Array, "*n p2 k"]
    B_z: Float[Array, "*n p k"]
    w: Float[Array, "*n p2"]


class DepthTarget(NamedTuple):
    """By what the depth of one sample is judged, in its plain patch.

    Attributes:
        depth: (P,) the teacher's depth, or a label; its mean has no influence.
        labelled: (P,) joints whose depth counts.
        weight: of this sample's depth against that of others.
        prepared: the sample's record of Eq. 14, of the posterior or of Eq. 10; weights
            of the joints, or None, compare with ``depth`` by L1.
    """

    depth: Float[Array, "*n p"]
    labelled: Bool[Array, "*n p"]
    weight: Float[Array, "*n"]
    prepared: (
        losses.PreparedDistillation
        | losses.PreparedPosterior
        | CodeProblem
        | JointTrust
        | None
    ) = None


def plain_depth(
    pred_z: Float[Array, " p"],
    *,
    flip: Bool[Array, ""],
    scale: Float[Array, ""],
    permutation: Int[Array, " p"],
) -> Float[Array, " p"]:
    """The depth predicted for an augmented picture, in the plain patch.

        z_p = pred_z[permutation_p] / scale  if flip, else  pred_z_p / scale

    Args:
        pred_z: (P,) depth in units of the augmented patch.
        flip: whether the picture was mirrored.
        scale: by how much lengths in the augmented patch are larger.
        permutation: (P,) the skeleton's ``flip_permutation``, its own inverse.
    """
    return jnp.where(flip, pred_z[permutation], pred_z) / scale


def depth_loss(
    z_hyp: Float[Array, " p"], target: DepthTarget, *, code_l1_weight: Weight
) -> Float[Array, ""]:
    """By the target's record: Eq. 14, Eq. 10, the posterior; else the weighted L1."""
    match target.prepared:
        case None:
            return losses.depth_l1_loss(
                z_hyp, target.depth, weight=target.weight, labelled=target.labelled
            )
        case JointTrust():
            loss = losses.depth_l1_loss(
                z_hyp,
                target.depth,
                weight=target.prepared.weight,
                labelled=target.labelled,
            )
        case losses.PreparedDistillation():
            loss = losses.prepared_distillation_loss(
                z_hyp, target.prepared, code_l1_weight=code_l1_weight
            )
        case losses.PreparedPosterior():
            loss = losses.posterior_depth_loss(z_hyp, target.prepared)
        case CodeProblem():
            loss, _ = losses.min_code_cost(
                losses.match_depth_mean(z_hyp, target.depth, target.labelled),
                **target.prepared._asdict(),
                code_l1_weight=code_l1_weight,
                labelled=target.labelled,
                tolerance=EXACT_TOLERANCE,
                max_steps=EXACT_STEPS,
            )
    return target.weight * loss


def student_loss(
    pose: Float[Array, " p 3"],
    keypoints: Float[Array, " p 2"],
    labelled: Bool[Array, " p"],
    flip: Bool[Array, ""],
    scale: Float[Array, ""],
    target: DepthTarget,
    *,
    permutation: Int[Array, " p"],
    xy_weight: Weight = 1.0,
    depth_weight: Weight = 1.0,
    code_l1_weight: Weight = 0.15,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """What a student minimises on one picture (Wang et al. 2019, Eq. 15).

        xy_weight ||f_xy - w||_1 + depth_weight loss(f_z)

    Args:
        pose: (P, 3) prediction f in the augmented patch.
        keypoints: (P, 2) landmarks in the augmented patch.
        labelled: (P,) labelled joints of the augmented picture.
        flip: whether the picture was mirrored.
        scale: by how much lengths in the augmented patch are larger.
        target: the depth's judge, in the plain patch.
        permutation: (P,) the skeleton's ``flip_permutation``.
        xy_weight: weight of the landmarks.
        depth_weight: weight of the depth; 1 in the paper.
        code_l1_weight: weight of the regulariser in Eq. 14.

    Returns:
        The loss and its two terms, unweighted: ``{"xy": ..., "depth": ...}``.
    """
    z_hyp = plain_depth(pose[:, 2], flip=flip, scale=scale, permutation=permutation)
    xy = losses.keypoint_l1_loss(pose[:, :2], keypoints, labelled=labelled)
    depth = depth_loss(z_hyp, target, code_l1_weight=code_l1_weight)
    return xy_weight * xy + depth_weight * depth, {"xy": xy, "depth": depth}


def matching_weight(
    targets: DepthTarget,
    key: Key[Array, ""],
    *,
    code_l1_weight: Weight,
) -> Float[Array, ""]:
    """Weight at which a depth loss pulls as hard as that of Weaksup-bs does.

        E ||d L1 / dz||_2 / E ||d loss / dz||_2

    over samples and random edits of the teacher's depth whose size is half the
    spread (root mean square) of that depth: about that of a student's errors.
    Without it Eq. 14 weighs depth against xy otherwise than the baseline, and a
    comparison would show the weighting, not the loss.

    Args:
        targets: of N samples, with a leading axis; their ``weight`` is left out.
        key: a typed key; the same edits are used for both losses.
        code_l1_weight: weight of the regulariser in Eq. 14.
    """

    def norms(target: DepthTarget, key: Key[Array, ""]) -> Array:
        def own(z_hyp: Array) -> Array:
            return depth_loss(z_hyp, target, code_l1_weight=code_l1_weight)

        def baseline(z_hyp: Array) -> Array:
            return losses.depth_l1_loss(z_hyp, target.depth, labelled=target.labelled)

        return jnp.stack(
            [
                losses.depth_gradient_norm(loss, target.depth, key, sigma=sigma)
                for loss in (baseline, own)
            ]
        )

    targets = targets._replace(weight=jnp.ones_like(targets.weight))
    sigma = 0.5 * _depth_spread(targets.depth, targets.labelled)
    keys = jax.random.split(key, targets.depth.shape[0])
    reference, own = jnp.mean(jax.vmap(norms)(targets, keys), axis=0)
    return reference / own


def _depth_spread(
    depth: Float[Array, " n p"], labelled: Bool[Array, " n p"]
) -> Float[Array, ""]:
    """Root mean square of the depths about their mean in each sample."""
    count = jnp.sum(labelled.astype(depth.dtype), axis=1, keepdims=True)
    mean = jnp.sum(jnp.where(labelled, depth, 0.0), axis=1, keepdims=True)
    centred = jnp.where(labelled, depth - mean / jnp.maximum(count, 1.0), 0.0)
    return jnp.sqrt(jnp.sum(centred**2) / jnp.maximum(jnp.sum(count), 1.0))
