"""Bodies as trees: frames that turn, bones that hang in them; the measures of a person.

Frame: x to the person's left, y up, z the way the person faces (right-handed).
A pose is an array (PARTS, 3) of degrees. Each part turns by ``Rx Rz Ry`` in the
frame of its parent; the columns are named after what an anatomist would say, with
signs chosen so that a left and a right limb take the same numbers:

- limbs: flexion (forward; elbow and knee: bending; ankle: toes down), abduction
  (away from the middle; clavicle: up), rotation (inwards; clavicle: forward);
- trunk, neck, head: flexion (forward), side bend (to the left), twist (to the left).

At zero the body stands upright with hanging arms.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.skeleton import H36M_17

# part: its parent; the signs that turn (flexion, abduction, rotation) into angles
# about x, z and y; and the limits of the three, in degrees.
_PARTS = {
    "root": ("", (1, -1, 1), (-35, 80), (-35, 35), (-30, 30)),
    "waist": ("root", (1, -1, 1), (-22, 45), (-22, 22), (-25, 25)),
    "chest": ("waist", (1, -1, 1), (-15, 35), (-18, 18), (-25, 25)),
    "neck": ("chest", (1, -1, 1), (-30, 35), (-25, 25), (-45, 45)),
    "head": ("neck", (1, -1, 1), (-20, 25), (-12, 12), (-25, 25)),
    "clavicle": ("chest", (0, 1, -1), (0, 0), (-8, 28), (-15, 25)),
    "arm": ("chest", (-1, 1, -1), (-55, 178), (-45, 150), (-85, 85)),
    "elbow": ("arm", (-1, 0, 0), (0, 148), (0, 0), (0, 0)),
    "wrist": ("elbow", (-1, 1, 0), (-60, 65), (-20, 25), (0, 0)),
    "hip": ("root", (-1, 1, -1), (-30, 122), (-22, 65), (-45, 40)),
    "knee": ("hip", (1, 0, 0), (0, 148), (0, 0), (0, 0)),
    "ankle": ("knee", (1, 1, -1), (-28, 50), (-15, 15), (-10, 10)),
}
# joint: the joint from which its bone comes, the part that turns the bone, and the bone
# in that part's frame, as shares of the stature ("*": on either side, mirrored).
_BONES = {
    "Spine": ("Pelvis", "waist", (0.0, 0.130, 0.0)),
    "Thorax": ("Spine", "chest", (0.0, 0.142, 0.0)),
    "Neck": ("Thorax", "neck", (0.0, 0.093, 0.0)),
    "Head": ("Neck", "head", (0.0, 0.062, 0.0)),
    "*Hip": ("Pelvis", "root", (0.055, -0.012, 0.0)),
    "*Shoulder": ("Thorax", "*clavicle", (0.103, 0.028, 0.0)),
    "*Knee": ("*Hip", "*hip", (0.0, -0.243, 0.0)),
    "*Ankle": ("*Knee", "*knee", (0.0, -0.244, 0.0)),
    "*Elbow": ("*Shoulder", "*arm", (0.0, -0.167, 0.0)),
    "*Wrist": ("*Elbow", "*elbow", (0.0, -0.148, 0.0)),
}
TRUNK = tuple(_PARTS)[:5]
PARTS = TRUNK + tuple(f"{side}{part}" for side in "LR" for part in [*_PARTS][5:])
PART = {name: i for i, name in enumerate(PARTS)}
JOINT = {name: i for i, name in enumerate(H36M_17.joints)}
KINDS = [part.lstrip("LR") for part in PARTS]
LIMITS = np.array([_PARTS[kind][2:] for kind in KINDS], np.float64)  # (PARTS, 3, 2)
_PARENTS = [
    PART.get(_PARTS[kind][0], PART.get(part[0] + _PARTS[kind][0], -1))
    for part, kind in zip(PARTS, KINDS, strict=True)
]
_SIDE = np.array([(1, -1, -1) if part[0] == "R" else (1, 1, 1) for part in PARTS])
_TO_RADIANS = np.deg2rad(np.array([_PARTS[kind][1] for kind in KINDS]) * _SIDE)
_MIRROR = [PART[part.translate(str.maketrans("LR", "RL"))] for part in PARTS]
_MIRROR_SIGN = np.array([(1, -1, -1) if part in TRUNK else (1, 1, 1) for part in PARTS])


def mirror_angles(angles: np.ndarray) -> np.ndarray:
    """The pose (PARTS, 3) seen in a mirror: left and right change places."""
    return angles[_MIRROR] * _MIRROR_SIGN


def clip_to_limits(angles: np.ndarray) -> np.ndarray:
    """The pose (PARTS, 3) in degrees with every angle inside :data:`LIMITS`."""
    return np.clip(angles, LIMITS[..., 0], LIMITS[..., 1])


@dataclasses.dataclass(frozen=True)
class Body:
    """Measures of one individual.

    ``bones``: (joint, joint it hangs from, frame that turns it, vector (3,) mm in that
    frame), parents first; ``sizes``: factors for the thickness of the solid parts.
    """

    bones: Sequence[tuple]
    sizes: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Posture:
    """Where the joints are and how the parts without a joint of their own turn.

    ``joints`` (P, 3) mm; ``frames``: the columns of each (3, 3) are the unit vectors
    to its left, up (wrists: from the fingers to the wrist) and forward.
    """

    joints: np.ndarray
    frames: Mapping[str, np.ndarray]

    def rotated(self, rotation: np.ndarray, root: int) -> Posture:
        """The posture relative to joint ``root`` in another frame, x' = rotation x."""
        joints = (self.joints - self.joints[root]) @ rotation.T
        return Posture(joints, {k: rotation @ v for k, v in self.frames.items()})


