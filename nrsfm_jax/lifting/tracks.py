"""The depth of frames with their bones: of one track, or each by itself."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from nrsfm_jax.lifting import bones
from nrsfm_jax.lifting.batches import repeated
from nrsfm_jax.lifting.frames import Frames
from nrsfm_jax.lifting.prior import EXACT, Prior
from nrsfm_jax.lifting.records import take

# Frames of a track that tell the lengths of its bones.
SHORTEST = 10
# Of a noisy track: standard deviation of the filter on x and y, frames.
_SMOOTH = 1.5


def single_depth(
    frames: Frames, ell: Float[np.ndarray, " b"], edges: bones.Edges
) -> Float[np.ndarray, "n p"]:
    """With bones in the proportions of the training poses."""
    rows = repeated(len(frames.m))
    own = (jnp.asarray(x[rows]) for x in (frames.image, frames.m, frames.C))
    fitted = bones.fit_depths(*own, jnp.asarray(ell), edges=edges)
    return np.asarray(fitted)[: len(frames.m)]


def lengths_of(
    prior: Prior, frames: Frames, level: float
) -> Float[np.ndarray, " b"] | None:
    """Of the bones of one individual, pixels; None where too little is seen of it."""
    usable = _usable(frames)
    if usable.sum() < SHORTEST or not prior.edges:
        return None
    track, unit = _track(take(frames, usable), level)
    groups = bones.same_bones(prior.edges, prior.teacher.skeleton["left_right"])
    tau = _tau(level)
    return unit * bones.bone_lengths(track, tau, edges=prior.edges, groups=groups)


def track_depth(
    prior: Prior, frames: Frames, L: Float[np.ndarray, " b"], level: float
) -> tuple[Frames, Float[np.ndarray, "n p"]]:
    """The frames with a smoother image where it is noisy, and their depth."""
    usable = _usable(frames)
    depth, image = np.array(frames.m), np.array(frames.image)
    if usable.any():
        own = take(frames, usable)
        track, unit = _track(own, level)
        steps = np.diff(track.xy, axis=0)
        moved = np.sqrt(np.mean(steps**2)) if len(steps) else 1.0
        motion = float(bones.MOTION * max(moved, 1e-4))
        lengths = L / unit
        z = bones.track_depth(track, _tau(level), motion, lengths, edges=prior.edges)
        scale = own.patches.half_side[:, None] / unit
        depth[usable] = z / scale
        shift = own.patches.mean[:, None] / unit
        image[usable] = (track.xy - shift) / scale[..., None]
    return frames._replace(image=image), depth


def _usable(frames: Frames) -> Bool[np.ndarray, " n"]:
    return frames.patches.labelled.sum(1) >= 2


def _track(frames: Frames, level: float) -> tuple[bones.Track, float]:
    """Frames of one track in its own unit, pixels of which are returned."""
    half_side = frames.patches.half_side[:, None]
    unit = float(np.median(half_side))
    scale = half_side / unit
    xy = frames.image * scale[..., None] + frames.patches.mean[:, None] / unit
    if level > EXACT:
        xy = ndimage.gaussian_filter1d(xy, _SMOOTH, axis=0, mode="nearest")
    return bones.Track(xy, frames.m * scale, frames.C * scale[..., None] ** 2), unit


def _tau(level: float) -> float:
    """How far the length of a bone in the picture is from its own."""
    noise = level if level > EXACT else 0.0
    return float(np.hypot(bones.TRACK_TAU, np.sqrt(2) * noise))
