"""JPEG and PNG bytes to the part of a picture that a crop needs, no more.

A JPEG that is shrunk at least twofold is decoded at a half, a quarter or an eighth of
its size: it is stored so that this costs less than decoding all of it, and each pixel
is then the mean of those that it stands for. Of a JPEG that is much larger than the
crop only the crop is decoded.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from input_pipeline.tensorflow_setup import load_tensorflow

# TensorFlow can decode a part of a JPEG and OpenCV cannot; OpenCV decodes a whole one
# faster. They are equally fast where the crop is about this part of the picture.
_PART = 1 / 3
# JPEG markers without a length; and those of a frame header among 0xC0..0xCF.
_BARE = {0x01, *range(0xD0, 0xD9)}
_NOT_A_FRAME = {0xC4, 0xC8, 0xCC}


@functools.cache
def load_opencv() -> Any:
    """The ``cv2`` module, kept to the thread that calls it.

    Pictures are worked on in parallel, not the parts of one.
    """
    import cv2

    cv2.setNumThreads(1)
    return cv2


def decode_window(
    encoded: bytes, low: np.ndarray, high: np.ndarray, shrink: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of a picture between two corners, shrunk to means of square blocks.

    Args:
        encoded: JPEG or PNG; an orientation noted in it is not applied.
        low: (2,) x, y of a corner in pixels, in or out of the picture.
        high: (2,) of the opposite corner.
        shrink: side of the blocks in pixels, a power of 2; the blocks of a picture
            begin at its top left, its border is repeated to fill the last ones.

    Returns:
        (h, w, 3) uint8 RGB, at least one block, and the x, y of its corner in blocks.

    Raises:
        ValueError: the bytes do not decode.
    """
    low, high = low / shrink, high / shrink
    size = _jpeg_size(encoded)
    decoded = 1 if size is None else min(shrink, 8)
    if size is not None and decoded == shrink:
        limit = -(-size // shrink)
        first, last = _corners(low, high, limit)
        if np.prod(last - first) < _PART * np.prod(limit):
            return _decode_part(encoded, first, last - first, shrink), first
    picture = _decode_whole(encoded, decoded)
    block = shrink // decoded
    limit = -(-np.array(picture.shape[1::-1]) // block)
    first, last = _corners(low, high, limit)
    (x, y), (right, bottom) = first * block, last * block
    return _block_means(picture[y:bottom, x:right], block), first


def _corners(
    low: np.ndarray, high: np.ndarray, limit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whole pixels (x, y) that cover the window, at least one, in the picture."""
    first = np.minimum(np.maximum(np.floor(low), 0), limit - 1).astype(np.int64)
    return first, np.minimum(np.maximum(np.ceil(high), first + 1), limit).astype(int)


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
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    if picture is None:
        raise ValueError(f"{len(encoded)} bytes do not decode as a picture")
    return picture


def _decode_part(
    encoded: bytes, first: np.ndarray, count: np.ndarray, shrink: int
) -> np.ndarray:
    window = load_tensorflow().raw_ops.DecodeAndCropJpeg(
        contents=encoded,
        crop_window=[first[1], first[0], count[1], count[0]],
        channels=3,
        ratio=shrink,
        dct_method="INTEGER_ACCURATE",
    )
    return np.asarray(memoryview(window))


def _jpeg_size(encoded: bytes) -> np.ndarray | None:
    """(2,) width and height in the frame header of a JPEG; None of another file."""
    if encoded[:2] != b"\xff\xd8":
        return None
    at, end = 2, len(encoded)
    while at + 9 <= end and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == 0xFF or marker in _BARE:  # a byte of padding; no length
            at += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NOT_A_FRAME:
            height = int.from_bytes(encoded[at + 5 : at + 7], "big")
            width = int.from_bytes(encoded[at + 7 : at + 9], "big")
            return np.array([width, height])
        else:
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    raise ValueError(f"{end} bytes begin like a JPEG and have no frame header")
