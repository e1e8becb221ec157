"""Landmarks without pictures: captured motion seen by random weak-perspective cameras.

The motion's world has y up. A camera at azimuth 0 and elevation 0 looks along -z, so
that its x (right) is the world's, its y (down) is the world's -y and its z (away) the
world's -z. The body is turned by the azimuth about the vertical, the camera raised by
the elevation (above 0 it looks down) and rolled in the picture.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from input_pipeline.datasets.prepared import existing_file
from input_pipeline.datasets.rendering import load_motion
from input_pipeline.landmarks import Landmarks, make_landmarks
from input_pipeline.settings import SPLITS, DataSettings
from input_pipeline.skeleton import H36M_17

ROLL_DEG = 5.0
# A grown person upright takes four fifths of the picture's height.
PICTURE_MM = 2200.0
UNKNOWN_SUBJECT = 0


@dataclasses.dataclass(frozen=True)
class Projection:
    """Landmarks, and apart from them the 3D they come from, for evaluation."""

    landmarks: Landmarks
    positions_mm: np.ndarray
    action: np.ndarray
    subject: np.ndarray


def project(settings: DataSettings, split: str) -> Projection:
    """Chooses the frames of a split, draws a camera for each, and projects.

    Everything follows from the seed: the subjects held out for validation, the
    frames (without replacement) and the cameras. ``sample_ids`` count the frames of
    the motion file.

    Raises:
        ValueError: no such file, too few frames, or nobody to hold out.
    """
    path = existing_file(settings.mocap_file, "mocap_file")
    motion = load_motion(str(path))
    frames = choose_frames(np.asarray(motion.subject), settings, split)
    world = np.asarray(motion.positions, np.float64)[frames]
    bad = np.flatnonzero(~np.isfinite(world).all(axis=(1, 2)))
    if bad.size:
        raise ValueError(
            f"{path}, frame {frames[bad[0]]}: NaN in {bad.size} of the frames; "
            "remove these frames from the file"
        )
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), 1])
    camera = random_cameras(len(frames), settings.elevation_deg, rng)
    # About the root, so that a walk across the room stays in the picture.
    positions = (world - world[:, :1]) @ camera.transpose(0, 2, 1)
    pixels_per_mm = settings.render_size / PICTURE_MM
    keypoints = positions[..., :2] * pixels_per_mm + settings.render_size / 2
    landmarks = make_landmarks(
        skeleton=H36M_17,
        sample_ids=frames,
        keypoints=keypoints.astype(np.float32),
        visible=np.ones(keypoints.shape[:2], bool),
        boxes=None,
        names=tuple(f"{path.name} frame {frame}" for frame in frames),
        padding=settings.padding,
    )
    return Projection(
        landmarks,
        positions.astype(np.float32),
        np.asarray(motion.action)[frames],
        np.asarray(motion.subject)[frames],
    )


def choose_frames(
    subject: np.ndarray, settings: DataSettings, split: str
) -> np.ndarray:
    """Indices of the frames of a split, in random order without repetition.

    Validation takes whole subjects, drawn by the seed until they have ``num_val``
    frames; training takes ``num_train`` frames (0: all) of everybody else. Frames
    of an unknown subject (0) are never held out: they could be anybody's.
    """
    rng = np.random.default_rng([settings.seed, 0])
    held = held_out(subject, settings.num_val, rng)
    order = rng.permutation(len(subject))
    in_val = np.isin(subject[order], held)
    frames = order[in_val] if split == "val" else order[~in_val]
    count = settings.num_val if split == "val" else settings.num_train
    if count > len(frames) or not len(frames):
        raise ValueError(
            f"{settings.mocap_file}: {split} has {len(frames)} frames after subjects "
            f"{held.tolist()} are held out; set --config.data.num_{split} to no more"
        )
    return frames[: count or len(frames)].astype(np.int64)


def held_out(subject: np.ndarray, num_val: int, rng: Any) -> np.ndarray:
    """Subjects drawn until they have ``num_val`` frames.

    Raises:
        ValueError: nobody would be left to train on.
    """
    known = np.unique(subject[subject != UNKNOWN_SUBJECT])
    known = known[rng.permutation(len(known))]
    frames = np.cumsum([np.sum(subject == s) for s in known])
    count = 0 if num_val == 0 else int(np.searchsorted(frames, num_val)) + 1
    everybody = len(known) + int((subject == UNKNOWN_SUBJECT).any())
    if num_val and (count > len(known) or count == everybody):
        raise ValueError(
            f"config.data.num_val = {num_val}: the motion has {len(known)} known "
            "subjects, not enough to hold some out; set a smaller num_val or 0"
        )
    return known[:count]


def random_cameras(
    count: int, elevation_deg: tuple[float, float], rng: Any
) -> np.ndarray:
    """(count, 3, 3): rows are the camera's x (right), y (down), z (away) in the world.

    Azimuth is uniform over the circle, elevation over its range, roll over +-5
    degrees.
    """
    azimuth = rng.uniform(0, 2 * np.pi, count)
    elevation = np.deg2rad(rng.uniform(*elevation_deg, count))
    roll = np.deg2rad(rng.uniform(-ROLL_DEG, ROLL_DEG, count))
    return camera_rotation(azimuth, elevation, roll)


def camera_rotation(
    azimuth: np.ndarray, elevation: np.ndarray, roll: np.ndarray
) -> np.ndarray:
    """World to camera for angles in radians; (..., 3, 3).

    >>> camera_rotation(np.zeros(()), np.zeros(()), np.zeros(())).tolist()
    [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]
    """
    zero, one = np.zeros_like(azimuth), np.ones_like(azimuth)
    ca, sa = np.cos(azimuth), np.sin(azimuth)
    ce, se = np.cos(elevation), np.sin(elevation)
    cr, sr = np.cos(roll), np.sin(roll)
    turn = _matrix([[ca, zero, sa], [zero, one, zero], [-sa, zero, ca]])
    look = _matrix([[one, zero, zero], [zero, -ce, se], [zero, -se, -ce]])
    tilt = _matrix([[cr, -sr, zero], [sr, cr, zero], [zero, zero, one]])
    # Adding 0 turns -0.0 into 0.0.
    return tilt @ look @ turn + 0.0


def _matrix(rows: list[list[np.ndarray]]) -> np.ndarray:
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
