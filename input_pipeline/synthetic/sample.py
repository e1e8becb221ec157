"""One sample of the data set, by its number alone.

Every random choice comes from (seed, split, index) and a stream of its own for
landmarks and for appearance: a sample does not depend on batches, on workers or on
the size of the picture, and its landmarks can be had without drawing it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from input_pipeline.sources.motion import Motion, frame_order
from input_pipeline.synthetic import scene
from input_pipeline.synthetic.actions import draw_pose
from input_pipeline.synthetic.body import (
    Body,
    Posture,
    draw_body,
    forward_kinematics,
    posture_from_joints,
)
from input_pipeline.synthetic.camera import (
    draw_view,
    frame_person,
    project,
    view_rotation,
)
from input_pipeline.synthetic.figure import Cones, build_figure, joint_radii
from input_pipeline.synthetic.render import hidden_joints, render

SPLITS = {"train": 0, "val": 1}
NUM_SUBJECTS = {"train": 40, "val": 10}
_LANDMARKS, _LOOK, _PICTURE = range(3)


@dataclasses.dataclass(frozen=True)
class MannequinLandmarks:
    """What is known of a sample besides its picture.

    ``keypoints`` (17, 2) float32 pixels; ``occlusion`` (17,) int8, 2 labelled, 1
    hidden by the body itself; ``positions_mm`` (17, 3) float32, camera frame (x
    right, y down, z away), the pelvis at the origin.
    """

    keypoints: np.ndarray
    occlusion: np.ndarray
    positions_mm: np.ndarray
    action: str
    subject: int
    azimuth_deg: float
    elevation_deg: float


@dataclasses.dataclass(frozen=True)
class MannequinSample(MannequinLandmarks):
    """A sample with its picture: ``image`` (size, size, 3) uint8."""

    image: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Everything that is decided before drawing; pictures have side 1."""

    posture: Posture  # camera frame
    body: Body
    look: scene.Look
    cones: Cones  # mm
    scale: float  # picture sides per mm
    translation: np.ndarray
    up: np.ndarray
    occlusion: np.ndarray
    action: str
    subject: int
    azimuth_deg: float
    elevation_deg: float


