"""Boxes, crops and patch coordinates: the conventions, stated once.

Pixels: x right, y down; (0, 0) is the outer corner of the top-left pixel, whose
centre is (0.5, 0.5). A picture of width w covers x in [0, w].

Camera frame: x right, y down, z away from the camera (right-handed). Projection
is weak perspective: pixels = scale * (x, y) + translation.

Crop: a square centred on the middle of a box, with side ``padding * max(width,
height)``. The box is the tight one around the labelled landmarks, or the
annotated one.

Patch: [-1, 1] across the crop in x and y, ``patch = (pixel - centre) / half_side``.
Depth is counted in the same unit, and so is everything in training. A patch drawn
with S x S pixels has the centre of its pixel i at ``(i + 0.5) * 2 / S - 1``.
"""

from __future__ import annotations

import numpy as np


def landmark_boxes(keypoints: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Tight boxes of the labelled landmarks.

    Args:
        keypoints: (N, P, 2) pixels.
        labelled: (N, P) bool, True where a landmark is labelled.

    Returns:
        (N, 4) float32 x, y, width, height; all zero where nothing is labelled.

    Examples:
        >>> landmark_boxes(np.array([[[1., 2.], [4., 9.], [0., 0.]]]),
        ...                np.array([[True, True, False]])).tolist()
        [[1.0, 2.0, 3.0, 7.0]]
    """
    mask = labelled[..., None]
    low = np.where(mask, keypoints, np.inf).min(axis=1)
    high = np.where(mask, keypoints, -np.inf).max(axis=1)
    boxes = np.concatenate([low, high - low], axis=-1)
    labelled = np.any(labelled, axis=1, keepdims=True)
    return np.where(labelled, boxes, 0.0).astype(np.float32)


def square_crops(boxes: np.ndarray, *, padding: float) -> tuple[np.ndarray, np.ndarray]:
    """The square crop around each box.

    Args:
        boxes: (N, 4) x, y, width, height in pixels.
        padding: side of the crop over the longer side of the box.

    Returns:
        centre (N, 2) and half_side (N,), float32 pixels.

    Examples:
        >>> centre, half = square_crops(np.array([[10., 20., 40., 80.]]), padding=1.25)
        >>> centre.tolist(), half.tolist()
        ([[30.0, 60.0]], [50.0])
    """
    boxes = np.asarray(boxes, np.float64)
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    half_side = padding * boxes[:, 2:].max(axis=1) / 2
    return centre.astype(np.float32), half_side.astype(np.float32)


def pixels_to_patch(
    pixels: np.ndarray, centre: np.ndarray, half_side: np.ndarray
) -> np.ndarray:
    """(..., P, 2) pixels to patch coordinates of crops (..., 2) and (...)."""
    return (pixels - centre[..., None, :]) / half_side[..., None, None]


def patch_to_pixels(
    patch: np.ndarray, centre: np.ndarray, half_side: np.ndarray
) -> np.ndarray:
    """The inverse of :func:`pixels_to_patch`."""
    return patch * half_side[..., None, None] + centre[..., None, :]
