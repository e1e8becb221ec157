"""Decodes only that part of a JPEG or PNG picture that a crop needs.

A JPEG that is reduced by a factor of two or more is decoded at a half, a quarter or an
eighth of its size, which costs less than decoding all of it; each pixel is then the
mean of those that it replaces. Of a JPEG that is much larger than the crop, only the
crop is decoded.
"""

from __future__ import annotations

import functools
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline.tensorflow_setup import load_tensorflow

# TensorFlow can decode a part of a JPEG and OpenCV cannot; OpenCV decodes a whole one
# faster. They are equally fast where the crop is about this part of the picture.
_PART = 1 / 3
Pair = tuple[float, float]


class DecodeError(ValueError):
    """Bytes that are no picture, or only a part of one."""


@functools.cache
def load_opencv() -> Any:
    """The ``cv2`` module, kept to the thread that calls it.

    Pictures are worked on in parallel, not the parts of one.
    """
    import cv2

    cv2.setNumThreads(1)
    return cv2


def decode_window(
    encoded: bytes, low: Pair, high: Pair, shrink: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of a picture between two corners, shrunk to means of square blocks.

    Args:
        encoded: JPEG or PNG; an orientation noted in it is not applied.
        low: x, y of a corner in pixels, in or out of the picture.
        high: x, y of the opposite corner.
        shrink: side of the blocks in pixels, a power of 2; the blocks of a picture
            begin at its top left, its border is repeated to fill the last ones.

    Returns:
        (h, w, 3) uint8 RGB, at least one block, and the x, y of its corner in blocks.

    Raises:
        DecodeError: the bytes do not decode.
    """
    size = _jpeg_size(encoded)
    decoded = 1 if size is None else min(shrink, 8)
    if size is not None and decoded == shrink:
        columns, rows = (-(-side // shrink) for side in size)
        (x, right), (y, bottom) = _cover(low, high, shrink, (columns, rows))
        if (right - x) * (bottom - y) < _PART * columns * rows:
            window = _decode_part(encoded, (y, x, bottom - y, right - x), shrink)
            return window, (x, y)
    return cut_window(_decode_whole(encoded, decoded), low, high, shrink, decoded)


def cut_window(
    picture: np.ndarray, low: Pair, high: Pair, shrink: int, decoded: int = 1
) -> tuple[np.ndarray, tuple[int, int]]:
    """:func:`decode_window` of a picture that is decoded.

    Args:
        picture: (H, W, 3) uint8 RGB.
        low: x, y of a corner in pixels of the file.
        high: x, y of the opposite corner.
        shrink: side of the blocks in pixels of the file.
        decoded: of those, how many a pixel of ``picture`` spans already.
    """
    block = shrink // decoded
    rows, columns = (-(-side // block) for side in picture.shape[:2])
    (x, right), (y, bottom) = _cover(low, high, shrink, (columns, rows))
    window = picture[y * block : bottom * block, x * block : right * block]
    return _block_means(window, block), (x, y)


def _cover(
    low: Pair, high: Pair, shrink: int, limit: tuple[int, int]
) -> list[tuple[int, int]]:
    """First and last block + 1 along x and y: at least one, in the picture."""
    ranges = []
    for a, b, count in zip(low, high, limit, strict=True):
        first = min(max(math.floor(a / shrink), 0), count - 1)
        ranges.append((first, min(max(math.ceil(b / shrink), first + 1), count)))
    return ranges


def _block_means(picture: np.ndarray, block: int) -> np.ndarray:
    if block == 1:
        return picture
    cv2 = load_opencv()
    rows, columns = picture.shape[:2]
    below, beside = -rows % block, -columns % block
    if below or beside:
        picture = cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    size = (picture.shape[1] // block, picture.shape[0] // block)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _decode_whole(encoded: bytes, shrink: int) -> np.ndarray:
    cv2 = load_opencv()
    reduced = {
        1: 0,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    # The flags of a reduced size say grey; that of the colours has the last word.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | reduced[shrink]
    # OpenCV asserts that there is something to decode.
    picture = cv2.imdecode(np.frombuffer(encoded or b"?", np.uint8), flags)
    if picture is None:
        raise DecodeError(f"{len(encoded)} bytes do not decode as a picture")
    return picture


def _decode_part(
    encoded: bytes, window: tuple[int, int, int, int], shrink: int
) -> np.ndarray:
    tf = load_tensorflow()
    try:
        decoded = tf.raw_ops.DecodeAndCropJpeg(
            contents=encoded,
            crop_window=window,
            channels=3,
            ratio=shrink,
            dct_method="INTEGER_ACCURATE",
        )
    except tf.errors.InvalidArgumentError as error:
        raise DecodeError(f"{len(encoded)} bytes do not decode as a JPEG") from error
    return np.asarray(memoryview(decoded))


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a JPEG; None of another file."""
    if encoded[:2] != b"\xff\xd8":
        return None
    try:
        return Image.open(io.BytesIO(encoded)).size
    except OSError as error:
        begins = f"{len(encoded)} bytes begin like a JPEG"
        raise DecodeError(f"{begins} and have no frame header") from error
