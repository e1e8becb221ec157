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
# joint: the joint from which its bone comes, and the part that turns the bone.
_BONES = {
    "Spine": ("Pelvis", "waist"),
    "Thorax": ("Spine", "chest"),
    "Neck": ("Thorax", "neck"),
    "Head": ("Neck", "head"),
    "Shoulder": ("Thorax", "clavicle"),
    "Elbow": ("Shoulder", "arm"),
    "Wrist": ("Elbow", "elbow"),
    "Hip": ("Pelvis", "root"),
    "Knee": ("Hip", "hip"),
    "Ankle": ("Knee", "knee"),
}
TRUNK = tuple(_PARTS)[:5]
PARTS = TRUNK + tuple(f"{part}_{side}" for side in "lr" for part in [*_PARTS][5:])
PART = {name: i for i, name in enumerate(PARTS)}
JOINT = {name: i for i, name in enumerate(H36M_17.joints)}
# The frames that a solid body needs besides the joints: where each is drawn from.
FRAMES = {
    "pelvis": "root",
    "chest": "chest",
    "head": "head",
    "LHand": "wrist_l",
    "RHand": "wrist_r",
    "LFoot": "ankle_l",
    "RFoot": "ankle_r",
}
_ROWS = [_PARTS[part.split("_")[0]] for part in PARTS]
LIMITS = np.array([row[2:] for row in _ROWS], np.float64)  # (PARTS, 3, 2)
_SIDE = np.array([(1, -1, -1) if part.endswith("_r") else (1, 1, 1) for part in PARTS])
_TO_RADIANS = np.deg2rad(np.array([row[1] for row in _ROWS]) * _SIDE)
_MIRROR = [PART[p[:-1] + {"l": "r", "r": "l"}[p[-1]] if "_" in p else p] for p in PARTS]
_MIRROR_SIGN = np.array([(1, -1, -1) if part in TRUNK else (1, 1, 1) for part in PARTS])


def _bone_rows() -> list[tuple[int, int, int]]:
    """Joint, joint it hangs from and part of every bone, parents first."""
    rows = []
    for joint, (parent, part) in _BONES.items():
        for side in ("",) if joint in JOINT else "LR":
            above = parent if parent in JOINT else side + parent
            turning = part if part in PART else f"{part}_{side.lower()}"
            rows.append((JOINT[side + joint], JOINT[above], PART[turning]))
    return rows


_BONE_ROWS = _bone_rows()
_PARENT_ROWS = [
    -1 if not row[0] else PART.get(row[0], PART.get(f"{row[0]}_{part[-1]}", -1))
    for part, row in zip(PARTS, _ROWS, strict=True)
]


def mirror_angles(angles: np.ndarray) -> np.ndarray:
    """The pose (PARTS, 3) seen in a mirror: left and right change places."""
    return angles[_MIRROR] * _MIRROR_SIGN


def clip_to_limits(angles: np.ndarray) -> np.ndarray:
    """The pose (PARTS, 3) in degrees with every angle inside :data:`LIMITS`."""
    return np.clip(angles, LIMITS[..., 0], LIMITS[..., 1])


