"""From pixels to the patch that the teacher was trained in, and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Patches(NamedTuple):
    """N sets of landmarks in patch units, see ``input_pipeline.crops``.

    Attributes:
        W: (N, P, 2) centred over the labelled landmarks, 0 where missing.
        labelled: (N, P) which are known; none where a frame cannot be scaled.
        mean: (N, 2) pixels, what was taken off.
        half_side: (N,) pixels per patch unit; 1 where a frame cannot be scaled.
    """

    W: Float[np.ndarray, "n p 2"]
    labelled: Bool[np.ndarray, "n p"]
    mean: Float[np.ndarray, "n 2"]
    half_side: Float[np.ndarray, " n"]


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
