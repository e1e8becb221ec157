"""Finding and decoding pictures, cutting patches out of them, without TensorFlow."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from input_pipeline.augment import draw_patch

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
INSTALL_VIDEO = 'pip install "av>=14,<19"'


def find_files(images: str) -> list[Path]:
    """The pictures and videos that a text names.

    Args:
        images: a file, a folder (the pictures in it), a pattern with ``*``, or several
            of them separated by commas.

    Raises:
        ValueError: nothing named, or a part that names no picture.
    """
    if not images.strip():
        raise ValueError("config.predict.images is empty; give a folder or a picture")
    whole = Path(images)  # a name may hold a comma or a star itself
    parts = [images] if whole.exists() else [p.strip() for p in images.split(",")]
    files = [file for part in parts if part for file in _files_of(part)]
    return list(dict.fromkeys(files))


def _files_of(part: str) -> list[Path]:
    path = Path(part)
    if path.is_dir():
        inside = sorted(path.iterdir())
        files = [f for f in inside if f.suffix.lower() in SUFFIXES]
        videos = [f for f in inside if is_video(f)]
        hint = (
            f", but {len(videos)} videos; name one, or '{path}/*{videos[0].suffix}'"
            if videos
            else f" ({', '.join(SUFFIXES)}); give another folder"
        )
        if not files:
            raise ValueError(f"config.predict.images = {path} holds no picture{hint}")
        return files
    if path.exists() or not glob.has_magic(part):
        return [path]  # one that is missing is reported when it is opened
    found = [Path(name) for name in sorted(glob.glob(part, recursive=True))]
    files = [f for f in found if f.suffix.lower() in SUFFIXES or is_video(f)]
    if not files:
        raise ValueError(
            f"config.predict.images = {part} matches {len(found)} files and no picture "
            "or video among them; give another pattern"
        )
    return files


def is_video(file: Path) -> bool:
    """Whether the name is that of a video."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def read_video(file: Path, every: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """The frames of a video as (number from 0, RGB), turned as the file says.

    Args:
        file: the video.
        every: 1 for all frames, n for each n-th one.

    Raises:
        ValueError: PyAV is not installed; the file is missing, holds no pictures, or
            does not decode (then the frames before that were given).
    """
    try:
        import av
        import av.error
    except ImportError as error:
        raise ValueError(f"{file}: videos need PyAV: {INSTALL_VIDEO}") from error
    if not file.is_file():
        raise ValueError(f"{file} does not exist; check config.predict")
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


def _upright(frame: Any) -> Image.Image:
    picture = frame.to_image()
    angle = frame.rotation  # degrees, counterclockwise, as Pillow counts them
    return picture.rotate(angle, expand=True) if angle else picture


def video_length(file: Path) -> int:
    """How many frames the file says it has; 0 where it does not say or open."""
    try:
        import av

        with av.open(file) as container:
            return container.streams.video[0].frames
    except Exception:  # of any kind; what reads the video reports it
        return 0


def picture_of_array(array: np.ndarray, name: str) -> Image.Image:
    """An RGB picture of an array.

    Args:
        array: uint8, (H, W, 3), (H, W, 1) or (H, W).
        name: for messages.

    Raises:
        ValueError: another dtype or shape.
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


def open_picture(file: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Decodes a picture as RGB, turned as its EXIF orientation says.

    Args:
        file: the picture.
        size: (width, height) that annotations give it: where that is the size
            before the turn and not after it, they were made without the turn, and
            the picture is left as it is stored.

    Raises:
        ValueError: the file is missing or does not decode.
    """
    try:
        with Image.open(file) as picture:
            stored = picture.size
            picture.load()
            turned = ImageOps.exif_transpose(picture)
            upright = size is not None and size == stored != turned.size
            return _rgb(picture if upright else turned)
    except FileNotFoundError as error:
        raise ValueError(f"{file} does not exist; check config.predict") from error
    except Exception as error:  # a broken file makes Pillow raise of any kind
        raise ValueError(
            f"{file} does not decode as a picture ({error}); replace or remove it"
        ) from error


def _rgb(picture: Image.Image) -> Image.Image:
    """8 bits, three channels; deeper greys by their upper byte, as TensorFlow's."""
    if picture.mode.startswith("I"):  # Pillow would cut all above 255 to white
        values = np.asarray(picture).astype(np.int64)
        deep = picture.mode != "I" or values.max(initial=0) > 255
        values = np.clip(values >> 8 if deep else values, 0, 255)
        picture = Image.fromarray(values.astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("its pixels are floats; save it with 8 or 16 bits")
    return picture.convert("RGB")


def cut_patch(
    picture: Image.Image, centre: np.ndarray, half_side: float, size: int
) -> np.ndarray:
    """The crop as training draws it, grey outside of the picture.

    Args:
        picture: RGB.
        centre: (2,) pixels.
        half_side: pixels, above 0.
        size: side of the patch, pixels.

    Returns:
        (size, size, 3) uint8.
    """
    if not half_side > 0:
        raise ValueError(f"a crop of half side {half_side} pixels shows nothing")
    array, unchanged = np.asarray(picture.convert("RGB")), (np.eye(2), np.ones(3))
    return draw_patch(array, np.asarray(centre), half_side, *unchanged, size)
