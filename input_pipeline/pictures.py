"""Whole pictures and videos of users, and crops from them."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from input_pipeline.augment import draw_patch
from input_pipeline.decoding import (
    LIMIT,
    Upright,
    open_header,
    opened,
    read_orientation,
)

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
# FFmpeg opens by content: lists of other files would be read under these names.
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,m4v"
INSTALL_VIDEO = 'pip install "av>=14,<19"'
Minify = Callable[[tuple[int, int]], float]


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
    stored = open_header(io.BytesIO(encoded))
    if stored.width * stored.height > LIMIT:
        raise ValueError(f"{stored.size} pixels are more than {LIMIT:,}")
    stored.load()
    if read_orientation(stored, size) == 1:
        return stored, False
    return ImageOps.exif_transpose(stored), True


@contextlib.contextmanager
def open_picture(
    file: Path, size: tuple[int, int] | None = None, minify: Minify = lambda size: 1.0
) -> Iterator[Upright]:
    """A picture while the context lasts; for ``size`` see :func:`decode_upright`.

    For ``minify`` see :func:`input_pipeline.decoding.opened`.

    Raises:
        ValueError: it is missing, no file, or does not decode.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not file.exists():
                raise FileNotFoundError
            if not file.is_file():  # a pipe or a device might never end
                raise ValueError("it is no regular file")
            picture = stack.enter_context(opened(file, size, minify))
        except FileNotFoundError as error:
            raise ValueError(f"{file} does not exist; check config.predict") from error
        except Exception as error:  # a broken file makes Pillow raise of any kind
            raise ValueError(
                f"{file} does not decode as a picture ({error}); replace or remove it"
            ) from error
        yield picture


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
    picture: Upright, centre: np.ndarray, half_side: float, size: int
) -> np.ndarray:
    """The crop as training draws it, grey outside of the picture.

    Args:
        picture: decoded.
        centre: (2,) pixels.
        half_side: pixels, above 0.
        size: S, side of the patch, pixels.

    Returns:
        (S, S, 3) uint8.
    """
    if not half_side > 0:
        raise ValueError(f"a crop of half side {half_side} pixels shows nothing")
    unchanged = (np.eye(2), np.ones(3))
    return draw_patch(picture, np.asarray(centre), half_side, *unchanged, size)


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
        with open_video(file) as container:
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
        with open_video(file) as container:
            stream = container.streams.video[0]
            container.seek(times[number], stream=stream)
            for frame in container.decode(stream):
                if frame.pts == times[number]:
                    return _upright(frame)
        # Its times are not those that the file announces: count from the start.
        with open_video(file) as container:
            for i, frame in enumerate(container.decode(video=0)):
                if i == number:
                    return _upright(frame)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{file} does not decode as a video ({error})") from error
    raise ValueError(f"{file} ends before frame {number}")


@functools.lru_cache(maxsize=64)
def _frame_times(file: Path, _changed_ns: int) -> tuple[int, ...]:
    """Time of each shown frame, in the unit of the stream; nothing is decoded."""
    with open_video(file) as container:
        packets = [p for p in container.demux(video=0) if p.size and not p.is_discard]
    times = [p.dts if p.pts is None else p.pts for p in packets]
    return tuple(sorted(-1 if time is None else time for time in times))


def _upright(frame: Any) -> Image.Image:
    # Degrees, counterclockwise, as Pillow counts them.
    angle, picture = frame.rotation, frame.to_image()
    return picture.rotate(angle, expand=True) if angle else picture


def video_facts(file: Path) -> tuple[int, float]:
    """How many frames a file says it has, and how many a second; 0 where it does not.

    Also 0 where it does not open: what reads the video reports it.
    """
    try:
        with open_video(file) as container:
            stream = container.streams.video[0]
            return stream.frames, float(stream.average_rate or 0)
    except Exception:  # PyAV raises of many kinds
        return 0, 0.0


def video_size(file: Path) -> tuple[int, int] | None:
    """Width and height of the frames as they are shown; None where none decodes."""
    try:
        return next(read_video(file))[1].size
    except ValueError:
        return None


def open_video(file: Path) -> Any:
    """PyAV's container of a regular file of one of :data:`VIDEO_FORMATS`."""
    options = {"format_whitelist": VIDEO_FORMATS, "protocol_whitelist": "file"}
    return _load_av(file).open(file, options=options)


def _load_av(file: Path) -> Any:
    try:
        import av
        import av.error
    except ImportError as error:
        raise ValueError(f"{file}: videos need PyAV: {INSTALL_VIDEO}") from error
    if not file.exists():
        raise ValueError(f"{file} does not exist; correct its path")
    if not file.is_file():  # a pipe or a device might never end
        raise ValueError(f"{file} is no regular file; replace or remove it")
    return av
