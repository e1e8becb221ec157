"""What goes into a lifter, what comes out, and what it decides on between."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float


@dataclasses.dataclass(frozen=True)
class Lifted:
    """N poses of P joints, as NumPy arrays; NaN where a frame shows too little.

    Pixels are those of the landmarks. The camera frame is x right, y down, z away from
    the camera. One camera tells no millimetres: depth is in the same pixels.

    Attributes:
        keypoints_3d: (N, P, 3) camera frame, pixels, relative to the root joint.
        keypoints_3d_std: (N, P, 3) standard deviation of each joint's place about the
            middle of the body, same unit: 95 of 100 lie within 1.96 of it.
        keypoints: (N, P, 2) pixels: the landmarks as given, and as expected where they
            are missing or outliers, or where the landmarks are noisy.
        depth_flip_probability: (N,) that the whole pose is mirrored in depth, as the
            shapes say of each frame alone; 0.5 where the network was followed against
            them, and of fewer than two landmarks.
        log_evidence: (N,) log density of the landmarks, nats a joint.
        evidence_quantile: (N,) share of the training samples that are less likely:
            near 0 the teacher has not seen such a pose.
        outlier: (N, P) landmarks that were not believed.
        noise: standard deviation of the landmarks that was assumed, as a share of the
            longer side of their box.
        inflation: factor by which the standard deviations were enlarged.
        focal: focal length in pixels that was used; None: weak perspective.
        covariance: (N, 3P, 3P) pixels squared, rows x1 y1 z1 x2 ..., about the middle
            of the body; None where not asked for.
        skeleton: as ``Skeleton.to_dict()`` gives it.
    """

    keypoints_3d: Float[np.ndarray, "n p 3"]
    keypoints_3d_std: Float[np.ndarray, "n p 3"]
    keypoints: Float[np.ndarray, "n p 2"]
    depth_flip_probability: Float[np.ndarray, " n"]
    log_evidence: Float[np.ndarray, " n"]
    evidence_quantile: Float[np.ndarray, " n"]
    outlier: Bool[np.ndarray, "n p"]
    noise: float
    inflation: float
    focal: float | None
    skeleton: Mapping[str, Any]
    covariance: Float[np.ndarray, "n d d"] | None = None

    def __len__(self) -> int:
        return len(self.keypoints_3d)


class Landmarks(NamedTuple):
    """N frames to be lifted.

    Attributes:
        xy: (N, P, 2) pixels; NaN where missing.
        labelled: (N, P) which are known.
        doubt: (N, P) factor of each landmark's variance: 1 for the median score, more
            for less.
    """

    xy: Float[np.ndarray, "n p 2"]
    labelled: Bool[np.ndarray, "n p"]
    doubt: Float[np.ndarray, "n p"]


class Setting(NamedTuple):
    """What holds for all frames of a call; the least where they are few.

    Attributes:
        level: noise of the landmarks, patch units; the least says exact.
        inflation: factor of the standard deviations.
        focal: pixels; None: weak perspective.
        principal: pixels.
        ell: proportions of the bones.
        beyond: the part of the level that the landmarks of the training do not have.
        unlikely: below so many nats a joint the network tells the sign of the depth.
    """

    level: float
    inflation: float = 1.0
    focal: float | None = None
    principal: Float[np.ndarray, " 2"] = np.zeros(2)
    ell: Float[np.ndarray, " b"] = np.zeros(0)
    beyond: float = 0.0
    unlikely: float = -np.inf


def take(record: Any, rows: Any) -> Any:
    """Some frames of a record of arrays."""
    return jax.tree.map(lambda x: x[rows], record)
