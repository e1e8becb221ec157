"""From pixels to the patch that the teacher was trained in, and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Near(NamedTuple):
    """What a near camera sees of a pose of x, y, z: x - slope_x z, y - slope_y z.

    Attributes:
        w: (N, P, 2) the landmarks as seen, in the frame of ``Patches.W``.
        slope: (N, P, 2) from the optical axis, over the focal length.
    """

    w: Float[np.ndarray, "n p 2"]
    slope: Float[np.ndarray, "n p 2"]


class Patches(NamedTuple):
    """N sets of landmarks in patch units, see ``input_pipeline.crops``.

    Attributes:
        W: (N, P, 2) centred over the labelled landmarks, 0 where missing.
        labelled: (N, P) which are known; none where a frame cannot be scaled.
        mean: (N, 2) pixels, what was taken off.
        half_side: (N,) pixels per patch unit; 1 where a frame cannot be scaled.
        near: where W is about what weak perspective would show, what is seen.
    """

    W: Float[np.ndarray, "n p 2"]
    labelled: Bool[np.ndarray, "n p"]
    mean: Float[np.ndarray, "n 2"]
    half_side: Float[np.ndarray, " n"]
    near: Near | None = None


def patches_of(
    xy: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"], *, padding: float
) -> Patches:
    """The landmarks in the crop around their own box.

    Args:
        xy: pixels; ignored where not labelled.
        labelled: which are known.
        padding: side of the crop over the longer side of the box.
    """
    xy = np.asarray(xy, np.float64)
    half_side = padding * extent(xy, labelled) / 2
    usable = half_side > 0
    half_side = np.where(usable, half_side, 1)
    labelled = labelled & usable[:, None]
    count = np.maximum(labelled.sum(1), 1)[:, None]
    mean = np.where(labelled[..., None], xy, 0).sum(1) / count
    W = np.where(labelled[..., None], xy - mean[:, None], 0)
    W = (W / half_side[:, None, None]).astype(np.float32)
    return Patches(W, labelled, mean, half_side)


def extent(
    xy: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"]
) -> Float[np.ndarray, " n"]:
    """The longer side of the box of the labelled landmarks; 0 without any."""
    mask = labelled[..., None]
    low = np.where(mask, xy, np.inf).min(axis=1)
    high = np.where(mask, xy, -np.inf).max(axis=1)
    return np.where(labelled.any(1), np.max(high - low, axis=1, initial=-np.inf), 0)


def least_box(
    xy: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The joint without which the box is smallest, and how small in proportion."""
    whole, rows = extent(xy, labelled), np.arange(len(xy))
    joint, least = np.zeros(len(xy), int), np.full(len(xy), np.inf)
    for axis in (0, 1):
        for side, pick in ((np.inf, np.argmin), (-np.inf, np.argmax)):
            other = pick(np.where(labelled, xy[..., axis], side), axis=1)
            left = labelled.copy()
            left[rows, other] = False
            size = np.where(left.any(1), extent(xy, left), np.inf)
            better = size < least
            joint, least = np.where(better, other, joint), np.where(better, size, least)
    return joint, np.where(whole > 0, least / np.where(whole > 0, whole, 1), 1)


def far_joints(
    xy: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"], reach: float
) -> Bool[np.ndarray, "n p"]:
    """Landmarks so far off that the box shrinks below ``reach`` of it without them.

    Found before all else, because they make the patch of the others too large. Half of
    the joints remain.
    """
    far, rows = np.zeros(labelled.shape, bool), np.arange(len(xy))
    for _ in range(labelled.shape[1] // 2):
        left = labelled & ~far
        joint, least = least_box(xy, left)
        found = (least < reach) & (2 * (left.sum(1) - 1) >= labelled.shape[1])
        if not found.any():
            break
        far[rows[found], joint[found]] = True
    return far
