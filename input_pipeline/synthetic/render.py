"""The renderer: round cones under parallel rays, with a depth buffer.

For a ray through the picture point p, a sphere of the cone at share t, centre
``a + t d`` and radius ``ra + t dr``, is hit at depth ``az + t dz - sqrt(q(t))`` with
``q(t) = (ra + t dr)^2 - |p - a - t d|^2 = g + 2 h t + alpha t^2``. The nearest of all
spheres follows in closed form from ``dz = q' / (2 sqrt q)``:

    q* = (h^2 - alpha g) / (dz^2 - alpha),    t* = (dz sqrt(q*) - h) / alpha,

cut to 0..1. An ellipsoidal metric Q is removed first: with the Schur complement
``S = C^T C`` of its depth entry and ``k = (Q_xz, Q_yz) / Q_zz``, the cone is a
spherical one in the coordinates ``C p`` and ``sqrt(Q_zz) (z + k p)``.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from input_pipeline.synthetic.cones import Cones
from input_pipeline.synthetic.scene import Light, Look
from input_pipeline.synthetic.shading import Buffers, shade

# Constants of the formulas above: numbers of one cone, or arrays (N, 1) of all.
# unit: 1 / sqrt(Q_zz); inverse: 1 / (dz^2 - alpha), 0 where one end swallows the other.
_Solver = namedtuple(
    "_Solver", "c11 c12 c22 kx ky unit ax ay az dx dy dz ra dr alpha inverse"
)


def _solvers(cones: Cones) -> _Solver:
    """Constants of all cones, each (N,)."""
    metric = cones.metric()
    qzz = metric[:, 2, 2]
    kx, ky = metric[:, 0, 2] / qzz, metric[:, 1, 2] / qzz
    c11 = np.sqrt(np.maximum(metric[:, 0, 0] - qzz * kx * kx, 1e-12))
    c12 = (metric[:, 0, 1] - qzz * kx * ky) / c11
    c22 = np.sqrt(np.maximum(metric[:, 1, 1] - qzz * ky * ky - c12 * c12, 1e-12))
    (ax, ay, az), (dx, dy, dz) = cones.start.T, (cones.end - cones.start).T
    root = np.sqrt(qzz)
    ra, dr = cones.radii[:, 0], cones.radii[:, 1] - cones.radii[:, 0]
    dz = root * (dz + kx * dx + ky * dy)
    az = root * (az + kx * ax + ky * ay)
    ax, dx = c11 * ax + c12 * ay, c11 * dx + c12 * dy
    ay, dy = c22 * ay, c22 * dy
    alpha = dr * dr - dx * dx - dy * dy
    gap = dz * dz - alpha
    inverse = np.where(gap > 1e-9, 1.0 / np.maximum(gap, 1e-9), 0.0)
    parts = (c11, c12, c22, kx, ky, 1.0 / root, ax, ay, az, dx, dy, dz)
    return _Solver(*parts, ra, dr, alpha, inverse)


def _hit(c: _Solver, x: np.ndarray, y: np.ndarray, *, end_on: bool):
    """Depth of the first surface (inf where missed) and its share t.

    The closed form names the nearest sphere where alpha < 0; seen ``end_on`` it may
    name the farthest, so the spheres at the ends are candidates too.
    """
    u, v = c.c11 * x + (c.c12 * y - c.ax), c.c22 * y - c.ay
    h = u * c.dx + (v * c.dy + c.ra * c.dr)
    g = (c.ra * c.ra - v * v) - u * u
    alpha = np.where(np.abs(c.alpha) < 1e-6, -1e-6, c.alpha) if end_on else c.alpha
    t = (h * h - alpha * g) * c.inverse
    np.sqrt(np.maximum(t, 0.0, out=t), out=t)  # in place: it is faster by a tenth
    t *= c.dz
    t -= h
    t /= alpha
    np.minimum(np.maximum(t, 0.0, out=t), 1.0, out=t)
    tilt = c.kx * x + c.ky * y
    depth = _depth_at(c, alpha, g, h, t) - tilt
    if end_on:
        for end in (0.0, 1.0):
            other = _depth_at(c, c.alpha, g, h, end) - tilt
            t = np.where(other < depth, end, t)
            depth = np.minimum(depth, other)
    return depth, t


def _depth_at(c: _Solver, alpha, g: np.ndarray, h: np.ndarray, t) -> np.ndarray:
    q = (alpha * t + 2.0 * h) * t + g
    missed = q < 0.0
    np.sqrt(np.maximum(q, 0.0, out=q), out=q)
    depth = np.subtract(t * c.dz + c.az, q, out=q)
    depth *= c.unit
    depth[missed] = np.inf
    return depth


def ray_depths(cones: Cones, points: np.ndarray) -> np.ndarray:
    """Depth (N, n) at which rays through picture points (n, 2) meet each cone.

    ``inf`` where the ray misses.
    """
    columns = _Solver(*(constant[:, None] for constant in _solvers(cones)))
    return _hit(columns, points[:, 0], points[:, 1], end_on=True)[0]


def hidden_joints(
    cones: Cones, joints: np.ndarray, tolerance: np.ndarray
) -> np.ndarray:
    """Which joints (n, 3) another part of the body hides.

    A joint is hidden where a cone that is not its own (``Cones.clear``) lies in
    front of it by more than ``tolerance`` (n,), in the unit of the cones.
    """
    depth = ray_depths(cones, joints[:, :2])
    depth[cones.clear] = np.inf
    return depth.min(axis=0) < joints[:, 2] - tolerance


def rasterise(cones: Cones, width: int, height: int) -> Buffers:
    """Casts one ray through the centre of each pixel of a raster."""
    constants = np.stack(_solvers(cones), axis=1).tolist()
    depth = np.full((height, width), np.inf, np.float32)
    owner = np.full((height, width), -1, np.int16)
    share = np.zeros((height, width), np.float32)
    x = np.arange(width, dtype=np.float32) + np.float32(0.5)
    y = (np.arange(height, dtype=np.float32) + np.float32(0.5))[:, None]
    boxes = _boxes(cones, width, height)
    for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
        if left >= right or top >= bottom:
            continue
        cone = _Solver(*constants[i])
        end_on = cone.alpha >= -1e-3 * (cone.dx**2 + cone.dy**2) - 1e-6
        box = slice(top, bottom), slice(left, right)
        z, t = _hit(cone, x[left:right], y[top:bottom], end_on=end_on)
        nearer = z < depth[box]
        np.copyto(depth[box], z, where=nearer)
        np.copyto(share[box], t, where=nearer)
        np.copyto(owner[box], np.int16(i), where=nearer)
    return Buffers(depth, owner, share)


def _boxes(cones: Cones, width: int, height: int) -> np.ndarray:
    """Half-open pixel boxes (N, 4), left, top, right, bottom, around each cone."""
    reach = np.sqrt(((cones.frame * cones.widths[:, None, :]) ** 2).sum(-1))[:, :2]
    near, far = reach * cones.radii[:, :1], reach * cones.radii[:, 1:]
    low = np.minimum(cones.start[:, :2] - near, cones.end[:, :2] - far)
    high = np.maximum(cones.start[:, :2] + near, cones.end[:, :2] + far)
    box = np.concatenate([np.floor(low), np.ceil(high)], axis=1)
    return np.clip(box, 0, (width, height, width, height)).astype(int)


def render(
    cones: Cones,
    background: np.ndarray,
    *,
    look: Look,
    light: Light,
    up: np.ndarray,
) -> np.ndarray:
    """Draws cones (pixels) over a background (size, size, 3) float32 in 0..1.

    ``look`` paints shirt and face; ``up`` (3,): the world's up in the camera frame.
    """
    import cv2  # heavy, and no reader of landmarks needs it

    size = len(background)
    boxes = _boxes(cones, size, size)
    (left, top), (right, bottom) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    picture = background.copy()
    if left >= right or top >= bottom:  # nothing is drawn beyond the body's box
        return picture
    shape = (int(right - left), int(bottom - top))
    times = 3 if size <= 64 else 2  # rays per pixel and axis: more where it is coarse
    fine = cones.to_pixels(times, times * np.array([-left, -top]))
    buffers = rasterise(fine, times * shape[0], times * shape[1])
    rows, columns = np.nonzero(buffers.cone >= 0)
    hit = rows, columns
    colours = np.zeros((*buffers.cone.shape, 3), np.float32)
    colours[hit] = shade(fine, buffers, hit, look=look, light=light, up=up)
    covered = (buffers.cone >= 0).astype(np.float32)
    depth = np.where(covered > 0, buffers.depth / np.float32(times), np.float32(0))
    colours, coverage, depth = (
        cv2.resize(buffer, shape, interpolation=cv2.INTER_AREA)
        for buffer in (colours, covered, depth)
    )
    patch = picture[top:bottom, left:right]
    patch *= (1.0 - coverage)[..., None]
    patch += colours * _crease(depth, coverage, size)[..., None]
    return picture


def _crease(depth: np.ndarray, coverage: np.ndarray, size: int) -> np.ndarray:
    """Brightness (h, w) that falls where nearer parts surround a point.

    A cheap stand-in for the light that limbs take from what is right behind them:
    depth (pixels, times coverage) less its mean over a square.
    """
    import cv2

    side = 2 * max(size // 24, 1) + 1
    near, share = (
        cv2.blur(values, (side, side), borderType=cv2.BORDER_CONSTANT)
        for values in (depth, coverage)
    )
    behind = depth / np.maximum(coverage, 1e-3) - near / np.maximum(share, 1e-4)
    return 1.0 - np.clip(behind * np.float32(8.0 / size), 0.0, 0.38)
