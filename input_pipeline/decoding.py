"""Decodes only that part of a JPEG or PNG picture that a crop needs.

A JPEG that is reduced by a factor of two or more is decoded at a half, a quarter or an
eighth of its size, which costs less than decoding all of it; each pixel is then the
mean of those that it replaces. Of a JPEG that is much larger than the crop, only the
crop is decoded.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from input_pipeline.tensorflow_setup import load_tensorflow

# TensorFlow can decode a part of a JPEG and OpenCV cannot; OpenCV decodes a whole one
# faster. They are equally fast where the crop is about this part of the picture.
_PART = 1 / 3
Pair = tuple[float, float]
Size = tuple[int, int]
# What Pillow may open, by content: others start programs (EPS) or are rarely tested.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
LIMIT = 2**27  # pixels of a picture in memory; 4 bytes each
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
# Of an orientation: whether to exchange the axes of what is stored, then to mirror x,
# then y.
_TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
_PART_PIXELS = 2**22  # copied at once


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


class Memory:
    """Bytes of memory that may be taken, by threads as well."""

    def __init__(self, free: int) -> None:
        self._free, self._lock = free, threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there was room for so many."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True


class Encoded:
    """A JPEG or PNG of a file; an orientation noted in it is not applied.

    Args:
        encoded: its bytes.
        memory: for what is decoded of it as a whole, which is kept for the next time.
    """

    def __init__(self, encoded: bytes, memory: Memory | None = None) -> None:
        self._encoded, self._memory = encoded, memory
        self._kept: dict[int, np.ndarray] = {}

    @functools.cached_property
    def _size(self) -> Size | None:
        return _jpeg_size(self._encoded)

    def window(self, low: Pair, high: Pair, shrink: int) -> tuple[np.ndarray, Size]:
        """The part between two corners, shrunk to means of square blocks.

        Args:
            low: x, y of a corner in pixels, in or out of the picture.
            high: x, y of the opposite corner.
            shrink: side of the blocks in pixels, a power of 2; the blocks of a picture
                begin at its top left, its border is repeated to fill the last ones.

        Returns:
            (h, w, 3) uint8 RGB, at least one block, and the x, y of its corner in
            blocks.

        Raises:
            DecodeError: the bytes do not decode.
        """
        size = self._size
        decoded = 1 if size is None else min(shrink, 8)
        if size is not None and decoded == shrink:
            columns, rows = (-(-side // shrink) for side in size)
            (x, right), (y, bottom) = _cover(low, high, shrink, (columns, rows))
            if (right - x) * (bottom - y) < _PART * columns * rows:
                where = y, x, bottom - y, right - x
                return _decode_part(self._encoded, where, shrink), (x, y)
        whole = self._kept.get(decoded)
        if whole is None:
            whole = _decode_whole(self._encoded, decoded)
            if self._memory is not None and self._memory.take(whole.nbytes):
                self._kept[decoded] = whole
        return cut_window(whole, low, high, shrink, decoded)


def cut_window(
    picture: np.ndarray, low: Pair, high: Pair, shrink: int, decoded: int = 1
) -> tuple[np.ndarray, tuple[int, int]]:
    """:meth:`Encoded.window` of a picture that is decoded.

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


# --- pictures in memory ------------------------------------------------------------


