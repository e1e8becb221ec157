"""The kinematic body: bones, joint limits, forward kinematics.

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

import numpy as np

from input_pipeline.skeleton import H36M_17

_SIDE_PARTS = ("clavicle", "arm", "elbow", "wrist", "hip", "knee", "ankle")
TRUNK = ("root", "waist", "chest", "neck", "head")
PARTS = TRUNK + tuple(f"{part}_{side}" for side in "lr" for part in _SIDE_PARTS)
PART = {name: i for i, name in enumerate(PARTS)}
JOINT = {name: i for i, name in enumerate(H36M_17.joints)}

# Degrees, (low, high) of flexion, abduction or side bend, rotation or twist.
_LIMITS = {
    "root": ((-35, 80), (-35, 35), (-30, 30)),
    "waist": ((-22, 45), (-22, 22), (-25, 25)),
    "chest": ((-15, 35), (-18, 18), (-25, 25)),
    "neck": ((-30, 35), (-25, 25), (-45, 45)),
    "head": ((-20, 25), (-12, 12), (-25, 25)),
    "clavicle": ((0, 0), (-8, 28), (-15, 25)),
    "arm": ((-55, 178), (-45, 150), (-85, 85)),
    "elbow": ((0, 148), (0, 0), (0, 0)),
    "wrist": ((-60, 65), (-20, 25), (0, 0)),
    "hip": ((-30, 122), (-22, 65), (-45, 40)),
    "knee": ((0, 148), (0, 0), (0, 0)),
    "ankle": ((-28, 50), (-15, 15), (-10, 10)),
}
LIMITS = np.array([_LIMITS[p.removesuffix("_l").removesuffix("_r")] for p in PARTS])

# How the columns (flexion, abduction, rotation) become angles about x, z and y.
_SIGNS = {
    **dict.fromkeys(TRUNK, (1, -1, 1)),
    "clavicle": (0, 1, -1),
    "arm": (-1, 1, -1),
    "elbow": (-1, 0, 0),
    "wrist": (-1, 1, 0),
    "hip": (-1, 1, -1),
    "knee": (1, 0, 0),
    "ankle": (1, 1, -1),
}


def _sign_table() -> np.ndarray:
    rows = []
    for part in PARTS:
        name, _, side = part.partition("_")
        x, z, y = _SIGNS[name]
        rows.append((x, -z, -y) if side == "r" else (x, z, y))
    return np.array(rows, np.float64)


_TO_RADIANS = np.deg2rad(_sign_table())


def _mirror_order() -> np.ndarray:
    swap = {"l": "r", "r": "l"}
    names = [
        f"{n}_{swap[s]}" if s else n for n, _, s in (p.partition("_") for p in PARTS)
    ]
    return np.array([PART[name] for name in names])


_MIRROR = _mirror_order()
_MIRROR_SIGN = np.array([(1, -1, -1) if p in TRUNK else (1, 1, 1) for p in PARTS])


def mirror_angles(angles: np.ndarray) -> np.ndarray:
    """The pose (PARTS, 3) seen in a mirror: left and right change places."""
    return angles[_MIRROR] * _MIRROR_SIGN


def clip_to_limits(angles: np.ndarray) -> np.ndarray:
    """The pose (PARTS, 3) in degrees with every angle inside :data:`LIMITS`."""
    return np.clip(angles, LIMITS[..., 0], LIMITS[..., 1])


@dataclasses.dataclass(frozen=True)
class Body:
    """Measures of one person in mm; ``girth`` scales the thickness of the limbs."""

    hip: np.ndarray  # (3,) pelvis to left hip, body frame
    thigh: float
    shank: float
    lower_spine: float
    upper_spine: float
    neck: float
    head: float
    shoulder: np.ndarray  # (3,) thorax to left shoulder, chest frame
    upper_arm: float
    forearm: float
    girth: float
    head_size: float


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
    hip_width = 0.055 * stature * own[0] * (1.0 + 0.04 * build)
    shoulder_width = 0.103 * stature * own[1] * (1.0 + 0.05 * rng.normal())
    return Body(
        hip=np.array([hip_width, -0.012 * stature, 0.0]),
        thigh=0.243 * stature * own[2] * legs,
        shank=0.244 * stature * own[3] * legs,
        lower_spine=0.130 * stature * own[4],
        upper_spine=0.142 * stature * own[5],
        neck=0.093 * stature * own[6],
        head=0.062 * stature * own[7],
        shoulder=np.array([shoulder_width, 0.028 * stature, 0.0]),
        upper_arm=0.167 * stature * own[8] * arms,
        forearm=0.148 * stature * own[9] * arms,
        girth=float(np.clip(1.0 + 0.11 * build, 0.8, 1.3)) * stature / 1700.0,
        head_size=1.07 * stature / 1700.0 * (1.0 + 0.04 * rng.normal()),
    )


@dataclasses.dataclass(frozen=True)
class Posture:
    """Where the joints are and how the parts without a joint of their own turn.

    ``joints`` (17, 3) mm, H36M_17. ``frames`` (7, 3, 3): pelvis, chest, head,
    left hand, right hand, left foot, right foot; the columns of each are the unit
    vectors to its left, up (hands: from the fingers to the wrist) and forward.
    """

    joints: np.ndarray
    frames: np.ndarray

    def rotated(self, rotation: np.ndarray) -> Posture:
        """The posture relative to its pelvis in another frame, x' = rotation x."""
        joints = (self.joints - self.joints[0]) @ rotation.T
        return Posture(joints, rotation @ self.frames)


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
    """Joints of a pose.

    Args:
        angles: (PARTS, 3) degrees, see the module's text.
        body: the measures of the person.

    Returns:
        The posture in the body frame, pelvis at the origin, mm.
    """
    turn = rotations(angles * _TO_RADIANS)
    pelvis = turn[PART["root"]]
    waist = pelvis @ turn[PART["waist"]]
    chest = waist @ turn[PART["chest"]]
    neck = chest @ turn[PART["neck"]]
    head = neck @ turn[PART["head"]]
    joints = np.zeros((17, 3))
    joints[JOINT["Spine"]] = spine = body.lower_spine * waist[:, 1]
    joints[JOINT["Thorax"]] = thorax = spine + body.upper_spine * chest[:, 1]
    joints[JOINT["Neck"]] = thorax + body.neck * neck[:, 1]
    joints[JOINT["Head"]] = joints[JOINT["Neck"]] + body.head * head[:, 1]
    hands, feet = [], []
    for side, mirror in (("L", 1.0), ("R", -1.0)):
        hands.append(_arm(joints, turn, chest, thorax, body, side, mirror))
        feet.append(_leg(joints, turn, pelvis, body, side, mirror))
    return Posture(joints, np.stack([pelvis, chest, head, *hands, *feet]))


