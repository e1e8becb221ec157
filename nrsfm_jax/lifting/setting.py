"""What holds for all frames of a call: given, or the likeliest for some of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from nrsfm_jax.lifting import bones, cameras, hidden
from nrsfm_jax.lifting.batches import repeated
from nrsfm_jax.lifting.frames import Frames, corrected, filled, frames_of, given_by
from nrsfm_jax.lifting.patches import extent, far_joints, patches_of
from nrsfm_jax.lifting.posterior import KEPT, rank
from nrsfm_jax.lifting.prior import EXACT, Prior
from nrsfm_jax.lifting.records import Landmarks, Setting, take
from nrsfm_jax.lifting.tracks import single_depth

# Levels of noise that are tried, patch units.
LEVELS = (0.01, 0.02, 0.04, 0.08, 0.16)
# The least and the greatest factor of the standard deviations.
INFLATION = (1.1, 2.0)
# Frames to choose by; fewer than the second choose nothing.
_CHOSEN, _FEWEST = 128, 10
_ROUNDS = 3  # of the proportions of the bones
# Frames of tracks that tell the noise in time; how much larger than that of a joint the
# standard deviation of its third difference is, and than the median of its size.
_IN_TIME, _THIRD, _MEDIAN = 20_000, 20**0.5, 0.6745


def choose_setting(
    prior: Prior,
    landmarks: Landmarks,
    track: Int[np.ndarray, " n"],
    noise: float | None,
    focal: float | None,
    principal: tuple[float, float] | None,
    ell: Float[np.ndarray, " b"],
) -> Setting:
    """What is given, and the likeliest of what is not.

    Args:
        prior: the teacher.
        landmarks: to be lifted.
        track: number of the track that each frame follows the one before in; or -1.
        noise: standard deviation of the landmarks over the longer side of their box.
        focal: pixels; ``inf`` is weak perspective.
        principal: pixels.
        ell: proportions of the bones in the training; kept where frames are few.

    Raises:
        ValueError: a camera as :func:`.cameras.check_camera` refuses it, or noise that
            is not above 0.
    """
    cameras.check_camera(landmarks.xy, focal, principal)
    if noise is not None and not noise > 0:
        raise ValueError(f"noise = {noise} is not above 0")
    labelled = landmarks.labelled
    middle = np.zeros(2)
    if principal is not None:
        middle = np.asarray(principal, np.float64)
    elif labelled.any():
        middle = np.mean(landmarks.xy[labelled], axis=0)
    level = EXACT if noise is None else 2 * noise / prior.padding
    rows = _telling(labelled)
    if len(rows) < _FEWEST:
        focal = None if focal is None or np.isinf(focal) else float(focal)
        return Setting(level, INFLATION[0], focal, middle, ell, level)
    few, beyond = take(landmarks, rows), level
    if noise is None:
        beyond = likeliest_noise(prior, few)
        level = max(beyond, noise_in_time(prior, landmarks, track))
    frames = frames_of(prior, few, Setting(level, principal=middle))
    inflation = likeliest_inflation(prior, frames, few.doubt, level)
    ell = own_proportions(prior, frames, level, ell)
    if focal is None:
        focal = likeliest_focal(prior, few, frames, level, middle)
    focal = None if np.isinf(focal) else float(focal)
    return Setting(level, inflation, focal, middle, ell, beyond)


def _telling(labelled: Bool[np.ndarray, "n p"]) -> Int[np.ndarray, " m"]:
    """Some frames, of those that miss fewest landmarks."""
    order = np.argsort((~labelled).sum(1), kind="stable")
    order = order[: max(_CHOSEN, int(labelled.all(1).sum()))]
    order = order[labelled[order].sum(1) >= 2]
    return np.sort(np.random.default_rng(0).permutation(order)[:_CHOSEN])


def noise_in_time(
    prior: Prior, landmarks: Landmarks, track: Int[np.ndarray, " n"]
) -> float:
    """What no motion explains of frames that follow each other; 0 of too few.

    Third differences: what moves smoothly has hardly any. Those of every other frame
    have as much noise, but at least twice the motion. Half of the landmarks tell, so
    that outliers do not. More than a tracker has is motion of frames far apart.
    """
    rows = np.argsort(track, kind="stable")
    rows = rows[track[rows] >= 0][:_IN_TIME]
    xy, labelled = landmarks.xy[rows], landmarks.labelled[rows]
    half_side = prior.padding * extent(xy, labelled)[:, None, None] / 2
    xy = np.where(labelled[..., None], xy, np.nan)
    unit = np.where(half_side > 0, half_side, np.nan)
    found = []
    for step in (1, 2):
        x = [xy[i * step : len(xy) - (3 - i) * step] for i in range(4)]
        same = track[rows][3 * step :] == track[rows][: len(x[0])]
        third = np.abs((x[3] - 3 * x[2] + 3 * x[1] - x[0]) / unit[3 * step :])[same]
        third = third[np.isfinite(third)]
        if len(third) < _CHOSEN:
            return 0.0
        found.append(float(np.median(third)) / (_THIRD * _MEDIAN))
    level = max(4 * found[0] ** 2 - found[1] ** 2, 0.0) ** 0.5 / 3**0.5
    return level if level < LEVELS[-2] else 0.0


def likeliest_noise(prior: Prior, landmarks: Landmarks) -> float:
    """The level of the highest median evidence, one outlier a frame allowed.

    It is what comes on top of the noise that the shapes were fitted with.
    """
    xy, labelled, doubt = landmarks
    near = labelled & ~far_joints(xy, labelled, prior.reach)
    patches = patches_of(xy, near, padding=prior.padding)
    W = jnp.asarray(filled(prior, patches, doubt, EXACT)[repeated(len(xy))])
    every = jnp.ones(W.shape[:2], bool)
    cost = jnp.asarray(hidden.price(np.full(W.shape[:2], hidden.OUTLIERS)))
    best, most = LEVELS[0], -np.inf
    for level in LEVELS:
        terms = prior.terms(level)
        variance = jnp.full(W.shape[:2], np.float32(level**2))
        chosen = hidden.likeliest_by_parts(terms, W)
        log_p = hidden.doubts(prior.pairs, chosen, W, every, variance, cost)[1]
        nats = float(np.median(np.asarray(log_p)[: len(xy)]))
        if nats < most:  # one maximum: the rest is less likely still
            break
        best, most = level, nats
    return best


def likeliest_inflation(
    prior: Prior, frames: Frames, doubt: Float[np.ndarray, "n p"], level: float
) -> float:
    """Of the standard deviations, by joints that are hidden in turn."""
    rows = repeated(len(doubt))
    W, labelled, image = (
        x[rows] for x in (frames.patches.W, frames.patches.labelled, frames.image)
    )
    x = np.where(labelled[..., None], W, image)
    x = jnp.asarray(x - x.mean(1, keepdims=True))
    terms = prior.terms(max(level, prior.least))
    ranked = rank(prior.pairs, terms, x, jnp.asarray(labelled), gaps=0)
    chosen = jax.lax.top_k(ranked, min(KEPT, ranked.shape[1]))[1]
    own = W, labelled, prior.variance(doubt, level)[rows]
    best = hidden.likeliest_inflation(prior.pairs, chosen, *map(jnp.asarray, own))
    return float(np.clip(best, *INFLATION))


def own_proportions(
    prior: Prior, frames: Frames, level: float, ell: Float[np.ndarray, " b"]
) -> Float[np.ndarray, " b"]:
    """Of the bones of these bodies: from depths by the training's, and so on."""
    for _ in range(_ROUNDS if prior.edges else 0):
        depth = single_depth(frames, level, ell, prior.edges)
        ell = bones.proportions(
            np.concatenate([frames.image, depth[..., None]], axis=-1),
            prior.edges,
            prior.teacher.skeleton["left_right"],
        )
    return ell


def likeliest_focal(
    prior: Prior,
    landmarks: Landmarks,
    frames: Frames,
    level: float,
    principal: Float[np.ndarray, " 2"],
) -> float:
    """Of a few, the focal length under which the corrected pictures are likely."""
    if len(landmarks.xy) < cameras.LEAST:
        return np.inf
    few = take(frames, slice(cameras.MOST))
    labelled, doubt = few.patches.labelled, landmarks.doubt[: cameras.MOST]
    box = np.median(few.patches.half_side) * 2 / prior.padding
    nats = {}
    for focal in (np.inf, *(ratio * box for ratio in cameras.RATIOS)):
        patches, factor = corrected(prior, few, focal, principal)
        found = given_by(prior, patches, doubt, level)
        log_p = found.log_p + cameras.log_jacobian(factor, patches.half_side, labelled)
        nats[focal] = float(np.mean(log_p))
    best = max(nats, key=lambda focal: nats[focal])
    return best if nats[best] > nats[np.inf] + cameras.MARGIN else np.inf
