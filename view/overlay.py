"""2D skeletons drawn on pictures, and sheets of pictures.

Landmarks are in pixels: x right, y down, (0, 0) the outer corner of the first pixel
and (0.5, 0.5) its centre. The right side of a body is blue, the left one red.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline.skeleton import Skeleton

COLOURS = {"right": (37, 99, 235), "left": (220, 38, 38), "centre": (234, 179, 8)}
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


def to_uint8(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 from uint8, from floats in [0, 1], or from one channel.

    Raises:
        ValueError: another shape.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"an image has shape (H, W, 3), this one {image.shape}")
    image = image[..., :3]
    if image.dtype != np.uint8:
        image = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


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
        image: (H, W, 3), uint8 or floats in [0, 1].
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
    picture = Image.fromarray(np.ascontiguousarray(to_uint8(image))).convert("RGBA")
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
    images: Sequence[np.ndarray],
    *,
    columns: int = 6,
    cell: int = 128,
    gap: int = 4,
    background: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray:
    """One picture with all ``images`` in rows, each fitted into a square cell.

    Raises:
        ValueError: no images, or no columns.
    """
    if not len(images) or columns < 1:
        raise ValueError(
            f"a sheet needs images and columns, got {len(images)} and {columns}"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    pitch = cell + gap
    sheet = Image.new("RGB", (columns * pitch + gap, rows * pitch + gap), background)
    for i, image in enumerate(images):
        tile = Image.fromarray(np.ascontiguousarray(to_uint8(image)))
        factor = cell / max(tile.size)
        width, height = (max(1, round(s * factor)) for s in tile.size)
        tile = tile.resize((width, height), Image.Resampling.LANCZOS)
        x = gap + (i % columns) * pitch + (cell - width) // 2
        y = gap + (i // columns) * pitch + (cell - height) // 2
        sheet.paste(tile, (x, y))
    return np.asarray(sheet)


def enlarge(image: np.ndarray, *, at_least: int) -> np.ndarray:
    """The picture with its shorter side at least so long, so that lines stay fine."""
    picture = Image.fromarray(np.ascontiguousarray(to_uint8(image)))
    factor = at_least / min(picture.size)
    if factor <= 1:
        return np.asarray(picture)
    size = (round(picture.width * factor), round(picture.height * factor))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
