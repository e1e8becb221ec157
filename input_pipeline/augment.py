"""Augmentation: rotation, scale and flip, composed with the crop.

Crop and augmentation are one affine map, so that a picture is resampled once. With F =
diag(-1, 1) for a mirrored sample (else the identity), R the rotation by an angle
(positive turns x towards y, clockwise on the screen) and s the scale,

    patch' = s R F patch,      pixel = centre + (half_side / s) F R^T patch'.

Joint p of a flipped picture was joint ``perm[p]``. Only s changes the depth, so that
for a depth ``z'`` in the augmented picture the depth in the plain crop is
``where(flip, z'[perm], z') / s``. All random numbers are functions of (seed, sample
counter). Landmarks are augmented by batches, pictures one by one in OpenCV, which
releases the interpreter to other threads.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.decoding import (
    Encoded,
    Upright,
    cut_window,
    load_opencv,
    power_below,
)

# The grey that normalisation maps to about zero.
FILL = 124.0
# Pixels around the window that is decoded: what the blur and bilinear sampling need.
MARGIN_PX = 3.0
# Keeps the augmentations apart from the order of the samples, which has the same seed.
_STREAM = 2
_NUMBERS = 8  # that a sample may use; a multiple of 4, what Philox gives at a time


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How much to change a sample; all zero leaves it as it is.

    Args:
        scale: lengths change by a factor in 1 +- this.
        rotation_deg: the angle is in +- this, where the sample is turned at all.
        rotation_prob: the part of the samples that is turned.
        flip_prob: the part of the samples that is mirrored.
        colour: each channel is multiplied by a factor in 1 +- this.
    """

    scale: float = 0.0
    rotation_deg: float = 0.0
    rotation_prob: float = 0.0
    flip_prob: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        for field, value in dataclasses.asdict(self).items():
            one = field in ("rotation_prob", "flip_prob")  # may be reached
            good = 0 <= value < 1 or (one and value == 1) or field == "rotation_deg"
            if not good:
                bounds = "[0, 1]" if one else "[0, 1)"
                raise ValueError(f"augment.{field} = {value} must be in {bounds}")


class Change(NamedTuple):
    """How B samples are changed.

    Attributes:
        scale: (B,) float32 factor of lengths.
        angle: (B,) float32 radians.
        flip: (B,) bool.
        gain: (B, 3) float32 factors of the channels.
    """

    scale: np.ndarray
    angle: np.ndarray
    flip: np.ndarray
    gain: np.ndarray


