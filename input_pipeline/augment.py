"""Augmentation: a turn, a change of size and a mirror image, composed with the crop.

Crop and augmentation are one affine map, so that a picture is resampled once. With
F = diag(-1, 1) for a mirrored sample (else the identity), R the rotation by an angle
(positive turns x towards y, clockwise on the screen) and s the scale,

    patch' = s R F patch,      pixel = centre + (half_side / s) F R^T patch'.

A mirrored joint p is what was joint ``perm[p]``. Depth changes by s alone, so with
the depth ``z'`` of the augmented picture that of the plain crop is
``where(flip, z'[perm], z') / s``. All functions are TensorFlow graph code for one
sample; all random numbers follow from (seed, sample counter).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from input_pipeline.crops import patch_pixel_centres
from input_pipeline.tensorflow_setup import load_tensorflow

# The grey that normalisation maps to about zero.
FILL = 124.0
# Pixels around the window that is decoded: what bilinear sampling reaches over.
MARGIN_PX = 2.0


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
        for field in ("scale", "colour"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(
                    f"augment.{field} = {getattr(self, field)} must be in [0, 1)"
                )
        for field in ("rotation_prob", "flip_prob"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(
                    f"augment.{field} = {getattr(self, field)} must be in [0, 1]"
                )


def read_augmentation(augment: Mapping[str, Any] | None) -> Augmentation:
    """``config.student.augment`` as a record; None changes nothing."""
    return Augmentation(**dict(augment.items())) if augment else Augmentation()


def draw_augmentation(counter: Any, seed: int, how: Augmentation) -> tuple[Any, ...]:
    """Random numbers of one sample.

    Args:
        counter: () int64, how many samples the run has drawn before this one.
        seed: of the run.
        how: ranges and probabilities.

    Returns:
        scale (), angle () in radians, flip () bool, gain (3,).
    """
    tf = load_tensorflow()
    key = tf.stack([tf.constant(seed, tf.int64), counter])
    u = tf.random.stateless_uniform([7], key, alg="philox")
    scale = 1.0 + how.scale * (2.0 * u[0] - 1.0)
    turned = tf.cast(u[1] < how.rotation_prob, tf.float32)
    angle = turned * float(np.deg2rad(how.rotation_deg)) * (2.0 * u[2] - 1.0)
    flip = u[3] < how.flip_prob
    gain = 1.0 + how.colour * (2.0 * u[4:7] - 1.0)
    return scale, angle, flip, gain


def patch_matrix(scale: Any, angle: Any, flip: Any) -> Any:
    """(2, 2) matrix s R F that takes plain to augmented patch coordinates."""
    tf = load_tensorflow()
    cos, sin = scale * tf.cos(angle), scale * tf.sin(angle)
    mirror = tf.where(flip, -1.0, 1.0)
    return tf.stack([tf.stack([mirror * cos, -sin]), tf.stack([mirror * sin, cos])])


def augment_landmarks(
    patch: Any, visible: Any, matrix: Any, flip: Any, permutation: np.ndarray
) -> tuple[Any, Any]:
    """Landmarks (P, 2) and visibility (P,) of the augmented picture."""
    tf = load_tensorflow()
    patch = tf.where(flip, tf.gather(patch, permutation), patch)
    visible = tf.where(flip, tf.gather(visible, permutation), visible)
    turned = tf.linalg.matvec(matrix, patch)
    return tf.where(visible[:, None], turned, 0.0), visible


def draw_patch(
    encoded: Any, centre: Any, half_side: Any, matrix: Any, gain: Any, size: int
) -> Any:
    """Decodes what the crop needs of a picture and draws the patch.

    Where the patch is smaller than what it shows, the window is first brought to the
    patch's resolution by area averages, so that nothing is skipped.

    Args:
        encoded: () bytes of a JPEG or PNG.
        centre: (2,) pixels, middle of the crop.
        half_side: () pixels.
        matrix: (2, 2) from plain to augmented patch coordinates.
        gain: (3,) factors of the channels.
        size: S, the side of the patch in pixels.

    Returns:
        (S, S, 3) uint8.
    """
    tf = load_tensorflow()
    # From augmented patch coordinates to pixels about the centre.
    to_pixels = half_side * _inverse(matrix)
    reach = tf.reduce_sum(tf.abs(to_pixels), axis=1) + MARGIN_PX
    window, offset = _decode_window(encoded, centre - reach, centre + reach)
    minify = tf.sqrt(tf.abs(_determinant(to_pixels))) * (2.0 / size)
    window, ratio = _reduce(window, minify)
    to_window = ratio[:, None] * to_pixels
    middle = ratio * (centre - offset)
    warped = _warp(window, to_window, middle, size)
    coloured = tf.clip_by_value(tf.round(warped * gain), 0.0, 255.0)
    return tf.cast(coloured, tf.uint8)


def _determinant(m: Any) -> Any:
    return m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]


def _inverse(m: Any) -> Any:
    tf = load_tensorflow()
    rows = tf.stack([tf.stack([m[1, 1], -m[0, 1]]), tf.stack([-m[1, 0], m[0, 0]])])
    return rows / _determinant(m)


def _decode_window(encoded: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """The part of a picture between two corners, and its own corner (x, y)."""
    tf = load_tensorflow()

    def clip(shape: Any) -> tuple[Any, Any]:
        """First pixel and number of pixels (x, y), at least one, in the picture."""
        limit = tf.cast(shape[1::-1], tf.float32)
        first = tf.clip_by_value(tf.floor(low), 0.0, limit - 1.0)
        last = tf.clip_by_value(tf.math.ceil(high), first + 1.0, limit)
        return tf.cast(first, tf.int32), tf.cast(last - first, tf.int32)

    def jpeg() -> tuple[Any, Any]:
        first, count = clip(tf.image.extract_jpeg_shape(encoded))
        box = tf.stack([first[1], first[0], count[1], count[0]])
        window = tf.image.decode_and_crop_jpeg(
            encoded, box, channels=3, dct_method="INTEGER_ACCURATE"
        )
        return window, first

    def png() -> tuple[Any, Any]:
        picture = tf.image.decode_png(encoded, channels=3)
        first, count = clip(tf.shape(picture))
        corner = tf.stack([first[1], first[0], 0])
        return tf.slice(picture, corner, tf.stack([count[1], count[0], 3])), first

    window, first = tf.cond(tf.io.is_jpeg(encoded), jpeg, png)
    window.set_shape([None, None, 3])
    return window, tf.cast(first, tf.float32)


def _reduce(window: Any, minify: Any) -> tuple[Any, Any]:
    """Area averages that leave about one pixel per patch pixel.

    Returns:
        The window as float32 and the factor (x, y) by which its lengths changed.
    """
    tf = load_tensorflow()
    shape = tf.cast(tf.shape(window)[:2], tf.float32)
    smaller = tf.maximum(tf.round(shape / tf.maximum(minify, 1.0)), 1.0)
    reduced = tf.cond(
        minify > 1.0,
        lambda: tf.image.resize(window, tf.cast(smaller, tf.int32), method="area"),
        lambda: tf.cast(window, tf.float32),
    )
    reduced.set_shape([None, None, 3])
    return reduced, (smaller / shape)[::-1]


def _warp(window: Any, matrix: Any, middle: Any, size: int) -> Any:
    """Samples ``window`` at ``middle + matrix @ patch`` for all pixels of the patch.

    Our coordinates have the centre of pixel i at i + 1/2, those of the operation at
    i, on both sides.
    """
    tf = load_tensorflow()
    step = matrix * (2.0 / size)
    first = float(patch_pixel_centres(size)[0])
    start = middle + tf.reduce_sum(matrix, axis=1) * first - 0.5
    affine = tf.concat([step, start[:, None]], axis=1)
    transform = tf.concat([tf.reshape(affine, [6]), [0.0, 0.0]], axis=0)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=window[None],
        transforms=transform[None],
        output_shape=[size, size],
        fill_value=FILL,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]