def both_sides(table: Mapping[str, tuple[str, str, Any]]) -> list[tuple]:
    """:attr:`Body.bones` of a table in which "*" stands for either side."""
    rows = []
    for joint, (parent, frame, vector) in table.items():
        for side in "LR" if "*" in joint else " ":
            mirrored = np.multiply(vector, (-1.0 if side == "R" else 1.0, 1.0, 1.0))
            names = (joint, parent, frame)
            rows.append((*(name.replace("*", side) for name in names), mirrored))
    return rows


def hang_bones(
    body: Body, turns: Mapping[str, np.ndarray], index: Mapping[str, int]
) -> np.ndarray:
    """Joints (P, 3) of a body whose frames are turned; its root is the origin."""
    joints = np.zeros((len(index), 3))
    for joint, parent, frame, vector in body.bones:
        joints[index[joint]] = joints[index[parent]] + turns[frame] @ vector
    return joints


@functools.lru_cache(maxsize=1024)
def draw_body(seed: int, subject: int) -> Body:
    """The measures of one subject: shared stature and build, each bone its own.

    Segment lengths are shares of the stature in the range of published tables;
    arms and legs vary as a whole (4 %), every bone on its own (2.5 %).
    """
    rng = np.random.default_rng((seed, subject, 0xB0D7))
    stature = float(np.clip(rng.normal(1700.0, 95.0), 1450.0, 1980.0))
    build = rng.normal()
    legs, arms = 1.0 + 0.04 * rng.normal(size=2).clip(-2, 2)
    own = 1.0 + 0.025 * rng.normal(size=10).clip(-2, 2)
    own[0] *= 1.0 + 0.04 * build  # the hips
    own[1] *= 1.0 + 0.05 * rng.normal()  # the shoulders
    own[2:4] *= legs
    own[8:] *= arms
    own = np.concatenate([own[4:8], own[:4], own[8:]])  # in the order of the table
    table = {}
    for (joint, (parent, part, vector)), factor in zip(
        _BONES.items(), own, strict=True
    ):
        scaled = stature * np.array(vector)
        # Hips and shoulders vary in width, all others in length.
        scaled[0 if vector[0] else 1] *= factor
        table[joint] = parent, part, scaled
    girth = float(np.clip(1.0 + 0.11 * build, 0.8, 1.3)) * stature / 1700.0
    head = 1.07 * stature / 1700.0 * (1.0 + 0.04 * rng.normal())
    foot = 0.5 * (girth - table["*Ankle"][2][1] / 415.0)
    sizes = {"one": 1.0, "girth": girth, "head": head, "foot": foot}
    return Body(both_sides(table), sizes)


def rotations(angles: np.ndarray) -> np.ndarray:
    """(n, 3, 3) of the products ``Rx(a) Rz(b) Ry(c)`` of angles (n, 3) in radians."""
    sa, sb, sc = np.sin(angles).T
    ca, cb, cc = np.cos(angles).T
    rows = (
        (cb * cc, -sb, cb * sc),
        (ca * sb * cc + sa * sc, ca * cb, ca * sb * sc - sa * cc),
        (sa * sb * cc - ca * sc, sa * cb, sa * sb * sc + ca * cc),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def forward_kinematics(angles: np.ndarray, body: Body) -> Posture:
    """The posture of a pose (PARTS, 3) in degrees, pelvis at the origin, mm."""
    turns = rotations(angles * _TO_RADIANS)
    for part, parent in enumerate(_PARENTS):
        if parent >= 0:
            turns[part] = turns[parent] @ turns[part]
    frames = dict(zip(PARTS, turns, strict=True))
    return Posture(hang_bones(body, frames, JOINT), frames)


def posture_from_joints(joints: np.ndarray) -> Posture:
    """The posture of joints (17, 3) alone, for instance of motion capture.

    What the joints do not say is guessed: the head looks where the chest does, the
    hands go on from the forearms, the feet stand square to the shanks.
    """
    at = {name: joints[i] for name, i in JOINT.items()}
    root = _frame(at["Spine"] - at["Pelvis"], at["LHip"] - at["RHip"])
    chest = _frame(at["Thorax"] - at["Spine"], at["LShoulder"] - at["RShoulder"])
    head = _frame(at["Head"] - at["Thorax"], chest[:, 0])
    frames = {"root": root, "chest": chest, "head": head}
    for side in "LR":
        forearm, shank = (
            at[f"{side}{upper}"] - at[f"{side}{lower}"]
            for upper, lower in (("Elbow", "Wrist"), ("Knee", "Ankle"))
        )
        frames[f"{side}wrist"] = _frame(forearm, chest[:, 0])
        frames[f"{side}ankle"] = _frame(shank, root[:, 0])
    return Posture(joints, frames)


def _frame(up: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Axes (3, 3) with the second column along ``up``, the first near ``left``."""
    height = float(np.linalg.norm(up))
    up = up / height if height > 1e-3 else np.array([0.0, 1.0, 0.0])
    left = left - (left @ up) * up
    length = float(np.linalg.norm(left))
    if length < 1e-3:  # a limb straight along the sideways axis: any normal will do
        left = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
        length = float(np.linalg.norm(left))
    left = left / length
    return np.stack([left, up, np.cross(left, up)], axis=1)
