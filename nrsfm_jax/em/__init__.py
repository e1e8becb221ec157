"""EM for Gaussian shapes seen from unknown views: a first, coherent depth."""

# ruff: noqa: F401
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
