"""Decoding pictures and cutting patches out of them, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# As input_pipeline.augment draws what lies outside a picture, and how far past the
# crop its window reaches.
FILL = 124.0
MARGIN_PX = 2.0


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
            return (picture if upright else turned).convert("RGB")
    except FileNotFoundError as error:
        raise ValueError(f"{file} does not exist; check config.predict") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{file} does not decode as a picture ({error}); replace or remove it"
        ) from error


def cut_patch(
    picture: Image.Image, centre: np.ndarray, half_side: float, size: int
) -> np.ndarray:
    """The crop as training draws it: area averages, then bilinear, grey outside.

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
    centre = np.asarray(centre, np.float64)
    reach = float(half_side) + MARGIN_PX
    limit = np.array(picture.size)
    low = np.clip(np.floor(centre - reach), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(centre + reach), low + 1, limit).astype(int)
    shape = high - low
    step = 2.0 * float(half_side) / size  # pixels of the picture per patch pixel
    box = (*low.tolist(), *high.tolist())
    window = np.asarray(picture.crop(box).convert("RGB"), np.float64)
    corner = centre - half_side - low
    rows, columns = (
        _resampling(int(shape[axis]), float(corner[axis]), step, size)
        for axis in (1, 0)
    )
    drawn = np.einsum("iy,yxc->ixc", rows, window)
    drawn = np.einsum("jx,ixc->ijc", columns, drawn)
    # What the weights of a pixel lack in the picture lies outside of it.
    inside = rows.sum(1)[:, None] * columns.sum(1)
    drawn += FILL * (1.0 - inside)[..., None]
    return np.clip(np.round(drawn), 0, 255).astype(np.uint8)


def _resampling(count: int, start: float, step: float, size: int) -> np.ndarray:
    """(size, count) weights along one axis: area averages, then linear interpolation.

    Args:
        count: pixels of the window.
        start: where in it the patch begins.
        step: pixels of the window per pixel of the patch.
        size: pixels of the patch.
    """
    reduced = max(round(count / max(step, 1.0)), 1)
    edges = np.linspace(0, count, reduced + 1)
    pixels = np.arange(count)
    low = np.maximum(edges[:-1, None], pixels)
    high = np.minimum(edges[1:, None], pixels + 1)
    area = np.maximum(high - low, 0.0) * (reduced / count)
    at = (start + step * (np.arange(size) + 0.5)) * (reduced / count) - 0.5
    linear = np.maximum(1.0 - np.abs(at[:, None] - np.arange(reduced)), 0.0)
    return linear @ area
