"""The depth of frames with their bones: of one track, or each by itself."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import ndimage

from nrsfm_jax.lifting import bones, chain
from nrsfm_jax.lifting.batches import repeated
from nrsfm_jax.lifting.frames import Frames
from nrsfm_jax.lifting.prior import EXACT, Prior
from nrsfm_jax.lifting.records import take

# Frames of a track that tell the lengths of its bones.
SHORTEST = 10
# Of a noisy track: standard deviation of the filter on x and y, frames.
_SMOOTH = 2.0


def single_depth(
    frames: Frames, level: float, ell: Float[np.ndarray, " b"], edges: bones.Edges
) -> Float[np.ndarray, "n p"]:
    """With bones in given proportions."""
    rows = repeated(len(frames.m))
    own = (jnp.asarray(x[rows]) for x in (frames.image, frames.m, frames.C))
    tau = jnp.float32(np.hypot(bones.TAU, 2 * level if level > EXACT else 0.0))
    fitted = bones.fit_depths(*own, jnp.asarray(ell), tau, edges=edges)
    return np.asarray(fitted)[: len(frames.m)]


def track_depth(
    prior: Prior,
    frames: Frames,
    level: float,
    lengths: chain.Lengths,
    *,
    following: bool = True,
) -> tuple[Frames, Float[np.ndarray, "n p"], chain.Lengths] | None:
    """With the bones of one individual.

    Args:
        prior: the teacher.
        frames: of one track.
        level: noise of the landmarks.
        lengths: of its bones, pixels; or the proportions that they are likely to have.
        following: whether each frame follows the one before.

    Returns:
        The frames, with a smoother image where the landmarks are noisy, their depth,
        and the lengths; None where too little is seen to know these.
    """
    usable = frames.patches.labelled.sum(1) >= 2
    if usable.sum() < (1 if lengths.known else SHORTEST):
        return (frames, frames.m, lengths) if lengths.known else None
    own = take(frames, usable)
    unit = float(np.median(own.patches.half_side))
    scale = own.patches.half_side[:, None] / unit
    shift = own.patches.mean[:, None] / unit
    track = _track(own, level, scale, shift, following)
    groups = bones.same_bones(prior.edges, prior.teacher.skeleton["left_right"])
    expected = chain.Lengths(lengths.ell / unit, lengths.known)
    z, L = chain.fit_track(track, expected, edges=prior.edges, groups=groups)
    depth, image = np.array(frames.m), np.array(frames.image)
    depth[usable] = z / scale
    image[usable] = (track.xy - shift) / scale[..., None]
    return frames._replace(image=image), depth, chain.Lengths(unit * L, known=True)


def _track(
    frames: Frames,
    level: float,
    scale: Float[np.ndarray, "n 1"],
    shift: Float[np.ndarray, "n 1 2"],
    following: bool,
) -> chain.Track:
    """Frames in the unit of their track."""
    xy, noise = frames.image, level if level > EXACT else 0.0
    smooth = following and noise > 0
    if smooth:
        # As seen: what is as expected errs alike in frame after frame.
        xy = np.where(frames.patches.labelled[..., None], frames.patches.W, xy)
    xy = xy * scale[..., None] + shift
    if smooth:
        xy = ndimage.gaussian_filter1d(xy, _SMOOTH, axis=0, mode="nearest")
        noise *= (2 * np.sqrt(np.pi) * _SMOOTH) ** -0.5
    rate = chain.motion_rate(xy) if following else np.zeros(len(xy))
    C = frames.C * scale[..., None] ** 2
    tau = float(np.hypot(chain.TAU, np.sqrt(2) * noise))
    return chain.Track(xy, frames.m * scale, C, rate, tau)
