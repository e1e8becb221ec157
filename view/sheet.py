"""Sheets of labelled crops, and one pose in both readings of its depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline.skeleton import Skeleton
from view.overlay import contact_sheet, draw_skeleton, to_uint8

CELL = 192
CAPTION = 16  # pixels below a crop
GREY = (128, 128, 128)


def crop_square(
    image: Image.Image, centre: np.ndarray, half_side: float, *, size: int = CELL
) -> np.ndarray:
    """The square of a picture around ``centre``, drawn with ``size`` pixels a side.

    What lies beyond the picture is grey.

    Args:
        image: any mode that converts to RGB.
        centre: (2,) pixels.
        half_side: pixels; at least one pixel is shown.
        size: S.

    Returns:
        (S, S, 3) uint8.
    """
    half = max(float(half_side), 0.5)
    low = np.asarray(centre, np.float64) - half
    # Only the window is converted: the picture may be large.
    first = np.clip(np.floor(low), 0, np.array(image.size) - 1).astype(int)
    last = np.clip(np.ceil(low + 2 * half), first + 1, image.size).astype(int)
    window = image.crop((*first.tolist(), *last.tolist())).convert("RGB")
    factor = size / (2 * half)
    shape = np.maximum(np.rint((last - first) * factor), 1).astype(int)
    shrunk = window.resize((int(shape[0]), int(shape[1])), Image.Resampling.BILINEAR)
    sheet = Image.new("RGB", (size, size), GREY)
    at = np.rint((first - low) * factor).astype(int)
    sheet.paste(shrunk, (int(at[0]), int(at[1])))
    return np.asarray(sheet)


def labelled_tile(
    image: Image.Image,
    keypoints: np.ndarray,
    labelled: np.ndarray,
    skeleton: Skeleton,
    *,
    centre: np.ndarray,
    half_side: float,
    caption: str,
    size: int = CELL,
) -> np.ndarray:
    """A crop with its skeleton and a line of text below, (S + CAPTION, S, 3) uint8.

    Args:
        image: the picture.
        keypoints: (P, 2) pixels of the picture.
        labelled: (P,) bool; the others are left out.
        skeleton: bones and sides.
        centre: (2,) pixels, middle of the crop.
        half_side: pixels.
        caption: cut from the front where it is too long.
        size: S.
    """
    half = max(float(half_side), 0.5)
    crop = crop_square(image, centre, half, size=size)
    points = (np.asarray(keypoints) - centre) / half * (size / 2) + size / 2
    drawn = draw_skeleton(crop, points, skeleton, labelled=labelled)
    return with_caption(drawn, caption)


def with_caption(image: np.ndarray, caption: str) -> np.ndarray:
    """The picture with a line of text below it."""
    image = to_uint8(image)
    height, width = image.shape[:2]
    tile = Image.new("RGB", (width, height + CAPTION), (255, 255, 255))
    tile.paste(Image.fromarray(np.ascontiguousarray(image)), (0, 0))
    pen = ImageDraw.Draw(tile)
    # The built-in font has Latin letters only.
    text = caption.encode("latin-1", "replace").decode("latin-1")
    while len(text) > 4 and pen.textlength(text) > width - 4:
        text = "..." + text.lstrip(".")[1:]
    pen.text((2, height + 2), text, fill=(40, 40, 40))
    return np.asarray(tile)


def tile_sheet(tiles: Sequence[np.ndarray], *, columns: int = 6) -> np.ndarray:
    """All tiles in rows; ValueError where there are none."""
    cell = max(max(tile.shape[:2]) for tile in tiles) if tiles else CELL
    return contact_sheet(tiles, columns=columns, cell=cell)


def side_view(
    pose: np.ndarray,
    skeleton: Skeleton,
    *,
    labelled: np.ndarray | None = None,
    size: int = 2 * CELL,
) -> np.ndarray:
    """A pose seen from its left: the camera stands at the left edge.

    Args:
        pose: (P, 3) in the camera frame: x right, y down, z away from the camera.
        skeleton: bones and sides.
        labelled: (P,) bool; the others are drawn too where None.
        size: S, side of the drawing in pixels.

    Returns:
        (S, S, 3) uint8: z to the right, y down.
    """
    flat = np.asarray(pose, np.float64)[:, [2, 1]]
    flat = flat - (flat.min(axis=0) + flat.max(axis=0)) / 2
    reach = max(float(np.abs(flat).max()), 1e-9)
    points = size * (0.56 + 0.36 * flat / reach)
    points[:, 1] -= 0.06 * size
    paper = Image.new("RGB", (size, size), (250, 250, 250))
    pen = ImageDraw.Draw(paper)
    middle = size // 2
    pen.polygon(  # the camera, looking to the right
        [(8, middle - 12), (24, middle - 12), (24, middle + 12), (8, middle + 12)],
        fill=(90, 90, 90),
    )
    pen.polygon([(24, middle), (34, middle - 10), (34, middle + 10)], fill=(90, 90, 90))
    pen.line([(40, size - 14), (size - 14, size - 14)], fill=(150, 150, 150), width=2)
    pen.text((40, size - 30), "near", fill=(90, 90, 90))
    pen.text((size - 36, size - 30), "far", fill=(90, 90, 90))
    return draw_skeleton(np.asarray(paper), points, skeleton, labelled=labelled)


def depth_readings(
    crop: np.ndarray,
    pose: np.ndarray,
    skeleton: Skeleton,
    *,
    size: int = 2 * CELL,
    caption: str = "",
) -> np.ndarray:
    """One sample and its two readings in depth, side by side.

    Args:
        crop: the picture with its skeleton, any size.
        pose: (P, 3) with ``depth_sign = +1``, camera frame.
        skeleton: bones and sides.
        size: side of each of the three drawings.
        caption: below the picture.

    Returns:
        A row of three: the picture, the side view for +1, that for -1.
    """
    picture = Image.fromarray(np.ascontiguousarray(to_uint8(crop)))
    shown = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    mirrored = np.asarray(pose) * np.array([1.0, 1.0, -1.0])
    tiles = [
        with_caption(shown, caption),
        with_caption(side_view(pose, skeleton, size=size), "depth_sign = 1"),
        with_caption(side_view(mirrored, skeleton, size=size), "depth_sign = -1"),
    ]
    return tile_sheet(tiles, columns=3)
