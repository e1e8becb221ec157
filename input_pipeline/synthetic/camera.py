"""The weak-perspective camera: pixels are ``scale * (x, y) + translation``.

World (= body) frame: x to the person's left, y up, z forward. Camera frame: x
right, y down, z away from the camera. At azimuth 0 the person faces the camera;
growing azimuth turns the person to their own left, so that at 90 degrees they look
to the right of the picture. Positive elevation puts the camera above, looking down.
"""

from __future__ import annotations

import numpy as np


def view_rotation(
    azimuth_deg: float, elevation_deg: float, roll_deg: float = 0.0
) -> np.ndarray:
    """Rotation (3, 3) from the world to the camera: ``x_cam = rotation @ x_world``."""
    a, e, r = np.deg2rad((azimuth_deg, elevation_deg, roll_deg))
    (ca, ce, cr), (sa, se, sr) = np.cos((a, e, r)), np.sin((a, e, r))
    turn = np.array([[ca, 0.0, sa], [0.0, 1.0, 0.0], [-sa, 0.0, ca]])
    look = np.array([[1.0, 0.0, 0.0], [0.0, -ce, se], [0.0, -se, -ce]])
    roll = np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]])
    return roll @ look @ turn


def draw_view(
    rng: np.random.Generator, elevation_deg: tuple[float, float]
) -> tuple[float, float, float]:
    """Azimuth, elevation and roll in degrees, azimuth uniform over the circle."""
    azimuth, elevation = rng.uniform(0.0, 360.0), rng.uniform(*elevation_deg)
    roll = np.clip(rng.normal(0.0, 3.0), -10.0, 10.0)
    return float(azimuth), float(elevation), float(roll)


def frame_person(
    rng: np.random.Generator, positions: np.ndarray
) -> tuple[float, np.ndarray]:
    """Places points (P, 3) so that they fill most of the picture, off its centre.

    Their box takes 64 to 83 % of the side. Returns scale (picture sides per mm) and
    translation (2,) (picture sides).
    """
    low, high = positions[:, :2].min(0), positions[:, :2].max(0)
    side = float((high - low).max())
    fill = rng.uniform(0.64, 0.83)
    scale = fill / max(side, 1e-6)
    # Heads, hands and feet reach beyond the landmarks: keep half of the rim free.
    room = 0.5 * (1.0 - scale * (high - low)) - 0.07
    shift = rng.uniform(-0.7, 0.7, size=2) * np.clip(room, 0.0, 0.12)
    return scale, 0.5 + shift - scale * 0.5 * (low + high)
