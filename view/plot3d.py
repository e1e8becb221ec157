"""Drawings of 3D poses as SVG, from the front or from the side, or turned.

Poses are (P, 3) in the camera frame: x right, y down, z away from the camera. They are
compared after the alignment of the evaluation: centred over the joints and scaled to
the same average bone length.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline.skeleton import Skeleton
from view import overlay

# The axes drawn to the right and down, and the one that points away from the viewer
# with its sign. From the side, the camera is on the left and looks to the right.
VIEWS = {"front": (0, 1), "side": (2, 1)}
_AWAY = {"front": (2, 1.0), "side": (0, -1.0)}


def normalise_pose(pose: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Centred over the joints, average bone length 1; NaN joints stay NaN.

    Raises:
        ValueError: the shape is not that of the skeleton.
    """
    pose = np.asarray(pose, np.float64)
    if pose.shape != (skeleton.num_joints, 3):
        raise ValueError(
            f"skeleton {skeleton.name!r} has {skeleton.num_joints} joints, the pose "
            f"has shape {pose.shape}"
        )
    known = np.asarray(np.isfinite(pose).all(axis=-1))
    if not known.any():
        return pose
    pose = pose - pose[known].mean(0)
    lengths = [
        np.linalg.norm(pose[a] - pose[b])
        for a, b in skeleton.edges
        if known[a] and known[b]
    ]
    scale = float(np.mean(lengths)) if lengths else 0.0
    return pose / scale if scale > 0 else pose


def pose_reach(poses: Sequence[np.ndarray], skeleton: Skeleton) -> tuple[float, float]:
    """How far poses reach sideways, however turned, and up or down.

    In average bone lengths from their centres, with a small margin.
    """
    poses = [normalise_pose(pose, skeleton) for pose in poses]
    joints = np.concatenate([np.zeros((0, 3)), *poses])
    joints = joints[np.isfinite(joints).all(axis=-1)]
    if not len(joints):
        return 1.0, 1.0
    sideways = np.hypot(joints[:, 0], joints[:, 2]).max()
    upright = np.abs(joints[:, 1]).max()
    return max(1.05 * float(sideways), 1e-3), max(1.05 * float(upright), 1e-3)


def pose_svg(
    pose: np.ndarray,
    skeleton: Skeleton,
    *,
    view: str = "side",
    reference: np.ndarray | None = None,
    size: tuple[int, int] = (110, 150),
    reach: tuple[float, float] | None = None,
) -> str:
    """One pose as an SVG drawing.

    Args:
        pose: (P, 3), any unit.
        skeleton: bones and sides.
        view: ``"front"`` or ``"side"`` (the camera is on the left).
        reference: (P, 3) drawn in grey behind it, e.g. the truth.
        size: (width, height) of the drawing, in pixels.
        reach: what must find room, see :func:`pose_reach`; by default the two
            poses. Give the same to all drawings to be compared.
    """
    if reach is None:
        reach = pose_reach([p for p in (pose, reference) if p is not None], skeleton)
    unit = min(size[0] / reach[0], size[1] / reach[1]) / 2
    lines = "" if reference is None else _bones(reference, skeleton, view, unit, True)
    lines += _bones(pose, skeleton, view, unit)
    width, height = size
    return (
        f'<svg class="pose" width="{width}" height="{height}" role="img" '
        f'aria-label="{view} view" '
        f'viewBox="{-width / 2} {-height / 2} {width} {height}">{lines}</svg>'
    )


def _bones(
    pose: np.ndarray, skeleton: Skeleton, view: str, unit: float, ghost: bool = False
) -> str:
    """Line elements, from the farthest bone to the nearest."""
    pose = normalise_pose(pose, skeleton)
    flat = unit * pose[:, VIEWS[view]]
    axis, sign = _AWAY[view]
    drawn = []
    for (a, b), side in zip(skeleton.edges, overlay.bone_sides(skeleton), strict=True):
        if not np.isfinite(pose[[a, b]]).all():
            continue
        (x1, y1), (x2, y2) = flat[a], flat[b]
        css = "ghost" if ghost else side
        line = f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" '
        line += f'x2="{x2:.1f}" y2="{y2:.1f}"/>'
        drawn.append((sign * (pose[a, axis] + pose[b, axis]), line))
    drawn.sort(key=lambda bone: -bone[0])
    return "".join(line for _, line in drawn)


def turning_view(
    pose: np.ndarray, skeleton: Skeleton, *, yaw: float, reach: float, size: int
) -> np.ndarray:
    """A pose as a camera sees it that goes round it, a little from above.

    Args:
        pose: (P, 3), any unit; joints with NaN are left out.
        skeleton: bones and sides.
        yaw: how far the camera has gone, radians; 0: the camera of the picture.
        reach: what must find room about the middle, in average bone lengths; see
            :func:`pose_reach`.
        size: side of the drawing, pixels.

    Returns:
        (size, size, 3) uint8.
    """
    unit, tilt = 0.45 * size / reach, 0.2

    def seen(points: np.ndarray) -> np.ndarray:
        """x and y in the drawing, and the depth."""
        x, y, z = points.T
        x, z = [
            math.cos(yaw) * x + math.sin(yaw) * z,
            math.cos(yaw) * z - math.sin(yaw) * x,
        ]
        y, z = [
            math.cos(tilt) * y - math.sin(tilt) * z,
            math.sin(tilt) * y + math.cos(tilt) * z,
        ]
        return np.stack([size / 2 + unit * x, size / 2 + unit * y, z], axis=1)

    points = normalise_pose(pose, skeleton)
    paper = Image.new("RGB", (size, size), (250, 250, 250))
    pen = ImageDraw.Draw(paper)
    ground, side = np.nanmax(points[:, 1], initial=0.0) + 0.05, 0.7 * reach
    for a in np.linspace(-side, side, 5):
        for line in (
            [[a, ground, -side], [a, ground, side]],
            [[-side, ground, a], [side, ground, a]],
        ):
            pen.line(
                [tuple(p) for p in seen(np.array(line))[:, :2]], fill=(215, 215, 215)
            )
    points = seen(points)
    # The nearest bones are drawn last.
    edges = sorted(skeleton.edges, key=lambda edge: -points[list(edge), 2].sum())
    return overlay.draw_skeleton(
        np.asarray(paper),
        points[:, :2],
        dataclasses.replace(skeleton, edges=tuple(edges)),
        line_width=size / 90,
        supersample=2,
    )


def image_uri(image: np.ndarray, *, max_size: int = 320) -> str:
    """A picture as a ``data:`` address, for a page without other files."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
    return jpeg_uri(encode_jpeg(picture))


def encode_jpeg(picture: Image.Image, *, quality: int = 88) -> bytes:
    """The bytes of a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def jpeg_uri(encoded: bytes) -> str:
    """A JPEG file as a ``data:`` address."""
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
