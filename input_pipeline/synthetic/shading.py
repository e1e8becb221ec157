"""Colours of the visible surface: clothes, face, light.

Only the samples that see the person are shaded, after the depth buffer is full.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from input_pipeline.synthetic.cones import FACE, Cones
from input_pipeline.synthetic.scene import Light, Look


class Buffers(NamedTuple):
    """What each sample of the picture sees: depth (inf: nothing), cone (-1), t."""

    depth: np.ndarray
    cone: np.ndarray
    share: np.ndarray


def shade(
    cones: Cones,
    buffers: Buffers,
    hit: tuple[np.ndarray, np.ndarray],
    *,
    look: Look,
    light: Light,
    up: np.ndarray,
) -> np.ndarray:
    """Colours (n, 3) of the samples at rows and columns ``hit``.

    The normal at offset e from the sphere's centre is along ``Q e``. The light is a
    lamp (softly wrapped around the body), a sky that is brighter from above, and a
    little darkening towards the outline, which parts limbs of equal colour.
    """
    owner, share = buffers.cone[hit], buffers.share[hit]
    along = (cones.end - cones.start).astype(np.float32)
    offset = np.empty((len(owner), 3), np.float32)
    offset[:, 0], offset[:, 1] = hit[1] + 0.5, hit[0] + 0.5
    offset[:, 2] = buffers.depth[hit]
    offset -= cones.start.astype(np.float32)[owner] + share[:, None] * along[owner]
    normal, metric = offset.copy(), cones.metric()
    flat = np.abs(metric - np.eye(3)).max(axis=(1, 2)) > 1e-9
    uneven = np.nonzero(flat[owner])[0]  # the others are round: the offset itself
    normal[uneven] = np.einsum(
        "nij,nj->ni", metric.astype(np.float32)[owner[uneven]], offset[uneven]
    )
    length = np.sqrt(np.einsum("ni,ni->n", normal, normal))  # faster than norm
    normal /= np.maximum(length, 1e-6)[:, None]
    albedo = _albedo(cones, owner, share, offset, look)
    # einsum, not "@": the threads of BLAS cost more here than they save.
    lamp = np.einsum("ni,i->n", normal, light.direction.astype(np.float32))
    lamp = np.maximum((lamp + 0.25) / 1.25, 0.0)
    sky = 0.72 + 0.28 * np.einsum("ni,i->n", normal, up.astype(np.float32))
    sky *= 0.70 - 0.30 * normal[:, 2]
    brightness = sky[:, None] * light.ambient.astype(np.float32)
    brightness += lamp[:, None] * light.lamp.astype(np.float32)
    return np.minimum(albedo * brightness, 1.0)


def _albedo(
    cones: Cones, owner: np.ndarray, share: np.ndarray, offset: np.ndarray, look: Look
) -> np.ndarray:
    """Colours (n, 3) before the light: plain ones, and the paintings over them."""
    after = share > cones.split.astype(np.float32)[owner]
    albedo = cones.colours.astype(np.float32)[owner, after.astype(np.intp)]
    for index in np.nonzero(cones.pattern)[0]:
        chosen = np.nonzero(owner == index)[0]
        frame = (cones.frame[index] / cones.widths[index]).astype(np.float32)
        local = np.einsum("ni,ij->nj", offset[chosen], frame) / np.float32(
            cones.radii[index].mean()
        )
        if cones.pattern[index] == FACE:
            albedo[chosen] = face_colours(local, look)
        else:
            low, high = cones.height[index]
            height = low + share[chosen] * (high - low)
            albedo[chosen] = shirt_colours(local, height, look)
    return albedo


def face_colours(local: np.ndarray, look: Look) -> np.ndarray:
    """Colours (n, 3) of points (n, 3) of a unit sphere: left, up, front of the head."""
    x, y, front = np.abs(local[:, 0]), local[:, 1], local[:, 2]
    colours = np.repeat(look.skin[None].astype(np.float32), len(local), axis=0)
    facing = front > 0.0
    cheek = facing & ((x - 0.5) ** 2 + (y + 0.22) ** 2 < 0.05)
    colours[cheek] *= np.array([1.0, 0.88, 0.88], np.float32)
    if look.beard:
        colours[facing & (y < -0.30) & (y < 0.5 * x - 0.30)] = look.hair
    mouth = facing & (((x / 0.30) ** 2 + ((y + 0.50) / 0.085) ** 2) < 1.0)
    colours[mouth] = (0.66, 0.22, 0.22)
    eye = facing & (((x - 0.36) / 0.20) ** 2 + ((y - 0.10) / 0.15) ** 2 < 1.0)
    colours[eye] = (0.96, 0.96, 0.94)
    iris = facing & ((x - 0.35) ** 2 + (y - 0.10) ** 2 < 0.115**2)
    colours[iris] = (0.09, 0.08, 0.10)
    brow = facing & (np.abs(y - 0.33 + 0.12 * x) < 0.055) & (x > 0.14) & (x < 0.58)
    colours[brow] = 0.8 * look.hair
    if look.glasses:
        ring = ((x - 0.36) / 0.27) ** 2 + ((y - 0.09) / 0.23) ** 2
        frame = (ring < 1.0) & (ring > 0.55) | ((np.abs(y - 0.12) < 0.05) & (x < 0.1))
        colours[facing & frame] = (0.08, 0.08, 0.10)
    if look.hair_style != "bald":
        edge = np.where(front > 0.25, 0.62 - 0.25 * x, 1.2 * front - 0.05)
        colours[y > np.minimum(edge, 0.62)] = look.hair
    return colours


def shirt_colours(local: np.ndarray, height: np.ndarray, look: Look) -> np.ndarray:
    """Colours (n, 3) of points as on a head, ``height`` (n,) mm above the pelvis.

    The front carries a badge on the wearer's left breast, the back a yoke, in every
    style, so that the four sides of the trunk can be told apart.
    """
    x, front = local[:, 0], local[:, 2]
    colours = np.repeat(look.shirt[None].astype(np.float32), len(local), axis=0)
    accent, style = look.accent, look.shirt_style
    facing = front > 0.0
    if style == "stripes":
        colours[(height / look.stripe_mm) % 1.0 < 0.42] = accent
    if style == "zip":
        colours[facing & (np.abs(x) < 0.06)] = accent
        colours[facing & (np.abs(x) < 0.28 * (height - 330.0) / 130.0)] = accent
    if style == "block":
        colours[height < 200.0] = accent
    if style == "print":
        print_ = (x / 0.45) ** 2 + ((height - 340.0) / 75.0) ** 2 < 1.0
        colours[facing & print_] = accent
    badge = facing & (np.abs(x - 0.42) < 0.13) & (np.abs(height - 385.0) < 32.0)
    colours[badge] = 1.0 - 0.8 * look.shirt if style != "print" else accent
    colours[~facing & (height > 395.0)] = 0.65 * look.shirt
    return colours