def _arm(
    joints: np.ndarray,
    turn: np.ndarray,
    chest: np.ndarray,
    thorax: np.ndarray,
    body: Body,
    side: str,
    mirror: float,
) -> np.ndarray:
    """Fills in one arm and returns the frame of its hand."""
    low = side.lower()
    clavicle = chest @ turn[PART[f"clavicle_{low}"]]
    upper = chest @ turn[PART[f"arm_{low}"]]
    fore = upper @ turn[PART[f"elbow_{low}"]]
    shoulder = thorax + clavicle @ (body.shoulder * (mirror, 1.0, 1.0))
    elbow = shoulder - body.upper_arm * upper[:, 1]
    joints[JOINT[f"{side}Shoulder"]] = shoulder
    joints[JOINT[f"{side}Elbow"]] = elbow
    joints[JOINT[f"{side}Wrist"]] = elbow - body.forearm * fore[:, 1]
    return fore @ turn[PART[f"wrist_{low}"]]


def _leg(
    joints: np.ndarray,
    turn: np.ndarray,
    pelvis: np.ndarray,
    body: Body,
    side: str,
    mirror: float,
) -> np.ndarray:
    """Fills in one leg and returns the frame of its foot."""
    low = side.lower()
    thigh = pelvis @ turn[PART[f"hip_{low}"]]
    shank = thigh @ turn[PART[f"knee_{low}"]]
    hip = pelvis @ (body.hip * (mirror, 1.0, 1.0))
    knee = hip - body.thigh * thigh[:, 1]
    joints[JOINT[f"{side}Hip"]] = hip
    joints[JOINT[f"{side}Knee"]] = knee
    joints[JOINT[f"{side}Ankle"]] = knee - body.shank * shank[:, 1]
    return shank @ turn[PART[f"ankle_{low}"]]


def posture_from_joints(joints: np.ndarray) -> Posture:
    """The posture of joints (17, 3) alone, for instance of motion capture.

    What the joints do not say is guessed: the head looks where the chest does, the
    hands go on from the forearms, the feet stand square to the shanks.
    """
    point = {name: joints[i] for name, i in JOINT.items()}
    hips = point["LHip"] - point["RHip"]
    shoulders = point["LShoulder"] - point["RShoulder"]
    pelvis = _frame(point["Spine"] - point["Pelvis"], hips)
    chest = _frame(point["Thorax"] - point["Spine"], shoulders)
    head = _frame(point["Head"] - point["Thorax"], chest[:, 0])
    hands = [_frame(point[f"{s}Elbow"] - point[f"{s}Wrist"], chest[:, 0]) for s in "LR"]
    feet = [_frame(point[f"{s}Knee"] - point[f"{s}Ankle"], pelvis[:, 0]) for s in "LR"]
    return Posture(joints, np.stack([pelvis, chest, head, *hands, *feet]))


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