class Upright:
    """A decoded picture, seen upright and as RGB, of which only parts are copied.

    Attributes:
        size: width and height, upright, in pixels of the file.

    Args:
        stored: decoded, of any mode but floats.
        orientation: as EXIF has it, 1 to 8.
        decoded: how many pixels of the file a pixel of it spans along x and along y.
        size: of the file as it is stored, where that is another.
    """

    def __init__(
        self,
        stored: Image.Image,
        orientation: int = 1,
        decoded: int = 1,
        size: tuple[int, int] | None = None,
    ) -> None:
        if stored.mode == "F":
            raise ValueError("its pixels are floats; save it with 8 or 16 bits")
        self._stored, self._decoded = stored, decoded
        self._turn = _TURNS.get(orientation, (False, False, False))
        self._size = upright_size(stored.size, orientation)
        self.size = upright_size(size or stored.size, orientation)
        self._deep = _is_deep(stored)

    def window(
        self, low: Pair, high: Pair, shrink: int
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """As :meth:`Encoded.window`; blurred where it was decoded at less."""
        if shrink < self._decoded:
            window, (x, y) = self.window(low, high, self._decoded)
            times = self._decoded // shrink
            return window.repeat(times, 0).repeat(times, 1), (x * times, y * times)
        block = shrink // self._decoded
        columns, rows = (-(-side // block) for side in self._size)
        (x, right), (y, bottom) = _cover(low, high, shrink, (columns, rows))
        step = max(_PART_PIXELS // ((right - x) * block**2), 1)
        parts = [
            self._means(x, top, right, min(top + step, bottom), block)
            for top in range(y, bottom, step)
        ]
        return np.concatenate(parts), (x, y)

    def _means(self, x: int, y: int, right: int, bottom: int, block: int) -> np.ndarray:
        """The means of the blocks from x to right and from y to bottom."""
        (width, height), (swap, mirror_x, mirror_y) = self._size, self._turn
        x, right = x * block, min(right * block, width)
        y, bottom = y * block, min(bottom * block, height)
        if mirror_x:
            x, right = width - right, width - x
        if mirror_y:
            y, bottom = height - bottom, height - y
        box = (y, x, bottom, right) if swap else (x, y, right, bottom)
        part = np.asarray(_as_rgb(self._stored.crop(box), self._deep))
        part = part.swapaxes(0, 1) if swap else part
        part = part[:, ::-1] if mirror_x else part
        part = part[::-1] if mirror_y else part
        return _block_means(np.ascontiguousarray(part), block)

    def thumbnail(self, side: int) -> Image.Image:
        """All of it, its longer side at most so many pixels."""
        factor = max(max(self.size) / side, 1.0)
        shrink = max(self._decoded, power_below(factor))
        whole, _ = self.window((0.0, 0.0), self.size, shrink)
        width, height = (max(round(side / factor), 1) for side in self.size)
        return Image.fromarray(whole).resize((width, height), Image.Resampling.LANCZOS)


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height after the turn of an EXIF orientation."""
    width, height = size
    return (height, width) if _TURNS.get(orientation, (False,))[0] else (width, height)


def as_rgb(picture: Image.Image) -> Image.Image:
    """8 bits, three channels; of deeper greys the upper byte, as OpenCV decodes them.

    Raises:
        ValueError: the pixels are floats.
    """
    if picture.mode == "F":
        raise ValueError("its pixels are floats; save it with 8 or 16 bits")
    return _as_rgb(picture, _is_deep(picture))


def _is_deep(picture: Image.Image) -> bool:
    """Whether its greys have 16 bits: Pillow would cut all above 255 to white."""
    if not picture.mode.startswith("I"):
        return False
    return picture.mode != "I" or picture.getextrema()[1] > 255  # type: ignore


def _as_rgb(picture: Image.Image, deep: bool) -> Image.Image:
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        values = np.clip(values >> 8 if deep else values, 0, 255)
        picture = Image.fromarray(values.astype(np.uint8))
    return picture.convert("RGB")


def power_below(factor: float) -> int:
    """The largest power of two that is at most ``factor``; 1 for less."""
    return 2 ** int(math.log2(max(factor, 1.0) * (1 + 1e-6)))


# --- files -------------------------------------------------------------------------


def open_header(source: Any) -> Image.Image:
    """A picture of which nothing is decoded yet; ``source``: a path, or bytes to read.

    Raises:
        ValueError: of none of :data:`FORMATS`, or far larger than :data:`LIMIT`.
    """
    try:
        with _WARNINGS, warnings.catch_warnings():
            # Of pictures that are not far beyond what LIMIT allows.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(source, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(f"it is no picture of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"it has more than {LIMIT:,} pixels; make it smaller"
        ) from error


def read_orientation(picture: Image.Image, labelled: tuple[int, int] | None) -> int:
    """The EXIF orientation; 1 where labels of this size were made without the turn."""
    try:
        orientation = int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF: as if there were none
        return 1
    turned = upright_size(picture.size, orientation)
    before = labelled == picture.size != turned
    return 1 if before or orientation not in _TURNS else orientation


@contextlib.contextmanager
def opened(
    source: Any,
    labelled: tuple[int, int] | None,
    minify: Callable[[tuple[int, int]], float],
) -> Iterator[Upright]:
    """A picture of a file, decoded while the context lasts.

    A JPEG is decoded at a half, a quarter or an eighth where that is enough, or where
    more would be above :data:`LIMIT`. All threads together have about as many pixels
    in memory; further ones wait.

    Args:
        source: a path, or bytes to read.
        labelled: as in :func:`read_orientation`.
        minify: the size of the picture, upright -> how many of its pixels will at
            least be one pixel of what is taken from it.

    Raises:
        Exception: it does not decode; Pillow raises of many kinds.
    """
    with open_header(source) as stored:
        size, decoded, orientation = stored.size, 1, 1
        jpeg, kept = stored.format in ("JPEG", "MPO"), 0
        if jpeg:
            orientation = read_orientation(stored, labelled)
            decoded = min(power_below(minify(upright_size(size, orientation))), 8)
            # A progressive one is also in memory as coefficients of its full size.
            kept = size[0] * size[1] if stored.info.get("progressive") else 0
            while decoded < 8 and math.prod(_shrunk(size, decoded)) + kept > LIMIT:
                decoded *= 2
            # The decoder takes the smallest of its sizes that is at least this.
            stored.draft(None, (max(size[0] // decoded, 1), max(size[1] // decoded, 1)))
            decoded = next(n for n in (1, 2, 4, 8) if stored.size == _shrunk(size, n))
        pixels = stored.width * stored.height
        if pixels > LIMIT:
            raise ValueError(f"its {pixels:,} pixels are more than {LIMIT:,}")
        with _ROOM.taken(pixels + kept):
            stored.load()
            if not jpeg:  # some formats tell it only now
                size, orientation = stored.size, read_orientation(stored, labelled)
            yield Upright(stored, orientation, decoded, size)


def _shrunk(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return -(-size[0] // factor), -(-size[1] // factor)


class _Room:
    """Pixels that threads may have in memory at once; a larger picture comes alone."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Waits until there is room."""
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_ROOM, _WARNINGS = _Room(LIMIT), threading.Lock()


# --- decoders of parts -------------------------------------------------------------


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
        return open_header(io.BytesIO(encoded)).size
    except ValueError as error:
        begins = f"{len(encoded)} bytes begin like a JPEG"
        raise DecodeError(f"{begins} and have no frame header") from error
