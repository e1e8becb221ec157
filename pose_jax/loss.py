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

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

import losses
from losses.masked import Weight, labelled_mean
from pose_jax.error_bar import error_bar_loss
from pose_jax.hints import heat_cross_entropy, yaw_divergence
from pose_jax.integral_head import Prediction

# Of Eq. 10 in training: its gradient need not be exact to more than this.
EXACT_TOLERANCE, EXACT_STEPS = 1e-2, 200
UNUSED: Any = None


class DepthTarget(NamedTuple):
    """By what the depth of one sample is judged, in its plain patch.

    The table of N samples is one of these with a leading axis in every field; fields
    that a mode does not use are None.
    """

    depth: Float[Array, "*n p"]  # the label; its mean has no influence
    labelled: Bool[Array, "*n p"]  # landmarks, but those that are not believed
    weight: Float[Array, "*n"]  # of this sample's depth against that of others
    joint_weight: Float[Array, "*n p"] = UNUSED  # in l1
    M: Float[Array, "*n 3 2"] = UNUSED  # the teacher's camera, in eq14 and eq10
    phi: Float[Array, "*n k"] = UNUSED  # its code, likewise
    W: Float[Array, "*n p 2"] = UNUSED  # centred landmarks, likewise
    whitener: Float[Array, "*n p p"] = UNUSED  # `losses.PreparedPosterior`'s
    # Of the depth given the landmarks, for the error bar; without, the label is exact.
    expected: Float[Array, "*n p"] = UNUSED
    variance: Float[Array, "*n p"] = UNUSED


class Dictionary(NamedTuple):
    """What all samples share in eq14 and eq10: D (3P, K) and D D^T (3P, 3P)."""

    D: Float[Array, " p3 k"]
    gram: Float[Array, " p3 p3"]


class Mode(NamedTuple):
    """What a student is trained on.

    Attributes:
        label: whose depth: the ``"teacher"``'s, see ``config.student.labels``; or the
            ``"truth"``, for the upper reference alone.
        loss: of a depth given the label: ``"l1"`` (Weaksup-bs), ``"eq14"``, ``"eq10"``
            (solved anew for every sample of a batch), or ``"mahalanobis"``, under the
            covariance that the EM gives the depth, of the best label.
        weighting: of samples by the teacher's ``"residual"``, of joints by the
            ``"certainty"`` of their depth, or ``""``.
    """

    label: str
    loss: str
    weighting: str = ""

    @property
    def needs_covariance(self) -> bool:
        """Whether that of the depth is used."""
        return self.loss == "mahalanobis" or self.weighting == "certainty"


MODES = {
    "supervised": Mode("truth", "l1"),
    "weaksup_bs": Mode("teacher", "l1"),
    "weaksup_residual": Mode("teacher", "l1", "residual"),
    "distill": Mode("teacher", "eq14"),
    "distill_exact": Mode("teacher", "eq10"),
    # Ours.
    "weaksup_certainty": Mode("teacher", "l1", "certainty"),
    "posterior": Mode("teacher", "mahalanobis"),
}


# Axes of the first arguments of `student_loss` under jax.vmap.
PER_SAMPLE = (0, 0, 0, 0, 0, 0, None)


