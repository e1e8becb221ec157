"""What a student minimises on one sample (Wang et al. 2019, Eq. 15 and baselines).

The landmarks are compared in the frame of the augmented patch, the depth in the
plain one, where the teacher's cameras and codes hold as they are. That is exact:

* turning the picture in its plane turns the camera about its own axis, which
  changes neither B_z nor ``||B_xy phi - w||``;
* enlarging it by ``scale`` multiplies w, phi and every length, depth included, so
  the depth is divided by ``scale`` and the loss keeps the unit of the plain patch;
* mirroring it swaps left and right joints and leaves every depth as it was, so the
  depth of joint p of the mirrored picture belongs to joint ``permutation[p]``.

A mode of training is a row of :data:`MODES`: which depth is the label, by which loss a
depth is compared with it, and how samples or joints are weighted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

import losses
from losses.masked import Weight, labelled_mean

# Of Eq. 10 in training: its gradient need not be exact to more than this.
EXACT_TOLERANCE, EXACT_STEPS = 1e-2, 200
UNUSED: Any = None


class DepthTarget(NamedTuple):
    """By what the depth of one sample is judged, in its plain patch.

    The table of N samples is one of these with a leading axis in every field; fields
    that a mode does not use are None.

    Attributes:
        depth: (P,) the label; its mean has no influence.
        labelled: (P,) joints whose depth counts.
        weight: of this sample's depth against that of others.
        joint_weight: (P,) of each joint, in `l1`.
        M: (3, 2) the teacher's camera, in `eq14` and `eq10`.
        phi: (K,) the teacher's code, likewise.
        W: (P, 2) centred landmarks, likewise.
        whitener: (P, P) of :class:`losses.PreparedPosterior`, in `mahalanobis`.
    """

    depth: Float[Array, "*n p"]
    labelled: Bool[Array, "*n p"]
    weight: Float[Array, "*n"]
    joint_weight: Float[Array, "*n p"] = UNUSED
    M: Float[Array, "*n 3 2"] = UNUSED
    phi: Float[Array, "*n k"] = UNUSED
    W: Float[Array, "*n p 2"] = UNUSED
    whitener: Float[Array, "*n p p"] = UNUSED


class Dictionary(NamedTuple):
    """What all samples share in `eq14` and `eq10`: D (3P, K) and D D^T (3P, 3P)."""

    D: Float[Array, " p3 k"]
    gram: Float[Array, " p3 p3"]


# --- the losses of a depth ---------------------------------------------------------

Depth = Float[Array, " p"]
Scalar = Float[Array, ""]
DepthLoss = Callable[[Depth, DepthTarget, Any, Weight], Scalar]


def l1(z_hyp: Depth, target: DepthTarget, shared: Any, c: Weight) -> Scalar:
    """||joint_weight (z' - depth)||_1 with equal means: Weaksup-bs."""
    weight = 1.0 if target.joint_weight is None else target.joint_weight
    how = {"weight": weight, "labelled": target.labelled}
    return losses.depth_l1_loss(z_hyp, target.depth, **how)


def eq14(z_hyp: Depth, target: DepthTarget, shared: Any, c: Weight) -> Scalar:
    """Eq. 14, in the form that needs nothing prepared for a sample."""
    # Paper: z' as it is; here: moved to the teacher's mean depth, because weak
    # perspective does not show how far away a shape is.
    return losses.gram_distillation_loss(
        losses.match_depth_mean(z_hyp, target.depth, target.labelled),
        *(target.phi, target.M, target.W.ravel(), *shared),
        code_l1_weight=c,
        labelled=target.labelled,
    )


def eq10(z_hyp: Depth, target: DepthTarget, shared: Any, c: Weight) -> Scalar:
    """Eq. 10, solved anew for every sample of a batch; means matched as in `eq14`."""
    cost, _ = losses.min_code_cost(
        losses.match_depth_mean(z_hyp, target.depth, target.labelled),
        target.phi,
        *losses.split_dictionary(shared.D, target.M),
        target.W.ravel(),
        code_l1_weight=c,
        labelled=target.labelled,
        tolerance=EXACT_TOLERANCE,
        max_steps=EXACT_STEPS,
    )
    return cost


def mahalanobis(z_hyp: Depth, target: DepthTarget, shared: Any, c: Weight) -> Scalar:
    """Distance from the label under the covariance that the EM gives the depth."""
    record = losses.PreparedPosterior(target.depth, target.whitener, target.labelled)
    return losses.posterior_depth_loss(z_hyp, record)


class Mode(NamedTuple):
    """What a student is trained on.

    Attributes:
        label: whose depth: the ``"teacher"``'s, that of the ``"em"`` before it, or the
            ``"truth"``, for the upper reference alone.
        loss: of a depth given the label.
        weighting: of samples by the teacher's ``"residual"``, of joints by the
            ``"certainty"`` of the EM, or ``""``.
    """

    label: str
    loss: DepthLoss
    weighting: str = ""

    @property
    def needs_posterior(self) -> bool:
        """Whether the EM's mean or covariance of the depth is used."""
        return self.label == "em" or self.loss is mahalanobis


MODES = {
    "supervised": Mode("truth", l1),
    "weaksup_bs": Mode("teacher", l1),
    "weaksup_residual": Mode("teacher", l1, "residual"),
    "distill": Mode("teacher", eq14),
    "distill_exact": Mode("teacher", eq10),
    # Ours, from the EM.
    "weaksup_em": Mode("em", l1),
    "weaksup_em_weighted": Mode("em", l1, "certainty"),
    "posterior": Mode("em", mahalanobis),
    "posterior_teacher": Mode("teacher", mahalanobis),
}


# --- Eq. 15 ------------------------------------------------------------------------


def plain_depth(
    pred_z: Float[Array, " p"],
    *,
    flip: Bool[Array, ""],
    scale: Float[Array, ""],
    permutation: Int[Array, " p"],
) -> Float[Array, " p"]:
    """The depth predicted for an augmented picture, in the plain patch.

        z_p = pred_z[permutation_p] / scale  if flip, else  pred_z_p / scale

    Arguments as in :func:`student_loss`; ``permutation`` is its own inverse.
    """
    return jnp.where(flip, pred_z[permutation], pred_z) / scale


def student_loss(
    pose: Float[Array, " p 3"],
    keypoints: Float[Array, " p 2"],
    labelled: Bool[Array, " p"],
    flip: Bool[Array, ""],
    scale: Float[Array, ""],
    target: DepthTarget,
    *,
    dictionary: Dictionary | None,
    loss: DepthLoss,
    permutation: Int[Array, " p"],
    xy_weight: Weight,
    depth_weight: Weight,
    code_l1_weight: Weight,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """What a student minimises on one picture (Wang et al. 2019, Eq. 15).

        xy_weight ||f_xy - w||_1 + depth_weight weight loss(f_z)

    Args:
        pose: (P, 3) prediction f in the augmented patch.
        keypoints: (P, 2) landmarks in the augmented patch.
        labelled: (P,) labelled joints of the augmented picture.
        flip: whether the picture was mirrored.
        scale: by how much lengths in the augmented patch are larger.
        target: of the sample, in the plain patch.
        dictionary: of all samples; None where the loss uses none.
        loss: of the mode.
        permutation: (P,) the skeleton's ``flip_permutation``.
        xy_weight: weight of the landmarks; 1 in the paper.
        depth_weight: weight of the depth; 1 in the paper.
        code_l1_weight: weight of the regulariser in Eqs. 10 and 14.

    Returns:
        The loss and its two terms, unweighted: ``{"xy": ..., "depth": ...}``.
    """
    xy = losses.keypoint_l1_loss(pose[:, :2], keypoints, labelled=labelled)
    z_hyp = plain_depth(pose[:, 2], flip=flip, scale=scale, permutation=permutation)
    depth = target.weight * loss(z_hyp, target, dictionary, code_l1_weight)
    return xy_weight * xy + depth_weight * depth, {"xy": xy, "depth": depth}


def matching_weight(
    targets: DepthTarget,
    dictionary: Dictionary | None,
    key: Key[Array, ""],
    *,
    loss: DepthLoss,
    code_l1_weight: Weight,
) -> Float[Array, ""]:
    """Weight at which a depth loss pulls as hard as that of Weaksup-bs does.

        E ||d L1 / dz||_2 / E ||d loss / dz||_2

    over samples and random edits of the label whose size is half the spread (root mean
    square) of that depth: about that of a student's errors. Without it Eq. 14 weighs
    depth against xy otherwise than the baseline, and a comparison would show the
    weighting, not the loss.

    Args:
        targets: of N samples, with a leading axis; their ``weight`` is left out.
        dictionary: of all samples.
        key: a typed key; the same edits are used for both losses.
        loss: of the mode.
        code_l1_weight: weight of the regulariser in Eqs. 10 and 14.
    """

    def norms(target: DepthTarget, key: Key[Array, ""]) -> Array:
        compared = (l1, target._replace(joint_weight=UNUSED)), (loss, target)
        return jnp.stack(
            [
                losses.depth_gradient_norm(
                    lambda z, each=each, judge=judge: each(
                        z, judge, dictionary, code_l1_weight
                    ),
                    target.depth,
                    key,
                    sigma=sigma,
                )
                for each, judge in compared
            ]
        )

    # The spread: root mean square of the depths about their mean in each sample.
    labelled = targets.labelled
    means = jax.vmap(labelled_mean)(targets.depth, labelled)
    centred = jnp.where(labelled, targets.depth - means[:, None], 0.0)
    count = jnp.maximum(jnp.sum(labelled.astype(centred.dtype)), 1.0)
    sigma = 0.5 * jnp.sqrt(jnp.sum(centred**2) / count)
    keys = jax.random.split(key, len(labelled))
    reference, own = jnp.mean(jax.vmap(norms)(targets, keys), axis=0)
    return reference / own
