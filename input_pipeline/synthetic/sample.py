"""One sample of a data set, by its number alone.

Every random choice comes from (seed, split, index) and a stream of its own for
landmarks and for appearance: a sample does not depend on batches, on workers or on
the size of the picture, and its landmarks can be had without drawing it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from input_pipeline.sources.motion import Motion, frame_order
from input_pipeline.synthetic import scene
from input_pipeline.synthetic.body import (
    Posture,
    draw_body,
    forward_kinematics,
    posture_from_joints,
)
from input_pipeline.synthetic.camera import draw_view, frame_person, view_rotation
from input_pipeline.synthetic.cones import Cones
from input_pipeline.synthetic.person import build_person
from input_pipeline.synthetic.poses import draw_pose
from input_pipeline.synthetic.render import render

SPLITS = {"train": 0, "val": 1}
NUM_SUBJECTS = {"train": 40, "val": 10}
_LANDMARKS, _LOOK, _PICTURE = range(3)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A drawn individual.

    ``image`` (size, size, 3) uint8, (0, 0, 3) where no picture was asked for;
    ``keypoints`` (P, 2) float32 pixels; ``positions_mm`` (P, 3) float32, camera frame
    (x right, y down, z away), the root at the origin.
    """

    image: np.ndarray
    keypoints: np.ndarray
    positions_mm: np.ndarray
    action: str
    subject: int


@dataclasses.dataclass(frozen=True)
class View:
    """A posture in the camera frame (mm), the world's ``up`` (3,) there, and its place:
    ``scale`` (picture sides per mm) and ``translation`` (2,) (picture sides).
    """

    posture: Posture
    up: np.ndarray
    scale: float
    translation: np.ndarray

    def keypoints(self, size: int) -> np.ndarray:
        """(P, 2) float32 pixels of the joints in a picture of that side."""
        scale, translation = self.scale * size, self.translation * size
        pixels = scale * self.posture.joints[:, :2] + translation
        return pixels.astype(np.float32)


def draw_subject(rng: np.random.Generator, split: str, counts: dict[str, int]) -> int:
    """The number of an individual; those of the splits are disjoint."""
    return int(rng.integers(counts[split])) + (counts["train"] if split == "val" else 0)


def look_at(
    rng: np.random.Generator,
    posture: Posture,
    root: int,
    elevation: tuple[float, float],
) -> View:
    """Draws a camera and places a posture before it."""
    rotation = view_rotation(*draw_view(rng, elevation))
    posture = posture.rotated(rotation, root)
    return View(posture, rotation[:, 1], *frame_person(rng, posture.joints))


def render_sample(
    index: int,
    *,
    split: str,
    seed: int,
    size: int,
    elevation_deg: tuple[float, float] = (-10.0, 30.0),
    motion: Motion | None = None,
    picture: bool = True,
) -> Sample:
    """Draws mannequin ``index`` of a split.

    Args:
        index: number of the sample, from 0; with a motion that of a frame of the
            split, see :func:`.motion.frame_order`.
        split: ``"train"`` or ``"val"``; their subjects are disjoint.
        seed: of the whole data set.
        size: side of the square picture in pixels.
        elevation_deg: (low, high) of the camera's elevation, above is positive.
        motion: takes the poses from it; by default they are drawn by :mod:`.poses`.
        picture: whether to draw it; the rest of the sample is the same without.
    """

    def generator(stream: int) -> np.random.Generator:
        return np.random.default_rng((seed, SPLITS[split], index, stream))

    rng = generator(_LANDMARKS)
    if motion is None:
        subject = draw_subject(rng, split, NUM_SUBJECTS)
        body = draw_body(seed, subject)
        action, angles = draw_pose(rng)
        posture = forward_kinematics(angles, body)
    else:
        frame = frame_order(motion, split, seed)[index]
        subject, action = int(motion.subject[frame]), str(motion.action[frame])
        body = draw_body(seed, abs(subject))
        posture = posture_from_joints(motion.positions[frame].astype(np.float64))
    view = look_at(rng, posture, 0, elevation_deg)
    image = np.zeros((0, 0, 3), np.uint8)
    if picture:
        look = scene.draw_look(generator(_LOOK))
        cones = build_person(view.posture, body, look)
        image = paint(generator(_PICTURE), cones, view, look=look, size=size)
    positions = view.posture.joints.astype(np.float32)
    return Sample(image, view.keypoints(size), positions, action, subject)


def paint(
    rng: np.random.Generator, cones: Cones, view: View, *, look: scene.Look, size: int
) -> np.ndarray:
    """Draws cones (camera frame, mm) in a room of their own: (size, size, 3) uint8.

    Light, background, shadow of the joints and noise are drawn from ``rng`` alone;
    ``look`` paints shirt and face, where the cones ask for it.
    """
    joints, up = view.posture.joints, view.up
    light = scene.draw_light(rng)
    lowest = view.translation[1] + view.scale * float(joints[:, 1].max())
    scale, translation = view.scale * size, view.translation * size
    horizon = lowest - rng.uniform(0.02, 0.16) - 0.2 * max(up[2] * -1.0, 0.0)
    background, is_floor = scene.draw_background(rng, size, horizon)
    shadow = scene.ground_shadow(
        joints, up, light, scale=scale, translation=translation, size=size
    )
    shadow *= is_floor[:, None] * np.float32(0.75 * (up[2] < 0.0))
    background *= 1.0 - shadow[:, :, None]
    cones = cones.to_pixels(scale, translation)
    picture = render(cones, background, look=look, light=light, up=up)
    noise = rng.uniform(0.0, 0.018)
    picture += noise * rng.standard_normal(picture.shape, dtype=np.float32)
    return (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
