"""The losses of Wang et al. 2019 as pure functions of one sample, and the metrics.

Every function takes one sample without a batch axis; its caller maps it by
``jax.vmap``. Lengths share one unit (patch coordinates). Depth increases away from the
camera. Arrays of float16 and bfloat16 are refused where a matrix is factored.
"""

# ruff: noqa: F401
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
    prepare,
    prepared_distillation_loss,
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
