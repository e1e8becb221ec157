"""New landmarks to 3D: the EM's posterior made looser, the teacher, bones, cameras."""

from nrsfm_jax.lifting.lifter import PoseLifter
from nrsfm_jax.lifting.records import Lifted

__all__ = ["Lifted", "PoseLifter"]
