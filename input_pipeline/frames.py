"""One picture, wherever it lies: a file, or a frame of a video or of a SLEAP package.

A frame is called ``clip.mp4#12``, counted from 0, and a picture inside of a package
``labels.pkg.slp#video0/video#3``: row 3 of that array. Such names stand where the path
of a picture does.
"""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from input_pipeline.decoding import open_header
from input_pipeline.formats.hdf5 import own_dataset
from input_pipeline.pictures import VIDEO_SUFFIXES, picture_of_array, read_frame
from runtime.reading import read_bytes

_FRAME = re.compile(
    rf"(?P<file>.+?({'|'.join(map(re.escape, VIDEO_SUFFIXES))}|\.slp))#"
    r"((?P<array>[^#]+)#)?(?P<number>\d{1,18})",
    re.IGNORECASE,
)
# Nearly lossless, and training decodes only the part of a JPEG that it crops.
_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}


def is_file(path: Path) -> bool:
    """``path.is_file()``, False also for what cannot be a path at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def holder(picture: Path) -> Path:
    """The file on the disk that a picture lies in."""
    found = None if is_file(picture) else _FRAME.fullmatch(str(picture))
    return Path(found["file"]) if found else picture


def is_there(picture: Path) -> bool:
    """Whether there is such a file, or one that could have such a frame."""
    return is_file(holder(picture))


def read_encoded(picture: Path) -> bytes:
    """The picture as the bytes of a picture file.

    Raises:
        OSError: the file is missing or unreadable.
        ValueError: no such frame, or a package that is needed is not installed.
    """
    found = None if is_file(picture) else _FRAME.fullmatch(str(picture))
    if not found:
        return read_bytes(picture)
    file, number = Path(found["file"]), int(found["number"])
    if found["array"]:
        return _read_embedded(file, found["array"], number)
    buffer = io.BytesIO()
    read_frame(file, number).save(buffer, **_JPEG)
    return buffer.getvalue()


def _read_embedded(file: Path, name: str, row: int) -> bytes:
    """Row ``row`` of an array of pictures, encoded each or plain (N, H, W, C)."""
    with h5py.File(file, "r", locking=False) as package:
        array = own_dataset(package, name)
        if not row < len(array):
            raise ValueError(f"{file} has no picture {name}#{row}")
        kind = _text(array.attrs.get("format", "hdf5"))
        # As OpenCV writes them where nothing else is said.
        order = _text(array.attrs.get("channel_order", "BGR"))
        values = np.asarray(array[row])
    buffer = io.BytesIO()
    if kind == "hdf5":
        picture_of_array(values, f"{name}#{row}").save(buffer, format="PNG")
        return buffer.getvalue()
    encoded = values.astype(np.uint8).tobytes()
    image = open_header(io.BytesIO(encoded))
    if order != "BGR" or image.mode != "RGB":
        return encoded
    Image.fromarray(np.asarray(image)[..., ::-1]).save(buffer, format="PNG")
    return buffer.getvalue()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@functools.lru_cache(maxsize=100_000)
def picture_size(picture: Path) -> tuple[int, int] | None:
    """(width, height) of the upright picture, by its header; None where that fails."""
    try:
        image = open_header(io.BytesIO(read_encoded(picture)))
        across = image.getexif().get(0x0112, 1) in range(5, 9)
    except Exception:  # of any kind; what decodes the picture reports it
        return None
    return (image.height, image.width) if across else image.size
