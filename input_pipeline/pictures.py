"""Whole pictures and videos of users, and crops from them."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from input_pipeline.augment import draw_patch

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
INSTALL_VIDEO = 'pip install "av>=14,<19"'
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


def decode_upright(
    encoded: bytes, size: tuple[int, int] | None = None
) -> tuple[Image.Image, bool]:
    """Decodes a picture and turns it as its EXIF orientation says.

    Args:
        encoded: the bytes of the file.
        size: (width, height) that annotations give it: where that is the size
            before the turn and not after it, they were made without the turn, and
            the picture is left as it is stored.

    Returns:
        The picture in its own mode, and whether it was turned.

    Raises:
        Exception: the bytes do not decode; Pillow raises of many kinds.
    """
    try:
        stored = Image.open(io.BytesIO(encoded))
    except UnidentifiedImageError as error:
        start = f"{len(encoded)} bytes that begin with {encoded[:8]!r}"
        raise ValueError(f"no picture: {start}") from error
    stored.load()
    try:
        orientation = stored.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF: as if there were none
        orientation = 1
    if orientation not in range(2, 9):
        return stored, False
    turned = ImageOps.exif_transpose(stored)
    labelled_before = size == stored.size != turned.size
    return (stored, False) if labelled_before else (turned, True)


def as_rgb(picture: Image.Image) -> Image.Image:
    """8 bits, three channels; of deeper greys the upper byte, as OpenCV decodes them.

    Raises:
        ValueError: the pixels are floats.
    """
    if picture.mode.startswith("I"):  # Pillow would cut all above 255 to white
        values = np.asarray(picture).astype(np.int64)
        deep = picture.mode != "I" or values.max(initial=0) > 255
        values = np.clip(values >> 8 if deep else values, 0, 255)
        picture = Image.fromarray(values.astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("its pixels are floats; save it with 8 or 16 bits")
    return picture.convert("RGB")


def open_picture(file: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture as upright RGB; for ``size`` see :func:`decode_upright`.

    Raises:
        ValueError: the file is missing or does not decode.
    """
    try:
        return as_rgb(decode_upright(file.read_bytes(), size)[0])
    except FileNotFoundError as error:
        raise ValueError(f"{file} does not exist; check config.predict") from error
    except Exception as error:  # a broken file makes Pillow raise of any kind
        raise ValueError(
            f"{file} does not decode as a picture ({error}); replace or remove it"
        ) from error


def picture_of_array(array: np.ndarray, name: str) -> Image.Image:
    """An RGB picture of a uint8 array (H, W, 3), (H, W, 1) or (H, W).

    Raises:
        ValueError: another dtype or shape; ``name`` says which array.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    colours = array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (colours or array.ndim == 2) or not array.size:
        raise ValueError(
            f"{name} is an array of {array.dtype}, {array.shape}; "
            "give uint8 of shape (height, width, 3)"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def cut_patch(
    picture: Image.Image, centre: np.ndarray, half_side: float, size: int
) -> np.ndarray:
    """The crop as training draws it, grey outside of the picture.

    Args:
        picture: RGB.
        centre: (2,) pixels.
        half_side: pixels, above 0.
        size: S, side of the patch, pixels.

    Returns:
        (S, S, 3) uint8.
    """
    if not half_side > 0:
        raise ValueError(f"a crop of half side {half_side} pixels shows nothing")
    array, unchanged = np.asarray(picture.convert("RGB")), (np.eye(2), np.ones(3))
    return draw_patch(array, np.asarray(centre), half_side, *unchanged, size)


# --- videos ------------------------------------------------------------------------


def is_video(file: Path) -> bool:
    """Whether the name is that of a video."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def read_video(file: Path, every: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Each ``every``-th frame as (number from 0, RGB), turned as the file says.

    Raises:
        ValueError: PyAV is not installed; the file is missing, holds no pictures, or
            does not decode (then the frames before that were given).
    """
    av = _load_av(file)
    number = -1
    try:
        with av.open(file) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    yield number, _upright(frame)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(
            f"{file} does not decode as a video after frame {number} ({error})"
        ) from error
    if number < 0:
        raise ValueError(f"{file} is a video without a frame; replace or remove it")


def read_frame(file: Path, number: int) -> Image.Image:
    """The frame with that number from 0, as :func:`read_video` counts and turns it.

    It is decoded from the last key frame before it, without those before that.

    Raises:
        ValueError: as :func:`read_video`, or there is no such frame.
    """
    av = _load_av(file)
    try:
        times = _frame_times(file, file.stat().st_mtime_ns)
        if number >= len(times):
            raise ValueError(f"{file} has {len(times)} frames and no number {number}")
        with av.open(file) as container:
            stream = container.streams.video[0]
            container.seek(times[number], stream=stream)
            for frame in container.decode(stream):
                if frame.pts == times[number]:
                    return _upright(frame)
        # Its times are not those that the file announces: count from the start.
        with av.open(file) as container:
            for i, frame in enumerate(container.decode(video=0)):
                if i == number:
                    return _upright(frame)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{file} does not decode as a video ({error})") from error
    raise ValueError(f"{file} ends before frame {number}")


@functools.lru_cache(maxsize=64)
def _frame_times(file: Path, _changed_ns: int) -> tuple[int, ...]:
    """Time of each shown frame, in the unit of the stream; nothing is decoded."""
    with _load_av(file).open(file) as container:
        packets = [p for p in container.demux(video=0) if p.size and not p.is_discard]
    times = [p.dts if p.pts is None else p.pts for p in packets]
    return tuple(sorted(-1 if time is None else time for time in times))


def _load_av(file: Path) -> Any:
    try:
        import av
        import av.error
    except ImportError as error:
        raise ValueError(f"{file}: videos need PyAV: {INSTALL_VIDEO}") from error
    if not file.is_file():
        raise ValueError(f"{file} does not exist; correct its path")
    return av


def _upright(frame: Any) -> Image.Image:
    # Degrees, counterclockwise, as Pillow counts them.
    angle, picture = frame.rotation, frame.to_image()
    return picture.rotate(angle, expand=True) if angle else picture


def video_length(file: Path) -> int:
    """How many frames the file says it has; 0 where it does not say or open."""
    try:
        import av

        with av.open(file) as container:
            return container.streams.video[0].frames
    except Exception:  # of any kind; what reads the video reports it
        return 0