def draw_augmentation(first: int, count: int, seed: int, how: Augmentation) -> Change:
    """Random changes of samples that follow each other.

    Args:
        first: how many samples the run has drawn before these.
        count: B, the number of samples.
        seed: of the run.
        how: ranges and probabilities.
    """
    key = np.array([seed, _STREAM], np.uint64)
    # Philox counts in fours: a sample's numbers do not depend on where a batch begins.
    generator = np.random.Philox(key=key, counter=first * _NUMBERS // 4)
    u = np.random.Generator(generator).random((count, _NUMBERS)).astype(np.float32)
    turned = u[:, 1] < how.rotation_prob
    limit = np.float32(np.deg2rad(how.rotation_deg))
    return Change(
        scale=_around_one(u[:, 0], how.scale),
        angle=np.where(turned, limit * (2 * u[:, 2] - 1), np.float32(0)),
        flip=u[:, 3] < how.flip_prob,
        gain=_around_one(u[:, 4:7], how.colour),
    )


def _around_one(u: np.ndarray, spread: float) -> np.ndarray:
    return 1 + np.float32(spread) * (2 * u - 1)


def patch_matrix(scale: Any, angle: Any, flip: Any) -> np.ndarray:
    """(..., 2, 2) matrix s R F that takes plain to augmented patch coordinates."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    mirror = np.where(flip, np.float32(-1), np.float32(1))
    rows = [np.stack([mirror * cos, -sin], -1), np.stack([mirror * sin, cos], -1)]
    return np.stack(rows, -2)


def augment_landmarks(
    patch: np.ndarray,
    labelled: np.ndarray,
    matrix: np.ndarray,
    flip: np.ndarray,
    permutation: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (B, P, 2) and visibility (B, P) of the augmented pictures."""
    patch = np.where(flip[:, None, None], patch[:, permutation], patch)
    labelled = np.where(flip[:, None], labelled[:, permutation], labelled)
    turned = np.einsum("bcd,bpd->bpc", matrix, patch)
    return np.where(labelled[..., None], turned, np.float32(0)), labelled


def draw_patch(
    picture: bytes | np.ndarray | Encoded | Upright,
    centre: np.ndarray,
    half_side: float,
    matrix: np.ndarray,
    gain: np.ndarray,
    size: int,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes what the crop needs of a picture, unless it is, and draws the patch.

    Args:
        picture: JPEG or PNG bytes, (H, W, 3) uint8 RGB, or one of
            ``input_pipeline.decoding``.
        centre: (2,) of the crop, pixels.
        half_side: of the crop, pixels.
        matrix: (2, 2) from plain to augmented patch coordinates.
        gain: (3,) factors of the channels of the picture; what lies outside of it
            keeps its grey.
        size: S, the side of the patch in pixels.
        out: (S, S, 3) uint8, where the patch is drawn.

    Returns:
        (S, S, 3) uint8, ``out`` where it was given.

    Raises:
        ValueError: the picture does not decode.
    """
    out = np.empty((size, size, 3), np.uint8) if out is None else out
    # From augmented patch coordinates to pixels about the centre, in plain numbers:
    # NumPy takes longer for two than for a thousand.
    (a, b), (c, d) = matrix.tolist()
    factor = float(half_side) / (a * d - b * c)
    a, b, c, d = factor * d, -factor * b, -factor * c, factor * a
    shrink, blur = shrink_and_blur(math.sqrt(abs(a * d - b * c)) * 2 / size)
    reach = abs(a) + abs(b) + MARGIN_PX * shrink, abs(c) + abs(d) + MARGIN_PX * shrink
    x, y = float(centre[0]), float(centre[1])
    low, high = (x - reach[0], y - reach[1]), (x + reach[0], y + reach[1])
    if isinstance(picture, np.ndarray):
        window, (left, top) = cut_window(picture, low, high, shrink)
    else:
        picture = Encoded(picture) if isinstance(picture, bytes) else picture
        window, (left, top) = picture.window(low, high, shrink)
    window = _blur(window, blur)
    if not (gain == 1).all():
        # A product with a diagonal matrix takes a quarter of the time of a table.
        window = load_opencv().transform(window, np.diag(gain))
    to_window = (a / shrink, b / shrink, c / shrink, d / shrink)
    _warp(window, to_window, (x / shrink - left, y / shrink - top), out)
    return out


def shrink_and_blur(minify: float) -> tuple[int, float]:
    """How a picture is smoothed before one pixel in ``minify`` is taken of it.

    Returns:
        The side of the blocks whose means are taken, a power of 2, which leaves a
        factor m in [1, 2); and the weight b of the neighbours in the kernel
        [b, 1 - 2b, b], which is applied twice along each axis: 0.055 + 0.03 m^2, and 0
        for m = 1. Less of what is finer than a pixel of the patch comes through with
        it, against what is coarser, than with area averages at its resolution.
    """
    shrink = power_below(minify)
    rest = minify / shrink
    return shrink, 0.055 + 0.03 * rest**2 if rest > 1 + 1e-5 else 0.0


def _blur(window: np.ndarray, b: float) -> np.ndarray:
    if not b:
        return window
    cv2, once = load_opencv(), [b, 1 - 2 * b, b]
    kernel = np.convolve(once, once)
    border = cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED
    return cv2.sepFilter2D(window, -1, kernel, kernel, borderType=border)


def _warp(
    window: np.ndarray,
    matrix: tuple[float, float, float, float],
    middle: tuple[float, float],
    out: np.ndarray,
) -> None:
    """Samples ``window`` at ``middle + matrix patch`` for all pixels of the patch.

    Our coordinates have the centre of pixel i at i + 1/2, those of OpenCV at i, on
    both sides.
    """
    cv2, size = load_opencv(), len(out)
    (a, b, c, d), (x, y) = matrix, middle
    first, step = 1 / size - 1, 2 / size  # of the patch coordinates of pixel centres
    along_x = [a * step, b * step, x + (a + b) * first - 0.5]
    along_y = [c * step, d * step, y + (c + d) * first - 0.5]
    # Four channels are sampled in half the time of three.
    drawn = cv2.warpAffine(
        cv2.cvtColor(window, cv2.COLOR_RGB2RGBA),
        np.array([along_x, along_y]),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(FILL,) * 4,
    )
    cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB, dst=out)
