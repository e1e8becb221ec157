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

import numpy as np
from jaxtyping import Bool, Float

# Focal lengths that are tried, times the longer side of the median box: about as many
# body heights is the camera away.
RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0)
# By so many nats a frame one must be likelier than weak perspective.
MARGIN = 0.3
# Frames to choose by; fewer than the second choose nothing.
MOST, LEAST = 100, 20


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
