"""The losses of Wang et al. 2019 as pure functions of one sample, and the metrics.

Every function takes one sample without a batch axis; its caller maps it by
``jax.vmap``. Lengths share one unit (patch coordinates). Depth increases away from the
camera.
"""

from losses.camera_frame import (
    rotate_dictionary,
    rotation_from_camera,
    split_dictionary,
)
from losses.distillation import (
    PreparedDistillation,
    code_cost,
    depth_gradient_norm,
    depth_l1_loss,
    distillation_loss,
    keypoint_l1_loss,
    pose_loss,
    prepare,
    prepared_distillation_loss,
    residual_weight,
)
from losses.exact import min_code_cost
from losses.gram import dictionary_gram, gram_distillation_loss
from losses.mahalanobis import (
    POSTERIOR_NOISE,
    PreparedPosterior,
    posterior_depth_loss,
    prepare_posterior,
)
from losses.metrics import (
    auc,
    depth_error,
    evaluate_poses,
    flip_fraction,
    flipped,
    mpjpe,
    n_mpjpe,
    pa_mpjpe,
    pa_mpjpe_reflection,
    pa_mpjpe_rigid,
    pck3d,
    per_action_table,
    procrustes_align,
    scale_by_bone_length,
)
from losses.reprojection import reprojection_loss
from losses.subspace import match_depth_mean, project_code, right_inverse

__all__ = [
    "POSTERIOR_NOISE",
    "PreparedDistillation",
    "PreparedPosterior",
    "auc",
    "code_cost",
    "depth_error",
    "depth_gradient_norm",
    "depth_l1_loss",
    "dictionary_gram",
    "distillation_loss",
    "evaluate_poses",
    "flip_fraction",
    "flipped",
    "gram_distillation_loss",
    "keypoint_l1_loss",
    "match_depth_mean",
    "min_code_cost",
    "mpjpe",
    "n_mpjpe",
    "pa_mpjpe",
    "pa_mpjpe_reflection",
    "pa_mpjpe_rigid",
    "pck3d",
    "per_action_table",
    "pose_loss",
    "posterior_depth_loss",
    "prepare",
    "prepare_posterior",
    "prepared_distillation_loss",
    "procrustes_align",
    "project_code",
    "reprojection_loss",
    "residual_weight",
    "right_inverse",
    "rotate_dictionary",
    "rotation_from_camera",
    "scale_by_bone_length",
    "split_dictionary",
]