@dataclasses.dataclass(frozen=True)
class Body:
    """Measures of one individual.

    ``bones`` (P, 3) mm: from the parent joint to each joint, in the frame of the part
    that turns the bone; ``sizes``: factors for the thickness of the solid parts.
    """

    bones: np.ndarray
    sizes: Mapping[str, float]


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
    hip_width = 0.055 * own[0] * (1.0 + 0.04 * build)
    shoulder_width = 0.103 * own[1] * (1.0 + 0.05 * rng.normal())
    vectors = {
        "Hip": (hip_width, -0.012, 0.0),
        "Knee": (0.0, -0.243 * own[2] * legs, 0.0),
        "Ankle": (0.0, -0.244 * own[3] * legs, 0.0),
        "Spine": (0.0, 0.130 * own[4], 0.0),
        "Thorax": (0.0, 0.142 * own[5], 0.0),
        "Neck": (0.0, 0.093 * own[6], 0.0),
        "Head": (0.0, 0.062 * own[7], 0.0),
        "Shoulder": (shoulder_width, 0.028, 0.0),
        "Elbow": (0.0, -0.167 * own[8] * arms, 0.0),
        "Wrist": (0.0, -0.148 * own[9] * arms, 0.0),
    }
    bones = np.zeros((len(JOINT), 3))
    for name, joint in JOINT.items():
        vector = vectors.get(name, vectors.get(name[1:], (0.0, 0.0, 0.0)))
        mirror = -1.0 if name.startswith("R") else 1.0
        bones[joint] = np.multiply(vector, (mirror * stature, stature, stature))
    girth = float(np.clip(1.0 + 0.11 * build, 0.8, 1.3)) * stature / 1700.0
    head = 1.07 * stature / 1700.0 * (1.0 + 0.04 * rng.normal())
    shank = -float(bones[JOINT["LAnkle"], 1])
    foot = 0.5 * (girth + shank / 415.0)
    return Body(bones, {"one": 1.0, "girth": girth, "head": head, "foot": foot})


@dataclasses.dataclass(frozen=True)
class Posture:
    """Where the joints are and how the parts without a joint of their own turn.

    ``joints`` (P, 3) mm; ``frames``: the columns of each (3, 3) are the unit vectors
    to its left, up (hands: from the fingers to the wrist) and forward.
    """

    joints: np.ndarray
    frames: Mapping[str, np.ndarray]

    def rotated(self, rotation: np.ndarray, root: int) -> Posture:
        """The posture relative to joint ``root`` in another frame, x' = rotation x."""
        joints = (self.joints - self.joints[root]) @ rotation.T
        return Posture(joints, {k: rotation @ v for k, v in self.frames.items()})


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


def hang_bones(
    rows: Sequence[tuple[int, int, int]], bones: np.ndarray, turns: np.ndarray
) -> np.ndarray:
    """Joints (P, 3) from bones (P, 3) and the frames (F, 3, 3) that turn them.

    ``rows`` holds (joint, joint it hangs from, frame), parents first; a joint without
    a row lies at the origin.
    """
    joints = np.zeros_like(bones)
    for joint, parent, frame in rows:
        joints[joint] = joints[parent] + turns[frame] @ bones[joint]
    return joints


def forward_kinematics(angles: np.ndarray, body: Body) -> Posture:
    """The posture of a pose (PARTS, 3) in degrees, pelvis at the origin, mm."""
    turns = rotations(angles * _TO_RADIANS)
    for part, parent in enumerate(_PARENT_ROWS):
        if parent >= 0:
            turns[part] = turns[parent] @ turns[part]
    frames = {name: turns[PART[part]] for name, part in FRAMES.items()}
    return Posture(hang_bones(_BONE_ROWS, body.bones, turns), frames)


def posture_from_joints(joints: np.ndarray) -> Posture:
    """The posture of joints (17, 3) alone, for instance of motion capture.

    What the joints do not say is guessed: the head looks where the chest does, the
    hands go on from the forearms, the feet stand square to the shanks.
    """
    point = {name: joints[i] for name, i in JOINT.items()}
    hips = point["LHip"] - point["RHip"]
    shoulders = point["LShoulder"] - point["RShoulder"]
    frames = {
        "pelvis": _frame(point["Spine"] - point["Pelvis"], hips),
        "chest": _frame(point["Thorax"] - point["Spine"], shoulders),
    }
    ways = [("head", "Head", "Thorax", "chest")]
    ways += [(f"{s}Hand", f"{s}Elbow", f"{s}Wrist", "chest") for s in "LR"]
    ways += [(f"{s}Foot", f"{s}Knee", f"{s}Ankle", "pelvis") for s in "LR"]
    for name, upper, lower, near in ways:
        frames[name] = _frame(point[upper] - point[lower], frames[near][:, 0])
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
