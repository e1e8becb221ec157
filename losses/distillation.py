"""Wang et al. 2019, Eqs. 9, 14: the cost of a depth; the terms of Eq. 15.

All L1 weights refer to the gauge in which the dictionary has unit columns: the data
determine only D phi, so that a weight on phi has a meaning only for a fixed gauge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from losses.masked import (
    Weight,
    keep_labelled,
    keep_labelled_pairs,
    norm,
    product,
)
from losses.shapes import of_one_sample
from losses.subspace import match_depth_mean, project_code, right_inverse


@of_one_sample
def code_cost(
    phi: Float[Array, " k"],
    B_xy: Float[Array, " p2 k"],
    w: Float[Array, " p2"],
    *,
    code_l1_weight: Weight,
    labelled: Bool[Array, " p"] | None = None,
) -> Float[Array, ""]:
    """Cost of a code (Wang et al. 2019, Eq. 9, with the norms of Section 4.4).

        C(phi) = ||B_xy phi - w||_2 + code_l1_weight ||phi||_1

    Args:
        phi: (K,) code.
        B_xy: (2P, K) image part of the dictionary.
        w: (2P,) centred landmarks, ``W.ravel()``.
        code_l1_weight: weight of the regulariser; 0.15 goes with unit columns.
        labelled: (P,) joints that have a landmark.
    """
    error = keep_labelled_pairs(product(B_xy, phi) - w, labelled)
    return norm(error) + code_l1_weight * jnp.sum(jnp.abs(phi))


@of_one_sample
def distillation_loss(
    z_hyp: Float[Array, " p"],
    phi: Float[Array, " k"],
    B_xy: Float[Array, " p2 k"],
    B_z: Float[Array, " p k"],
    w: Float[Array, " p2"],
    *,
    code_l1_weight: Weight,
    labelled: Bool[Array, " p"] | None = None,
) -> Float[Array, ""]:
    """Convex upper bound of the cost of a depth (Wang et al. 2019, Eq. 14).

        L~(z') = C(phi_proj(z')),   C of Eq. 9, phi_proj of Eq. 13

    Args:
        z_hyp: (P,) depth hypothesis z', in the unit of w. Its mean counts: see
            :func:`losses.match_depth_mean`.
        phi: (K,) the teacher's code.
        B_xy: (2P, K) image part of the dictionary.
        B_z: (P, K) depth part of the dictionary.
        w: (2P,) centred landmarks, ``W.ravel()``.
        code_l1_weight: weight of the regulariser.
        labelled: (P,) joints that have a landmark.
    """
    phi_proj = project_code(phi, B_z, z_hyp, labelled=labelled)
    return code_cost(
        phi_proj, B_xy, w, code_l1_weight=code_l1_weight, labelled=labelled
    )


class PreparedDistillation(NamedTuple):
    """What Eq. 14 needs of one sample and does not change while a student trains."""

    phi: Float[Array, " k"]  # the teacher's code
    right_inverse: Float[Array, " k p"]  # B_z^+; columns of missing joints are 0
    leak: Float[Array, " p2 p"]  # L = B_xy B_z^+: how depth shows in the image
    error: Float[Array, " p2"]  # e0 = B_xy phi - w, 0 at missing joints
    depth: Float[Array, " p"]  # z0 = B_z phi, the teacher's depth, of every joint
    labelled: Bool[Array, " p"]  # joints that have a landmark


@of_one_sample
def prepare(
    phi: Float[Array, " k"],
    B_xy: Float[Array, " p2 k"],
    B_z: Float[Array, " p k"],
    w: Float[Array, " p2"],
    labelled: Bool[Array, " p"] | None = None,
) -> PreparedDistillation:
    """The unchanging part of Eq. 14 for one sample; arguments as there."""
    if labelled is None:
        labelled = jnp.ones(B_z.shape[0], dtype=bool)
    inverse = right_inverse(B_z, labelled=labelled)
    return PreparedDistillation(
        phi=phi,
        right_inverse=inverse,
        leak=keep_labelled_pairs(product(B_xy, inverse), labelled),
        error=keep_labelled_pairs(product(B_xy, phi) - w, labelled),
        depth=product(B_z, phi),
        labelled=labelled,
    )


@of_one_sample
def prepared_distillation_loss(
    z_hyp: Float[Array, " p"],
    prepared: PreparedDistillation,
    *,
    code_l1_weight: Weight,
) -> Float[Array, ""]:
    """Eq. 14 at two small products and two norms, means of the depths matched.

        ||e0 + L delta||_2 + code_l1_weight ||phi + B_z^+ delta||_1,
        delta = (z' - mean z') - (z0 - mean z0)

    Equal to ``distillation_loss(match_depth_mean(z_hyp, B_z @ phi, labelled), ...)``:
    the mean of z_hyp over the labelled joints has no influence and no gradient.

    Args:
        z_hyp: (P,) depth hypothesis z', in the unit of w.
        prepared: the sample's record from :func:`prepare`.
        code_l1_weight: weight of the regulariser.
    """
    matched = match_depth_mean(z_hyp, prepared.depth, prepared.labelled)
    delta = keep_labelled(matched - prepared.depth, prepared.labelled)
    error = prepared.error + product(prepared.leak, delta)
    phi_proj = prepared.phi + product(prepared.right_inverse, delta)
    return norm(error) + code_l1_weight * jnp.sum(jnp.abs(phi_proj))


@of_one_sample
def keypoint_l1_loss(
    pred_xy: Float[Array, " p 2"],
    keypoints: Float[Array, " p 2"],
    *,
    labelled: Bool[Array, " p"] | None = None,
) -> Float[Array, ""]:
    """||f_xy - w||_1 of Eq. 15, summed over the labelled joints."""
    return jnp.sum(jnp.abs(keep_labelled(pred_xy - keypoints, labelled)))


@of_one_sample
def depth_l1_loss(
    pred_z: Float[Array, " p"],
    z_teacher: Float[Array, " p"],
    *,
    weight: Weight | Float[Array, " p"] = 1.0,
    labelled: Bool[Array, " p"] | None = None,
) -> Float[Array, ""]:
    """The baseline Weaksup-bs: the teacher's depth as a label, means matched.

        ||weight ((z - mean z) - (z0 - mean z0))||_1    over the labelled joints

    Args:
        pred_z: (P,) the student's depth.
        z_teacher: (P,) the teacher's depth B_z phi, in the same unit.
        weight: of this sample, or (P,) of each joint.
        labelled: (P,) joints that have a landmark.
    """
    error = match_depth_mean(pred_z, z_teacher, labelled) - z_teacher
    return jnp.sum(weight * jnp.abs(keep_labelled(error, labelled)))


def depth_gradient_norm(
    loss: Callable[[Float[Array, " p"]], Float[Array, ""]],
    depth: Float[Array, " p"],
    key: Key[Array, ""],
    *,
    sigma: Weight,
    num_edits: int = 8,
) -> Float[Array, ""]:
    """Expected size of the gradient of a depth loss near the teacher's depth.

        E_eps ||d loss / d z' (z0 + eps)||_2,   eps ~ N(0, sigma^2 I)

    The ratio of two losses at the same key, each averaged over samples, tells by which
    ``depth_weight`` they pull equally on depth against xy.

    Args:
        loss: of a depth hypothesis z' (P,).
        depth: (P,) the teacher's depth z0.
        key: a typed key of ``jax.random.key``.
        sigma: size of the edits, in the unit of w; that of a student's errors.
        num_edits: number of random edits averaged.
    """
    edits = sigma * jax.random.normal(key, (num_edits, *depth.shape), depth.dtype)
    gradients = jax.vmap(lambda edit: jax.grad(loss)(depth + edit))(edits)
    return jnp.mean(jax.vmap(norm)(gradients))
