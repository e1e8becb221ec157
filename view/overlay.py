"""2D skeletons drawn on pictures, and sheets of such pictures.

Landmarks are in pixels: x right, y down, (0, 0) the outer corner of the first pixel
and (0.5, 0.5) its centre. The right side of a body is blue, the left one red.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from input_pipeline.skeleton import Skeleton

COLOURS = {"right": (37, 99, 235), "left": (220, 38, 38), "centre": (234, 179, 8)}
CAPTION = 16  # pixels of a line of text below a picture
_OUTLINE = (255, 255, 255)


def bone_sides(skeleton: Skeleton) -> tuple[str, ...]:
    """``"left"``, ``"right"`` or ``"centre"`` for each edge of the skeleton.

    A bone belongs to the side of its ends; one that joins both sides, or neither,
    is central.
    """
    sides = []
    for edge in skeleton.edges:
        ends = {skeleton.sides[i] for i in edge} - {"centre"}
        sides.append(ends.pop() if len(ends) == 1 else "centre")
    return tuple(sides)


def draw_skeleton(
    image: np.ndarray,
    keypoints_2d: np.ndarray,
    skeleton: Skeleton,
    *,
    labelled: np.ndarray | None = None,
    line_width: float | None = None,
    supersample: int = 4,
) -> np.ndarray:
    """Draws landmarks and bones on a picture.

    Args:
        image: (H, W, 3) uint8.
        keypoints_2d: (P, 2) pixels; NaN means missing.
        skeleton: bones and sides of the P joints.
        labelled: (P,) bool; False joints and their bones are left out.
        line_width: of the bones, in pixels; by default 1/90 of the longer side.
        supersample: how much finer the lines are drawn before they are averaged.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the number of landmarks is not that of the skeleton.
    """
    points = np.asarray(keypoints_2d, np.float64)
    if points.shape != (skeleton.num_joints, 2):
        raise ValueError(
            f"skeleton {skeleton.name!r} has {skeleton.num_joints} joints, the "
            f"landmarks have shape {points.shape}"
        )
    shown = np.asarray(np.isfinite(points).all(axis=-1))
    if labelled is not None:
        shown = shown & np.asarray(labelled, bool)
    picture = Image.fromarray(image).convert("RGBA")
    width = line_width or max(1.5, max(picture.size) / 90)
    layer = _draw_layer(picture.size, points, shown, skeleton, width, supersample)
    return np.asarray(Image.alpha_composite(picture, layer).convert("RGB"))


def _draw_layer(
    size: tuple[int, int],
    points: np.ndarray,
    shown: np.ndarray,
    skeleton: Skeleton,
    width: float,
    scale: int,
) -> Image.Image:
    """The lines alone, on a transparent ground, antialiased."""
    layer = Image.new("RGBA", (size[0] * scale, size[1] * scale))
    pen = ImageDraw.Draw(layer)
    # Pillow names a pixel by its centre: outer-corner coordinates are half a pixel on.
    # It also cuts fractions off, which would pull every mark up and to the left.
    at = np.rint(np.where(shown[:, None], points, 0.0) * scale - 0.5)
    bones = [
        (tuple(at[a]), tuple(at[b]), COLOURS[side])
        for (a, b), side in zip(skeleton.edges, bone_sides(skeleton), strict=True)
        if shown[a] and shown[b]
    ]
    thick = width * scale
    for start, end, _ in bones:
        pen.line([start, end], fill=(*_OUTLINE, 130), width=round(1.8 * thick))
    for start, end, colour in bones:
        pen.line([start, end], fill=(*colour, 255), width=round(thick))
    for i in np.flatnonzero(shown):
        radius = round(1.05 * thick)
        box = [*(at[i] - radius), *(at[i] + radius)]
        pen.ellipse(
            box,
            fill=(*COLOURS[skeleton.sides[i]], 255),
            outline=(*_OUTLINE, 255),
            width=max(1, round(0.3 * thick)),
        )
    return layer.resize(size, Image.Resampling.BOX)


def contact_sheet(
    images: Sequence[np.ndarray], *, columns: int = 6, cell: int = 0, gap: int = 4
) -> np.ndarray:
    """One picture with all ``images`` in rows, each fitted into a square cell.

    ``cell`` is its side in pixels, 0: that of the largest picture.

    Raises:
        ValueError: no images, or no columns.
    """
    if not len(images) or columns < 1:
        raise ValueError(
            f"a sheet needs images and columns, got {len(images)} and {columns}"
        )
    cell = cell or max(max(image.shape[:2]) for image in images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    pitch = cell + gap
    sheet = Image.new("RGB", (columns * pitch + gap, rows * pitch + gap), "white")
    for i, image in enumerate(images):
        tile = Image.fromarray(image)
        tile = ImageOps.contain(tile, (cell, cell), Image.Resampling.LANCZOS)
        x = gap + (i % columns) * pitch + (cell - tile.width) // 2
        y = gap + (i // columns) * pitch + (cell - tile.height) // 2
        sheet.paste(tile, (x, y))
    return np.asarray(sheet)


def enlarge(image: np.ndarray, *, at_least: int) -> np.ndarray:
    """The picture with its shorter side at least so long, so that lines stay fine."""
    picture = Image.fromarray(image)
    factor = max(at_least / min(picture.size), 1)
    return np.asarray(ImageOps.scale(picture, factor, Image.Resampling.BICUBIC))


def with_caption(image: np.ndarray, caption: str) -> np.ndarray:
    """The picture with a line of text below it, cut from the front if too long."""
    picture = Image.fromarray(image)
    width, height = picture.size
    tile = Image.new("RGB", (width, height + CAPTION), "white")
    tile.paste(picture)
    pen = ImageDraw.Draw(tile)
    # The built-in font has Latin letters only.
    text = caption.encode("latin-1", "replace").decode("latin-1")
    while len(text) > 4 and pen.textlength(text) > width - 4:
        text = "..." + text.lstrip(".")[1:]
    pen.text((2, height + 2), text, fill=(40, 40, 40))
    return np.asarray(tile)


def side_view(pose: np.ndarray, skeleton: Skeleton, *, size: int = 384) -> np.ndarray:
    """A pose (P, 3) of the camera frame seen from its left, size x size pixels.

    The camera stands at the left edge; z grows to the right, y down.
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
    return draw_skeleton(np.asarray(paper), points, skeleton)


def depth_readings(
    crop: np.ndarray,
    pose: np.ndarray,
    skeleton: Skeleton,
    *,
    size: int = 384,
    caption: str = "",
) -> np.ndarray:
    """One sample and its two readings in depth, three squares of ``size`` in a row.

    The picture ``crop`` with its caption, the side view of the ``pose`` (P, 3), which
    is that of ``depth_sign = +1`` in the camera frame, and that for -1.
    """
    shown = Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC)
    mirrored = np.asarray(pose) * np.array([1.0, 1.0, -1.0])
    tiles = [
        with_caption(np.asarray(shown), caption),
        with_caption(side_view(pose, skeleton, size=size), "depth_sign = 1"),
        with_caption(side_view(mirrored, skeleton, size=size), "depth_sign = -1"),
    ]
    return contact_sheet(tiles, columns=3)
