"""Grids of views for the latent camera of the Gaussian shape.

A view is a rotation R with S_cam = S @ R. The camera has x right, y down and z away
from it; the body frame has y UP. At yaw 0 and elevation 0 the body's x is the
camera's x and its z points towards the camera. A positive elevation is a camera
above the body that looks down on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def upright_views(
    elevations_deg: Sequence[float], num_yaws: int
) -> Float[np.ndarray, "g 3 3"]:
    """Views of an upright body: every elevation with ``num_yaws`` even yaws.

    Examples:
        >>> upright_views((0.0,), 4)[0].astype(int).tolist()
        [[1, 0, 0], [0, -1, 0], [0, 0, -1]]

    Args:
        elevations_deg: elevations of the camera in degrees, positive: looks down.
        num_yaws: number of rotations about the body's vertical axis.

    Returns:
        R_g with S_cam = S @ R_g, elevation by elevation.
    """
    if num_yaws < 1 or len(elevations_deg) == 0:
        raise ValueError(
            f"num_yaws={num_yaws} and elevations_deg={tuple(elevations_deg)}: give at "
            "least one yaw and one elevation"
        )
    yaw = 2 * np.pi * np.arange(num_yaws) / num_yaws
    c, s, zero = np.cos(yaw), np.sin(yaw), np.zeros(num_yaws)
    turn = np.array([[c, zero, -s], [zero, zero + 1, zero], [s, zero, c]])
    turn = np.moveaxis(turn, -1, 0)
    views = [turn @ _camera_at(np.deg2rad(e)) for e in elevations_deg]
    return np.concatenate(views).astype(np.float32)


def _camera_at(elevation: float) -> Float[np.ndarray, "3 3"]:
    """Rows: where the body's x, y (up) and z (towards the camera) appear."""
    c, s = np.cos(elevation), np.sin(elevation)
    return np.array([[1.0, 0.0, 0.0], [0.0, -c, -s], [0.0, s, -c]])


def rotation_views(num_views: int) -> Float[np.ndarray, "g 3 3"]:
    """Nearly uniform rotations, for objects that have no upright position.

    Quaternions on a spiral that fills the 3-sphere (Alexa 2022, Super-Fibonacci
    spirals). Whether depth comes out true or mirrored is then a matter of chance:
    such a grid contains the mirror image of every explanation.
    """
    if num_views < 1:
        raise ValueError(f"num_views={num_views}: give at least one view")
    psi = 1.533751168755204288118041  # positive root of psi^4 = psi + 4
    s = np.arange(num_views) + 0.5
    t, turn = s / num_views, 2 * np.pi * s
    alpha, beta = turn / np.sqrt(2.0), turn / psi
    r, q = np.sqrt(t), np.sqrt(1 - t)
    v = np.stack([r * np.sin(alpha), r * np.cos(alpha), q * np.sin(beta)], axis=1)
    # The rotation of the unit quaternion (v, w), with K x = v x x.
    K = np.cross(v[:, None], np.eye(3)).swapaxes(1, 2)
    w = (q * np.cos(beta))[:, None, None]
    return (np.eye(3) + 2 * (w * K + K @ K)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ViewPrior:
    """From where a camera may look: evenly likely views.

    Attributes:
        name: for reports.
        elevations_deg: elevations of the camera above an upright object, each with
            ``count`` even yaws; None: any rotation.
        count: number of yaws, or of rotations.
        sizes: factors of the object's size, each with all the views. A body seen end-on
            fills its box with less of its length than one seen from the side.
    """

    name: str
    elevations_deg: tuple[float, ...] | None
    count: int
    sizes: tuple[float, ...] = (1.0,)

    def grid(self) -> Float[np.ndarray, "g 3 3"]:
        """R_g, times the size where there are several."""
        if self.elevations_deg is None:
            views = rotation_views(self.count)
        else:
            views = upright_views(self.elevations_deg, self.count)
        return np.concatenate([views * np.float32(size) for size in self.sizes])


LEVEL = ViewPrior("level", (-10.0, 0.0, 10.0, 20.0, 30.0), 24)
# Mirrored in depth, these two are the views from below.
RAISED = ViewPrior("raised", (20.0, 30.0, 40.0, 50.0, 60.0), 24)
_END_ON = (1.0, 1.3, 1.7)
ABOVE = ViewPrior("above", (50.0, 60.0, 70.0, 80.0, 90.0), 24, _END_ON)
FREE = ViewPrior("any rotation", None, 350, _END_ON)