def _generator(seed: int, split: str, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((seed, SPLITS[split], index, stream))


def _check(index: int, split: str, seed: int, size: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"split {split!r} must be one of {sorted(SPLITS)}")
    if index < 0 or seed < 0:
        raise ValueError(f"index={index} and seed={seed} must not be negative")
    if size < 8:
        raise ValueError(f"size={size} must be at least 8 pixels")


def _plan(
    index: int,
    *,
    split: str,
    seed: int,
    elevation_deg: tuple[float, float],
    motion: Motion | None,
) -> _Plan:
    rng = _generator(seed, split, index, _LANDMARKS)
    if motion is None:
        first = 0 if split == "train" else NUM_SUBJECTS["train"]
        subject = first + int(rng.integers(NUM_SUBJECTS[split]))
        body = draw_body(seed, subject)
        action, angles = draw_pose(rng)
        posture = forward_kinematics(angles, body)
    else:
        frame = _frame_of(motion, split, seed, index)
        subject, action = int(motion.subject[frame]), str(motion.action[frame])
        body = draw_body(seed, abs(subject))
        posture = posture_from_joints(motion.positions[frame].astype(np.float64))
    azimuth, elevation, roll = draw_view(rng, elevation_deg)
    rotation = view_rotation(azimuth, elevation, roll)
    posture = posture.rotated(rotation)
    scale, translation = frame_person(rng, posture.joints)
    look = scene.draw_look(_generator(seed, split, index, _LOOK))
    cones = build_figure(posture, body, look)
    hidden = hidden_joints(cones, posture.joints, 1.25 * joint_radii(body) + 15.0)
    return _Plan(
        posture=posture,
        body=body,
        look=look,
        cones=cones,
        scale=scale,
        translation=translation,
        up=rotation[:, 1],
        occlusion=np.where(hidden, 1, 2).astype(np.int8),
        action=action,
        subject=subject,
        azimuth_deg=azimuth,
        elevation_deg=elevation,
    )


def _frame_of(motion: Motion, split: str, seed: int, index: int) -> int:
    order = frame_order(motion, split, seed)
    if index >= len(order):
        raise ValueError(
            f"sample {index} of {split!r} was asked for, but the motion has only "
            f"{len(order)} frames there; ask for at most that many samples"
        )
    return int(order[index])


def _landmarks(plan: _Plan, size: int) -> dict[str, Any]:
    pixels = project(
        plan.posture.joints,
        scale=plan.scale * size,
        translation=plan.translation * size,
    )
    return {
        "keypoints": pixels.astype(np.float32),
        "occlusion": plan.occlusion,
        "positions_mm": plan.posture.joints.astype(np.float32),
        "action": plan.action,
        "subject": plan.subject,
        "azimuth_deg": plan.azimuth_deg,
        "elevation_deg": plan.elevation_deg,
    }


def project_landmarks(
    index: int,
    *,
    split: str,
    seed: int,
    size: int,
    elevation_deg: tuple[float, float] = (-10.0, 30.0),
    motion: Motion | None = None,
) -> MannequinLandmarks:
    """The sample of :func:`render_sample` without its picture, exactly the same."""
    _check(index, split, seed, size)
    plan = _plan(
        index, split=split, seed=seed, elevation_deg=elevation_deg, motion=motion
    )
    return MannequinLandmarks(**_landmarks(plan, size))


def render_sample(
    index: int,
    *,
    split: str,
    seed: int,
    size: int,
    elevation_deg: tuple[float, float] = (-10.0, 30.0),
    motion: Motion | None = None,
) -> MannequinSample:
    """Draws sample ``index`` of a split.

    Args:
        index: number of the sample, from 0. With a motion it must be below the
            number of the split's frames, see :func:`.motion.frame_order`.
        split: ``"train"`` or ``"val"``; their subjects are disjoint.
        seed: of the whole data set.
        size: side of the square picture in pixels.
        elevation_deg: (low, high) of the camera's elevation, above is positive.
        motion: motion capture from which to take the poses; by default they are
            drawn from the repertoire of :mod:`.actions`.

    Returns:
        The sample; it depends on the arguments alone.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(index, split, seed, size)
    plan = _plan(
        index, split=split, seed=seed, elevation_deg=elevation_deg, motion=motion
    )
    image = paint(
        _generator(seed, split, index, _PICTURE),
        plan.cones,
        plan.posture.joints,
        look=plan.look,
        up=plan.up,
        scale=plan.scale,
        translation=plan.translation,
        size=size,
    )
    return MannequinSample(image=image, **_landmarks(plan, size))


def paint(
    rng: np.random.Generator,
    cones: Cones,
    joints: np.ndarray,
    *,
    look: scene.Look,
    up: np.ndarray,
    scale: float,
    translation: np.ndarray,
    size: int,
) -> np.ndarray:
    """Draws cones in a room of their own: light, background, shadow, noise.

    Args:
        rng: the only source of chance.
        cones: of the figure, camera frame, mm.
        joints: (P, 3) camera frame, mm; they stand on the floor and cast the shadow.
        look: the paintings of shirt and face, where the cones ask for them.
        up: (3,) the world's up in the camera frame.
        scale: picture sides per mm.
        translation: (2,) picture sides, where the camera frame's origin lands.
        size: side of the picture in pixels.

    Returns:
        (size, size, 3) uint8.
    """
    light = scene.draw_light(rng)
    lowest = translation[1] + scale * float(joints[:, 1].max())
    scale, translation = scale * size, translation * size
    horizon = lowest - rng.uniform(0.02, 0.16) - 0.2 * max(up[2] * -1.0, 0.0)
    background, is_floor = scene.draw_background(rng, size, horizon)
    shadow = scene.ground_shadow(
        joints, up, light, scale=scale, translation=translation, size=size
    )
    shadow *= is_floor[:, None] * np.float32(0.75 * (up[2] < 0.0))
    background *= 1.0 - shadow[:, :, None]
    picture = render(
        cones.to_pixels(scale, translation), background, look=look, light=light, up=up
    )
    picture += rng.uniform(0.0, 0.018) * rng.standard_normal(
        picture.shape, dtype=np.float32
    )
    return (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