def student_loss(
    prediction: Prediction,
    keypoints: Float[Array, " p 2"],
    labelled: Bool[Array, " p"],
    flip: Bool[Array, ""],
    scale: Float[Array, ""],
    targets: tuple[DepthTarget, ...],
    dictionaries: tuple[Dictionary | None, ...],
    *,
    depth_weights: Mapping[str, Weight],
    depth_loss: Callable[..., Any],
    permutation: Int[np.ndarray, " p"],
    pairs: Int[np.ndarray, "pairs 2"],
    xy_weight: Weight,
    heat_weight: float,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """What a student minimises on one picture (Wang et al. 2019, Eq. 15).

        xy_weight ||f_xy - w||_1 + sum over modes of depth_weight loss(f_z)

    The sum has one term but where modes share a backbone. Ours, where asked for: the
    cross-entropies of the heat map and of the yaw.

    Args:
        prediction: of one picture, in the augmented patch; a depth for every mode.
        keypoints: (P, 2) landmarks in the augmented patch.
        labelled: (P,) labelled joints of the augmented picture.
        flip: whether the picture was mirrored.
        scale: by how much lengths in the augmented patch are larger.
        targets: of the sample for every mode, in the plain patch.
        dictionaries: of all samples for every mode; None where its loss uses none.
        depth_weights: of the depth for every mode; 1 in the paper.
        depth_loss: the function below, its ``code_l1_weight`` given.
        permutation: (P,) the skeleton's ``flip_permutation``.
        pairs: of the skeleton, see `pose_jax.hints.facing_pairs`.
        xy_weight: weight of the landmarks; 1 in the paper.
        heat_weight: of `heat_cross_entropy`; 0 in the paper.

    Returns:
        The loss and its terms, unweighted: ``{"xy": ..., "depth": ...}``; of several
        modes ``"depth_<mode>"`` each. ``"error_bar"`` is no part of the loss.
    """
    known_z, believed = (jnp.where(flip, x[permutation], x) for x in targets[0][:2])
    # What the teacher did not believe is taught neither as depth nor as x and y.
    labelled = labelled & believed
    xy = losses.keypoint_l1_loss(prediction.xy, keypoints, labelled=labelled)
    total, terms = xy_weight * xy, {"xy": xy}
    labels = zip(prediction.depths, targets, dictionaries, strict=True)
    for mode, (z, *label) in zip(depth_weights, labels, strict=True):
        # The depth in the plain patch.
        depth = depth_loss(mode, jnp.where(flip, z[permutation], z) / scale, *label)
        terms["depth" if len(targets) == 1 else f"depth_{mode}"] = depth
        total += depth_weights[mode] * depth
    terms["error_bar"] = _error_bars(
        prediction, keypoints, labelled, targets, flip, scale, permutation
    )
    if heat_weight:
        terms["heat"] = heat_cross_entropy(prediction.log_heat, keypoints, labelled)
        total += heat_weight * terms["heat"]
    if prediction.yaw is not None:
        # The label as in the mirrored and enlarged picture.
        label = jnp.concatenate([keypoints, scale * known_z[:, None]], axis=1)
        counts = targets[0].weight > 0
        yaw = yaw_divergence(prediction.yaw, label, labelled & counts, pairs)
        total, terms = total + yaw, {**terms, "yaw": yaw}
    return total, terms


def _error_bars(
    prediction: Prediction,
    keypoints: Float[Array, " p 2"],
    labelled: Bool[Array, " p"],
    targets: tuple[DepthTarget, ...],
    flip: Bool[Array, ""],
    scale: Float[Array, ""],
    permutation: Int[np.ndarray, " p"],
) -> Float[Array, ""]:
    """`error_bar_loss` of all modes, in the augmented patch."""
    total, off = jnp.zeros(()), prediction.xy - keypoints
    for z, spread, target in zip(
        prediction.depths, prediction.spread, targets, strict=True
    ):
        exact = target.expected is None
        known = (
            target.depth if exact else target.expected,
            jnp.zeros_like(target.depth) if exact else target.variance,
            target.labelled & (target.weight > 0),
        )
        expected, variance, known = (jnp.where(flip, x[permutation], x) for x in known)
        depth = (z, scale * expected, scale**2 * variance)
        total += error_bar_loss(spread, off, *depth, labelled=labelled, known=known)
    return total


def depth_loss(
    mode: str,
    z: Float[Array, " p"],
    target: DepthTarget,
    dictionary: Dictionary | None,
    *,
    code_l1_weight: Weight,
) -> Float[Array, ""]:
    """The depth loss of a mode on one sample, in the plain patch, times its weight."""
    loss = MODES[mode].loss
    # Paper: z' as it is; here: moved to the teacher's mean depth, because weak
    # perspective does not show how far away a shape is.
    z_hyp = losses.match_depth_mean(z, target.depth, target.labelled)
    how: Any = {"labelled": target.labelled, "code_l1_weight": code_l1_weight}
    shared: Any = dictionary
    if loss == "l1":
        each = 1.0 if target.joint_weight is None else target.joint_weight
        depth = losses.depth_l1_loss(
            z, target.depth, weight=each, labelled=target.labelled
        )
    elif loss == "eq14":
        view = target.phi, target.M, target.W.ravel()
        depth = losses.gram_distillation_loss(z_hyp, *view, *shared, **how)
    elif loss == "eq10":
        view = target.phi, *losses.split_dictionary(shared.D, target.M)
        how |= {"tolerance": EXACT_TOLERANCE, "max_steps": EXACT_STEPS}
        depth, _ = losses.min_code_cost(z_hyp, *view, target.W.ravel(), **how)
    else:
        known = target.depth, target.whitener, target.labelled
        depth = losses.posterior_depth_loss(z, losses.PreparedPosterior(*known))
    return target.weight * depth


def matching_weight(
    targets: DepthTarget,
    dictionary: Dictionary | None,
    key: Key[Array, ""],
    *,
    mode: str,
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
        mode: a key of `MODES`.
        code_l1_weight: weight of the regulariser in Eqs. 10 and 14.
    """
    labelled = targets.labelled
    means = jax.vmap(labelled_mean)(targets.depth, labelled)
    centred = jnp.where(labelled, targets.depth - means[:, None], 0.0)
    count = jnp.maximum(jnp.sum(labelled.astype(centred.dtype)), 1.0)
    sigma = 0.5 * jnp.sqrt(jnp.sum(centred**2) / count)

    def of_depth(z: Array, target: DepthTarget, mode: str) -> Array:
        target = target._replace(weight=jnp.ones(()))
        how = {"code_l1_weight": code_l1_weight}
        return depth_loss(mode, z, target, dictionary, **how)

    def norms(target: DepthTarget, key: Key[Array, ""]) -> Array:
        compared = (target._replace(joint_weight=UNUSED), "weaksup_bs"), (target, mode)

        def norm(one: Any) -> Array:
            return losses.depth_gradient_norm(
                lambda z: of_depth(z, *one), target.depth, key, sigma=sigma
            )

        return jnp.stack([norm(one) for one in compared])

    keys = jax.random.split(key, len(labelled))
    reference, own = jnp.mean(jax.vmap(norms)(targets, keys), axis=0)
    return reference / own
