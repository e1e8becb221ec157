"""Landmarks of a tracker's files, without pictures (``config.data.name = "tracks"``).

A sample is an individual in a frame with enough detected joints. Frames that hardly
differ from the one before are left out, and joints that stray for a moment count as not
detected: the EM would explain them by odd views. Validation has blocks of time of its
own, because neighbouring frames would make its errors too low.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree

from input_pipeline.crops import landmark_boxes
from input_pipeline.formats.tracks.linking import strays
from input_pipeline.formats.tracks.read import read_tracks
from input_pipeline.formats.tracks.record import Tracks
from input_pipeline.landmarks import Landmarks, make_landmarks
from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import Skeleton, read_skeleton, well_known

BLOCKS, HELD_OUT = 20, 0.1  # of time; the part of them that validation takes
FEWEST_JOINTS, SMALL_PX = 3, 4.0
# A frame is left out until its landmarks moved by this, in sides of their box.
MOVED = 0.02
ACROSS = 1e3  # a bone's cost from one side to the other, more than all others have


class TrackedLandmarks:
    """The tracks of ``settings.annotations`` as a source of landmarks.

    Args:
        settings: of the data set.
    """

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings

    @functools.cached_property
    def tracks(self) -> Tracks:
        """All detections of the files for training, in the joints of the skeleton."""
        return self._read(self.settings.annotations, "data.annotations", None)

    def _read(self, text: str, field: str, like: Skeleton | None) -> Tracks:
        text_of_skeleton = self.settings.skeleton
        given = like or (read_skeleton(text_of_skeleton) if text_of_skeleton else None)
        found = read_tracks(
            text,
            field=field,
            skeleton=given if isinstance(given, Skeleton) else None,
            joint_names=dict(self.settings.joint_names),
            picture_size=self.settings.picture_size,
        )
        found = found.without(strays(found, self.settings.min_score))
        skeleton = well_known(found.skeleton)
        if isinstance(given, Mapping):
            skeleton = skeleton.changed(given)
        if not skeleton.edges:
            known = found.score >= self.settings.min_score
            xy = np.where(known[..., None], found.xy, np.float32(np.nan))
            bones = nearest_joints(xy[known.any(1)], skeleton.left_right)
            skeleton = dataclasses.replace(skeleton, edges=bones)
        return dataclasses.replace(found, skeleton=skeleton)

    def landmarks(self, split: str) -> Landmarks | None:
        """The samples of a split, if any; ``sample_ids`` are rows of the tracks.

        Raises:
            ValueError: a file that cannot be read, or too few detections.
        """
        tracks, settings = self.tracks, self.settings
        if split == "val" and settings.annotations_val:
            field = "data.annotations_val"
            tracks = self._read(settings.annotations_val, field, tracks.skeleton)
        rows = usable_rows(
            tracks, min_score=settings.min_score, min_joints=settings.min_joints
        )
        if not settings.annotations_val:
            held = held_out(tracks, rows, seed=settings.seed)
            rows = rows[held if split == "val" else ~held]
        if not len(rows):
            return None
        rows = moving(tracks, rows)
        most = settings.num_train if split == "train" else settings.num_val
        if most and len(rows) > most:
            rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
        labelled = tracks.score[rows] >= settings.min_score
        return make_landmarks(
            skeleton=tracks.skeleton,
            sample_ids=rows,
            keypoints=np.where(labelled[..., None], tracks.xy[rows], np.float32(0)),
            labelled=labelled,
            boxes=None,
            names=tuple(tracks.name(row) for row in rows),
            padding=settings.padding,
        )

    def truth(self, split: str) -> None:
        """No 3D."""


def usable_rows(tracks: Tracks, *, min_score: float, min_joints: int) -> np.ndarray:
    """Rows with at least half of the joints, ``min_joints`` and an extent in pixels.

    Raises:
        ValueError: there are none.
    """
    labelled = tracks.score >= max(min_score, np.finfo(np.float32).tiny)
    P = tracks.skeleton.num_joints
    least = max(min_joints, FEWEST_JOINTS, (P + 1) // 2)
    if P < FEWEST_JOINTS:
        raise ValueError(
            f"{tracks.files[0]}: has {P} joints ({', '.join(tracks.skeleton.joints)}), "
            f"too few for a shape; at least {FEWEST_JOINTS} are needed"
        )
    xy = np.where(labelled[..., None], tracks.xy, np.float32(0))
    large = landmark_boxes(xy, labelled)[:, 2:].max(1) >= SMALL_PX
    rows = np.flatnonzero(large & (labelled.sum(1) >= least))
    if not len(rows):
        counts = labelled.sum(1)
        raise ValueError(
            f"{tracks.files[0]}: none of {len(tracks)} detections can be used: at most "
            f"{counts.max()} of {P} joints have a score of {min_score} or more, and "
            f"{least} with different places are needed; lower --config.data.min_score, "
            "or leave joints out by --config.data.skeleton"
        )
    return rows


def held_out(tracks: Tracks, rows: np.ndarray, *, seed: int) -> np.ndarray:
    """Which of ``rows`` are in the blocks of time that validation takes."""
    moments = np.stack([tracks.file[rows], tracks.frame[rows]], 1)
    _, when = np.unique(moments, axis=0, return_inverse=True)
    when = np.ravel(when)
    count = min(BLOCKS, int(when.max()) + 1)
    block = when * count // (int(when.max()) + 1)
    chosen = np.random.default_rng(seed).permutation(count)
    return np.isin(block, chosen[: round(count * HELD_OUT)])


def moving(tracks: Tracks, rows: np.ndarray) -> np.ndarray:
    """``rows``, at least one, without those that hardly differ from the one before."""
    xy = tracks.xy[rows]
    side = np.nanmax(xy, axis=1) - np.nanmin(xy, axis=1)
    centred = xy - np.nanmean(xy, axis=1, keepdims=True)
    step = np.linalg.norm(np.diff(centred, axis=0), axis=-1)
    known = ~np.isnan(step)
    mean = np.where(known, step, 0).sum(1) / np.maximum(known.sum(1), 1)
    part = mean / side.max(1)[1:]
    new = (np.diff(tracks.file[rows]) != 0) | (np.diff(tracks.individual[rows]) != 0)
    path = np.cumsum(np.where(new | ~known.any(1), MOVED, part)) // MOVED
    return rows[np.concatenate([[True], np.diff(path, prepend=0) > 0])]


def nearest_joints(
    xy: np.ndarray, left_right: Sequence[tuple[int, int]] = ()
) -> tuple[tuple[int, int], ...]:
    """Bones where nobody names them: a tree of joints that are never far apart.

    What counts is the distance that a tenth of the frames exceeds: a bone is seen in
    its length now and then, and joints that meet for a moment are no bone. Both sides
    have the same bones, and none goes from one to the other but to hold both together.

    Args:
        xy: (T, P, 2), NaN where not detected.
        left_right: pairs of joints.

    Returns:
        Pairs: those of a tree, and what mirrors them; fewer where joints were never
        detected together.
    """
    centred = xy - np.nanmean(xy, axis=1, keepdims=True)
    size = np.sqrt(np.nanmean((centred**2).sum(-1), axis=1))
    some = (size > 0).nonzero()[0]
    some = some[:: max(1, len(some) // 5000)]
    X = centred[some] / size[some, None, None]
    P = xy.shape[1]
    cost, mirror = np.zeros((P, P)), np.arange(P)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of joints never together
        for p in range(P):
            distance = np.linalg.norm(X - X[:, p : p + 1], axis=-1)
            cost[p] = np.nanquantile(distance, 0.9, axis=0) + 1e-6
        for left, right in left_right:
            mirror[[left, right]] = right, left
        cost = np.nanmean([cost, cost[np.ix_(mirror, mirror)]], axis=0)
    sides = np.array(left_right, int).reshape(-1, 2).T
    for here, there in (sides, sides[::-1]):
        cost[np.ix_(here, there)] += ACROSS
    # 0 is no edge for SciPy.
    tree = np.stack(minimum_spanning_tree(np.nan_to_num(cost)).nonzero(), axis=1)
    pairs = np.sort(np.concatenate([tree, mirror[tree]]), axis=1)
    return tuple(sorted({(int(a), int(b)) for a, b in pairs}))
