"""One batch of frames on its way to 3D: outliers, posterior, network, camera."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from nrsfm_jax.lifting import cameras, hidden
from nrsfm_jax.lifting.batches import groups_of
from nrsfm_jax.lifting.patches import Near, Patches, far_joints, patches_of
from nrsfm_jax.lifting.posterior import KEPT, PoseGiven, poses_given
from nrsfm_jax.lifting.prior import EXACT, Prior
from nrsfm_jax.lifting.records import Landmarks, Setting, take

# Posterior share of the views in any rotation from which on views in between count.
_FREE = 0.5
# Pairs that guess what is missing, before outliers are looked for.
_GUESSED = 8


class Frames(NamedTuple):
    """Frames on their way to 3D, patch units; depths as trained."""

    patches: Patches
    outlier: Bool[np.ndarray, "n p"]
    given: PoseGiven
    image: Float[np.ndarray, "n p 2"]  # in the frame of W
    m: Float[np.ndarray, "n p"]  # depth, up to half of it the network's
    C: Float[np.ndarray, "n p p"]  # covariance of the depth
    apart: Float[np.ndarray, " n"]  # mean square of what network and shapes differ by
    factor: Float[np.ndarray, "n p"]  # by which a near camera was corrected for


def frames_of(prior: Prior, landmarks: Landmarks, setting: Setting) -> Frames:
    """All that is done to each frame by itself but the bones."""
    xy, labelled, doubt = landmarks
    outlier = outliers_of(prior, landmarks, setting.level)
    patches = patches_of(xy, labelled & ~outlier, padding=prior.padding)
    own = outlier, doubt, setting.level, setting.unlikely
    frames = posed(prior, patches, *own)
    if setting.focal is None:
        return frames
    patches, _ = corrected(prior, frames, setting.focal, setting.principal)
    again = posed(prior, patches, *own)
    _, factor = corrected(prior, again, setting.focal, setting.principal)
    return again._replace(factor=factor)


def posed(
    prior: Prior,
    patches: Patches,
    outlier: Bool[np.ndarray, "n p"],
    doubt: Float[np.ndarray, "n p"],
    level: float,
    unlikely: float = -np.inf,
) -> Frames:
    """Posterior and network; ``unlikely`` as in `Setting`."""
    given = given_by(prior, patches, doubt, level)
    n, P = patches.labelled.shape
    exact = patches.labelled & (level <= EXACT)
    image = np.where(exact[..., None], patches.W, given.image)
    said, share = np.zeros((n, P), np.float32), np.zeros(n, np.float32)
    if prior.share:
        said = prior.network_depth(image, patches.labelled)
        nats = given.log_p / np.maximum(patches.labelled.sum(1), 1)
        given = facing(given, said, nats < unlikely)
        # It has seen views around an upright body only, and no camera that is near.
        share = prior.share * (1 - np.asarray(given.free) / 2)
        share = share if patches.near is None else share / 2
    other = said - np.asarray(given.pose)[..., 2]
    m = np.asarray(given.pose)[..., 2] + share[:, None] * other
    apart = share * (1 - share) * np.mean(np.square(other), axis=1)
    if patches.near is not None:
        own = patches.near.w + patches.near.slope * m[..., None]
        image = np.where(exact[..., None], own, image)
    C = np.asarray(given.covariance).reshape(n, P, 3, P, 3)[:, :, 2, :, 2]
    return Frames(patches, outlier, given, image, m, C, apart, np.ones((n, P)))


def facing(
    given: PoseGiven, said: Float[np.ndarray, "n p"], unlikely: Bool[np.ndarray, " n"]
) -> PoseGiven:
    """Unlikely poses turned over in depth where the network says the opposite.

    Of what the shapes have not seen they are sure by chance of one sign or the other;
    the network is right more often.
    """
    pose, covariance = np.array(given.pose), np.array(given.covariance)
    over = unlikely & (np.sum(pose[..., 2] * said, axis=1) < 0)
    signs = np.tile([1, 1, -1], said.shape[1])
    pose[over] *= [1, 1, -1]
    covariance[over] *= signs[:, None] * signs
    mirrored = np.where(over, 0.5, given.mirrored)  # it is one against the other
    return given._replace(pose=pose, covariance=covariance, mirrored=mirrored)


def corrected(
    prior: Prior,
    frames: Frames,
    focal: float,
    principal: Float[np.ndarray, " 2"],
) -> tuple[Patches, Float[np.ndarray, "n p"]]:
    """Patches without perspective, see `cameras`, and what the landmarks moved by."""
    patches, sign = frames.patches, prior.teacher.depth_sign
    scale = patches.half_side[:, None]
    seen = patches.W if patches.near is None else patches.near.w
    xy = seen * scale[..., None] + patches.mean[:, None]
    z = sign * frames.m * scale
    moved, factor = cameras.as_weak_perspective(xy, z, focal, principal)
    again = patches_of(moved, patches.labelled, padding=prior.padding)
    w = (xy - again.mean[:, None]) / again.half_side[:, None, None]
    slope = sign * (xy - principal) / focal
    near = Near(w.astype(np.float32), slope.astype(np.float32))
    return again._replace(near=near), factor


def outliers_of(
    prior: Prior, landmarks: Landmarks, level: float
) -> Bool[np.ndarray, "n p"]:
    """Landmarks that are not believed, see `hidden`."""
    xy, labelled, doubt = landmarks
    far = far_joints(xy, labelled, prior.reach)
    patches = patches_of(xy, labelled & ~far, padding=prior.padding)
    found = hidden.find_outliers(
        prior.pairs,
        prior.terms(max(level, prior.least)),
        patches,
        filled(prior, patches, doubt, level),
        prior.variance(doubt, level),
        hidden.price(np.clip(hidden.OUTLIERS * doubt, 0.01, 0.5)),
        sure=hidden.SURE,
    )
    return far | found


def filled(
    prior: Prior, patches: Patches, doubt: Float[np.ndarray, "n p"], level: float
) -> Float[np.ndarray, "n p 2"]:
    """The landmarks with a guess of the missing ones, centred over all joints."""
    W = np.array(patches.W)
    rows = np.flatnonzero(~patches.labelled.all(1))
    if len(rows):
        some = take(patches, rows)
        image = given_by(prior, some, doubt[rows], level, guess=True).image
        W[rows] = np.where(some.labelled[..., None], some.W, image)
    return W - W.mean(1, keepdims=True)


def given_by(
    prior: Prior,
    patches: Patches,
    doubt: Float[np.ndarray, "n p"],
    level: float,
    *,
    guess: bool = False,
) -> PoseGiven:
    """The posterior of any frames; a ``guess`` is of fewer pairs and not of others."""
    variance, turned = prior.variance(doubt, level), False
    kept = _GUESSED if guess else KEPT
    terms = prior.terms(max(level, prior.least))
    n, P, _ = patches.W.shape
    shapes = (n, P, 3), (n, P, 2), (n, 3 * P, 3 * P), (n,), (n,), (n,)
    out = PoseGiven(*(np.zeros(shape, np.float32) for shape in shapes))
    out.covariance[:] = np.eye(3 * P)
    every = np.flatnonzero(patches.labelled.any(1))
    while len(every):
        for part, gaps in groups_of(patches.labelled[every]):
            rows = every[part]
            own = (patches.W, patches.labelled, variance, patches.near)
            own = jax.tree.map(lambda x, rows=rows: jnp.asarray(x[rows]), own)
            found = poses_given(
                prior.pairs, terms, *own, gaps=gaps, turned=turned, kept=kept
            )
            for array, values in zip(out, jax.device_get(found), strict=True):
                array[rows] = values
        # What lies or hangs once more, from views in between.
        every = every[:0] if guess or turned else np.flatnonzero(out.free > _FREE)
        turned = True
    return out
