"""Who is who: bodies without an identity, and tracks that change the animal."""

from __future__ import annotations

import itertools
import re
import warnings

import numpy as np
from scipy.optimize import linear_sum_assignment

from input_pipeline.formats.tracks.record import Tracks, check_crowd

# A body is followed over so many frames without a detection, and no farther from one
# frame to the next than this part of its own size.
LOST_FRAMES, JUMP = 15, 0.5
# A joint strays where it is farther from its places in the frames around than this part
# of the body's extent, and than so many times what is usual for it.
AROUND_FRAMES, FAR, UNUSUAL = 2, 0.75, 8.0
_LAST_NUMBER = re.compile(r"(.*?)(\d*)(\D*)", re.DOTALL)


def linked(frame: np.ndarray, xy: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Follows bodies from frame to frame by the nearest assignment of their joints.

    Args:
        frame: (T,) of each body, in any order.
        xy: (T, P, 2) pixels.
        score: (T, P), above 0 where a joint was detected.

    Returns:
        (T,) int32, the same number for one body.
    """
    check_crowd(frame, xy.shape[1])
    xy = np.where((score > 0)[..., None], xy, np.nan)
    size = _sizes(xy)
    who = np.full(len(frame), -1, np.int32)
    last: dict[int, int] = {}  # body -> its last row
    order = np.argsort(frame, kind="stable")
    frames, starts = np.unique(frame[order], return_index=True)
    count = 0
    for now, rows in zip(frames, np.split(order, starts[1:]), strict=True):
        last = {b: i for b, i in last.items() if now - frame[i] <= LOST_FRAMES}
        bodies, before = list(last), np.array(list(last.values()), int)
        if len(bodies):
            far = _apart(xy[before][:, None], xy[rows][None]) / size[before][:, None]
            far /= np.sqrt(now - frame[before])[:, None]
            far = np.where(np.isnan(far), JUMP, far)
            for a, b in zip(*linear_sum_assignment(far), strict=True):
                if far[a, b] < 2 * JUMP:
                    who[rows[b]] = bodies[a]
        for row in rows:
            if who[row] < 0:
                who[row], count = count, count + 1
            last[int(who[row])] = row
    return who


def place_of(picture: str) -> tuple[str, str, int]:
    """The name without its last number, and that: what pictures are sorted by.

    Examples:
        >>> sorted(["10.jpg", "9.jpg"], key=place_of)
        ['9.jpg', '10.jpg']
    """
    match = _LAST_NUMBER.fullmatch(picture)
    assert match is not None  # all parts may be empty
    return match[1], match[3], int(match[2][-15:] or 0)


def segments(tracks: Tracks) -> tuple[np.ndarray, list[int]]:
    """Pieces of the tracks in which it is surely the same animal.

    A piece ends where the file or the individual does, where nothing was detected for
    more than ``LOST_FRAMES`` frames, where a body jumps, and where two bodies fit each
    other's last place better than their own. Pictures are frames that follow each other
    if their names differ in one number alone.

    Returns:
        (T,) int32 number of the piece, and the rows that begin one after a jump or an
        exchange.
    """
    count = len(tracks)
    ends = np.ones(count, bool)
    if count == 0:
        return np.zeros(0, np.int32), []
    size = _sizes(tracks.xy)
    same = (np.diff(tracks.file) == 0) & (np.diff(tracks.individual) == 0)
    gap = np.diff(tracks.frame)
    if tracks.pictures:
        pairs = itertools.pairwise(map(place_of, tracks.pictures))
        away = [abs(b[2] - a[2]) if a[:2] == b[:2] else np.inf for a, b in pairs]
        gap = np.array(away)
    moved = _apart(tracks.xy[:-1], tracks.xy[1:]) / size[:-1]
    jump = np.nan_to_num(moved) > JUMP * np.sqrt(np.maximum(gap, 1))
    follows = same & (gap <= LOST_FRAMES)
    ends[1:] = ~follows | jump
    suspect = np.flatnonzero(follows & jump) + 1
    exchanged = _exchanges(tracks, np.flatnonzero(follows & ~jump) + 1, size)
    ends[exchanged] = True
    broken = sorted({*suspect.tolist(), *exchanged.tolist()})
    return (np.cumsum(ends) - 1).astype(np.int32), broken


def strays(tracks: Tracks, min_score: float) -> np.ndarray:
    """Joints that a detector put somewhere else for a moment.

    Compared with the median of the places in the two frames before and the two after,
    of which two must be known, with ``min_score``. Else a joint is not judged. In
    pictures that do not follow each other all are far from there, and so none is
    unusual. Where most of a body jumps, no joint strays.

    Returns:
        (T, P) bool.
    """
    T = len(tracks)
    xy = np.where((tracks.score >= min_score)[..., None], tracks.xy, np.nan)
    around = []
    for step in (-2, -1, 1, 2):
        other = np.arange(T) + step
        inside = (other >= 0) & (other < T)
        other = np.where(inside, other, 0)
        near = np.abs(tracks.frame[other] - tracks.frame) <= AROUND_FRAMES
        same = tracks.file[other] == tracks.file
        same &= tracks.individual[other] == tracks.individual
        around.append(
            np.where((inside & near & same)[:, None, None], xy[other], np.nan)
        )
    judged = np.isfinite(around).all(-1).sum(0) >= 2
    away = np.linalg.norm(xy - _median(np.stack(around), 0), axis=-1)
    away = np.where(judged, away, np.nan)
    # Half of the joints are this near to the middle one, however far a stray is.
    extent = _median(np.linalg.norm(xy - _median(xy, 1)[:, None], axis=-1), 1)
    least = np.maximum(FAR * _median(extent, 0), UNUSUAL * _median(away, 0))
    found = away > least
    return found & (found.mean(1, keepdims=True) < 0.5)


def _median(x: np.ndarray, axis: int) -> np.ndarray:
    """Of what is known; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanmedian(x, axis)


def _exchanges(tracks: Tracks, rows: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Those of ``rows`` where two animals seem to have exchanged their names."""
    found: list[int] = []
    by_frame: dict[tuple[int, int], list[int]] = {}
    if len(tracks.individuals) < 2:
        return np.array(found, int)
    for row in rows.tolist():
        key = int(tracks.file[row]), int(tracks.frame[row])
        by_frame.setdefault(key, []).append(row)
    for together in map(np.array, by_frame.values()):
        # From the place before of the one, to the place now of the other.
        far = _apart(tracks.xy[together - 1][:, None], tracks.xy[together][None])
        own, crossed = np.diag(far)[:, None] + np.diag(far), far + far.T
        large = own > 0.2 * (size[together][:, None] + size[together])
        found += together[((own > 2 * crossed) & large).any(1)].tolist()
    return np.array(sorted(found), int)


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Median distance of the joints that both have, pixels; NaN where there are none.

    A median, because a few joints of a detector jump while the body does not.
    """
    distance = np.sort(np.linalg.norm(a - b, axis=-1), axis=-1)  # NaN comes last
    known = (~np.isnan(distance)).sum(-1, keepdims=True)
    return np.take_along_axis(distance, np.maximum(known - 1, 0) // 2, -1)[..., 0]


def _sizes(xy: np.ndarray) -> np.ndarray:
    """(T,) the longer side of each body's box; the median where it is too small."""
    low = np.where(np.isnan(xy), np.inf, xy).min(1)
    high = np.where(np.isnan(xy), -np.inf, xy).max(1)
    side = (high - low).max(-1)
    usual = np.median(side) if len(side) else 1.0
    return np.maximum(side, max(usual, 1.0) / 2)
