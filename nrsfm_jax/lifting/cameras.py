"""A near camera: landmarks as weak perspective shows them, and its focal length.

A point at the depth z from the middle of the body, in the pixels of the picture,
appears 1 / (1 + z / F) as large as at the middle. So

    x_wp = c + (x - c) (1 + z / F)

is what weak perspective shows, F the focal length in pixels, c the principal point. The
distance and the size of the body are not needed. For one x it is linear in the pose, so
that the posterior under a near camera is exact once the pairs are ranked; it knows more
of the depth than one under weak perspective.
"""

# Paper: weak perspective throughout; here: a near camera at lifting time.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from nrsfm_jax.lifting.patches import extent

# Focal lengths that are tried, times the longer side of the median box: about as many
# body heights is the camera away.
RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0)
# By so many nats a frame one must be likelier than weak perspective.
MARGIN = 0.3
# Frames to choose by; fewer than the second choose nothing.
MOST, LEAST = 100, 20
# No camera is nearer to a body than this part of its longer side.
_NEAREST = 0.5


def check_camera(
    xy: Float[np.ndarray, "n p 2"],
    focal: float | None,
    principal: Sequence[float] | None,
) -> None:
    """Refuses what no camera has.

    Args:
        xy: pixels, NaN where a joint is missing.
        focal: pixels, or ``inf``; None where not known.
        principal: x and y in pixels, or None.

    Raises:
        ValueError: a focal length that is not above 0, or shorter than half of a body;
            a principal point of other than two numbers.
    """
    if principal is not None and (
        np.shape(principal) != (2,) or not np.isfinite(principal).all()
    ):
        raise ValueError(f"principal = {principal} is not x and y in pixels")
    if focal is None:
        return
    if not focal > 0:
        raise ValueError(f"focal = {focal} is not above 0; inf is a distant camera")
    sides = extent(xy, np.asarray(np.isfinite(xy).all(-1)))
    side = float(np.median(sides[sides > 0])) if (sides > 0).any() else 0.0
    if focal < _NEAREST * side:
        raise ValueError(
            f"focal = {focal:g} pixels would have the camera touch the bodies, which "
            f"are {side:.0f} pixels long; it is in pixels: millimetres of the lens / "
            "millimetres of the sensor's width * pixels of the picture's width"
        )


def as_weak_perspective(
    xy: Float[np.ndarray, "n p 2"],
    depth: Float[np.ndarray, "n p"],
    focal: float,
    principal: Float[np.ndarray, " 2"],
) -> tuple[Float[np.ndarray, "n p 2"], Float[np.ndarray, "n p"]]:
    """The landmarks moved to where weak perspective would show them.

    Args:
        xy: pixels.
        depth: pixels, away from the camera, 0 at the middle of the body.
        focal: pixels.
        principal: where the optical axis meets the picture, pixels.

    Returns:
        The landmarks, and by how much each was moved away from the principal point.
    """
    # A depth that is far wrong must not turn the picture inside out.
    factor = np.clip(1 + depth / focal, 0.5, 2)
    return principal + (xy - principal) * factor[..., None], factor


def log_jacobian(
    factor: Float[np.ndarray, "n p"],
    half_side: Float[np.ndarray, " n"],
    labelled: Bool[np.ndarray, "n p"],
) -> Float[np.ndarray, " n"]:
    """log density of the pixels less that of the patch, whose unit is ``half_side``.

    Without it the flattest picture would be the likeliest.
    """
    moved = 2 * np.where(labelled, np.log(factor), 0).sum(1)
    return moved - 2 * labelled.sum(1) * np.log(half_side)
