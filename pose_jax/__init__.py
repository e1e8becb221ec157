"""The student (Section 4.4): 3D poses from pictures, learned from 2D and a teacher.

``train.train_and_evaluate(config, workdir)`` trains one, :class:`PoseEstimator` uses it
on other pictures:

    from pose_jax import PoseEstimator
    poses = PoseEstimator.load("runs/quickstart")(["one.jpg", "two.jpg"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pose_jax.estimator import PoseEstimator, Poses

__all__ = ["PoseEstimator", "Poses"]


def __getattr__(name: str) -> Any:
    # Flax and Orbax are read only when an estimator is asked for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pose_jax import estimator

    return getattr(estimator, name)
