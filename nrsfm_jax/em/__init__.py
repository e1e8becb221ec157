"""EM for Gaussian shapes seen from unknown views: a first, coherent depth."""

from nrsfm_jax.em.coherent import (
    FitReport,
    em_options,
    fit_shapes,
    read_fit,
    read_or_fit,
)
from nrsfm_jax.em.fit import fit_gaussian, fit_mixture, refit, run_em
from nrsfm_jax.em.gaussians import GaussianMixture
from nrsfm_jax.em.posterior import Posterior, expected_pose, pose_or_flat, posterior_of
from nrsfm_jax.em.samples import Samples, mirror_of
from nrsfm_jax.em.views import ViewPrior, rotation_views, upright_views

__all__ = [
    "FitReport",
    "GaussianMixture",
    "Posterior",
    "Samples",
    "ViewPrior",
    "em_options",
    "expected_pose",
    "fit_gaussian",
    "fit_mixture",
    "fit_shapes",
    "mirror_of",
    "pose_or_flat",
    "posterior_of",
    "read_fit",
    "read_or_fit",
    "refit",
    "rotation_views",
    "run_em",
    "upright_views",
]
