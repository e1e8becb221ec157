"""Landmarks without pictures: captured motion seen by random weak-perspective cameras.

Frames and cameras follow from the seed; the convention of the angles is that of
``input_pipeline.synthetic.camera``. Validation has other subjects than training.
"""

from __future__ import annotations

import numpy as np

from input_pipeline.ground_truth import GroundTruth
from input_pipeline.landmarks import Landmarks, make_landmarks
from input_pipeline.settings import SPLITS, DataSettings
from input_pipeline.skeleton import H36M_17
from input_pipeline.sources.motion import frame_order, load_motion
from input_pipeline.sources.records import existing_path
from input_pipeline.synthetic.camera import view_rotation

ROLL_DEG = 5.0
PICTURE_MM = 2200.0  # what the height of a picture shows
_CAMERA_STREAM = 7


def project(settings: DataSettings, split: str) -> tuple[Landmarks, GroundTruth]:
    """Draws frames without replacement and a camera for each, and projects.

    The first ``num_train`` or ``num_val`` frames of ``motion.frame_order`` are taken
    (0: all of them); ``sample_ids`` count the frames of the motion file.

    Raises:
        ValueError: no such file, damaged motion, or fewer frames than asked for.
    """
    path = existing_path(settings.mocap_file, "mocap_file")
    motion = load_motion(str(path))
    frames = split_frames(settings, split)
    world = motion.positions[frames].astype(np.float64)
    rng = np.random.default_rng(
        (settings.seed, SPLITS.index(split) + 1, _CAMERA_STREAM)
    )
    # Cameras all around.
    azimuth = rng.uniform(0.0, 360.0, len(frames))
    elevation = rng.uniform(*settings.elevation_deg, len(frames))
    roll = rng.uniform(-ROLL_DEG, ROLL_DEG, len(frames))
    views = zip(azimuth, elevation, roll, strict=True)
    rotation = np.stack([view_rotation(*view) for view in views])
    # About the root, so that a walk across the room stays in the picture.
    positions = (world - world[:, :1]) @ rotation.transpose(0, 2, 1)
    size = settings.render_size
    middle = np.array((size / 2, size / 2))
    keypoints = size / PICTURE_MM * positions[..., :2] + middle
    landmarks = make_landmarks(
        skeleton=H36M_17,
        sample_ids=frames,
        keypoints=keypoints.astype(np.float32),
        labelled=np.ones(keypoints.shape[:2], bool),
        boxes=None,
        names=tuple(f"{path.name} frame {frame}" for frame in frames),
        padding=settings.padding,
    )
    found = positions.astype(np.float32), motion.action[frames], motion.subject[frames]
    return landmarks, GroundTruth(frames, *found)


def split_frames(settings: DataSettings, split: str) -> np.ndarray:
    """The frames of a split, in the order of its samples.

    Raises:
        ValueError: no such file, damaged motion, or fewer frames than asked for.
    """
    path = existing_path(settings.mocap_file, "mocap_file")
    order = frame_order(load_motion(str(path)), split, settings.seed)
    count = settings.num_train if split == "train" else settings.num_val
    if count > len(order):
        raise ValueError(
            f"config.data.num_{split} = {count}: {path} has only {len(order)} {split} "
            "frames; set no more than that"
        )
    return order[: count or len(order)].astype(np.int64)
