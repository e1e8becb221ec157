"""The repertoire of action families; :mod:`.actions` draws poses from it.

A family is a row of key poses between which a random phase chooses; a key pose
names angles in degrees (see :mod:`.body` for the columns). ``arm`` without a side
stands for both; ``trunk`` is shared between waist and chest. What a family leaves
open (arms, legs) is filled from everyday postures, so that families combine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from input_pipeline.synthetic.body import (
    PART,
    PARTS,
    clip_to_limits,
    mirror_angles,
)

Angles = float | tuple[float, ...]
KeyPose = Mapping[str, Angles]

_SHARED = {"trunk": (("waist", 0.5), ("chest", 0.5))}


def _angles(key_pose: KeyPose) -> np.ndarray:
    """A key pose as an array (PARTS, 3) of degrees."""
    result = np.zeros((len(PARTS), 3))
    for name, value in key_pose.items():
        row = np.zeros(3)
        values = np.atleast_1d(value)
        row[: len(values)] = values
        targets = _SHARED.get(name) or ((name, 1.0),)
        if name not in PART and name not in _SHARED:
            targets = ((f"{name}_l", 1.0), (f"{name}_r", 1.0))
        for part, share in targets:
            result[PART[part]] = share * row
    return result


@dataclasses.dataclass(frozen=True)
class Action:
    """One family.

    ``keys`` (n, PARTS, 3): the key poses; ``cyclic``: whether the last leads back to
    the first; ``noise``: degrees of per-angle variation; ``idle``: which limbs come
    from everyday postures instead.
    """

    keys: np.ndarray
    cyclic: bool
    noise: float
    idle: tuple[str, ...]


def _action(
    *keys: KeyPose, cyclic: bool = False, noise: float = 7.0, idle: str = ""
) -> Action:
    return Action(np.stack([_angles(k) for k in keys]), cyclic, noise, (*idle.split(),))


def _stride(hip: float, knee: float, arm: float, elbow: float, lean: float) -> Action:
    """A gait: contact, mid-swing and the same with the sides exchanged."""
    contact = {
        "root": lean,
        "trunk": (lean / 2, 0, 18),
        "hip_r": (hip, 3),
        "knee_r": 6 + knee / 6,
        "ankle_r": -5,
        "hip_l": (-0.75 * hip, 3),
        "knee_l": 0.45 * knee,
        "ankle_l": 22,
        "arm_l": (arm, 6, 15),
        "arm_r": (-arm, 8, 5),
        "elbow_l": elbow + 15,
        "elbow_r": elbow,
    }
    swing = {
        "root": lean,
        "trunk": lean / 2,
        "hip_r": (4, 2),
        "knee_r": 10,
        "hip_l": (0.9 * hip, 2),
        "knee_l": 1.35 * knee,
        "ankle_l": 10,
        "arm": (0, 7, 10),
        "elbow": elbow + 8,
    }
    # Fast gaits ask for more than a hip gives: the stride ends at the limit.
    first = [clip_to_limits(_angles(contact)), clip_to_limits(_angles(swing))]
    return Action(
        np.stack(first + [mirror_angles(k) for k in first]), True, 5.0, idle=()
    )


_STAND = {"hip": (2, 5), "knee": 4}
_HANG = {"arm": (3, 8, 10), "elbow": 15}
_LUNGE = {"hip_r": (75, 5), "knee_r": 75, "hip_l": (-18, 4), "knee_l": 35}
_SIT = {"hip": (85, 10), "knee": 85}
_SQUAT = {"root": 28, "hip": (105, 20), "knee": 120, "ankle": -25}
_GUARD = {
    "trunk": (10, 0, 20),
    "hip_l": (22, 12),
    "knee_l": 28,
    "hip_r": (-10, 15, -20),
    "knee_r": 25,
    "arm": (45, 12, 25),
    "elbow": 122,
}
_FLOOR = {"hip": (100, 25, -30), "knee": 115}

IDLE_ARMS = (
    *(_angles(_HANG),) * 3,
    _angles({"arm": (-22, 42, 45), "elbow": 100}),  # hands on the hips
    _angles({"arm": (32, 5, 62), "elbow": 105}),  # folded before the chest
    _angles({"arm": (-38, 8, 40), "elbow": 55}),  # behind the back
    _angles({"arm": (-12, 18, 15), "elbow": 55}),  # in the pockets
    _angles({"arm": (28, 10, 15), "elbow": 85}),  # something in the hands
    _angles({"arm": (60, 15, 15), "elbow": 130, "wrist": 20}),  # at the face
    _angles({"arm": (50, 60, -30), "elbow": 70}),  # a gesture
    _angles({"arm": (10, 85, 0), "elbow": 25, "clavicle": (0, 8)}),  # to the side
    _angles({"arm": (85, 12, 0), "elbow": 20, "clavicle": (0, 5, 8)}),  # forward
    _angles({"arm": (160, 15, 0), "elbow": 30, "clavicle": (0, 20)}),  # up
    _angles({"arm": (150, 40, 30), "elbow": 120, "clavicle": (0, 12)}),  # at the nape
)
IDLE_LEGS = (
    *(_angles(_STAND),) * 3,
    _angles({"hip": (0, 22, -10), "knee": 3}),  # astride
    _angles({"hip_r": (20, 12, -15), "knee_r": 32, "root": (0, 6)}),  # on one leg
    _angles({"hip_r": (28, 4), "knee_r": 12, "hip_l": (-18, 4), "knee_l": 12}),
    _angles({"hip": (30, 10), "knee": 42, "root": 12}),  # bent
    _angles({"hip_r": (-12, 0, 20), "knee_r": 60, "ankle_r": 35}),  # toe behind
    _angles({"hip_r": (10, -14), "knee_r": 20, "hip_l": (-5, -10)}),  # crossed
    _angles({"hip_r": (68, 12), "knee_r": 80}),  # a foot on a step
)

ACTIONS: dict[str, Action] = {
    "standing": _action({}, {"root": (0, 5, 8)}, idle="arms legs"),
    "waiting": _action(
        {"root": (4, 8), "hip_l": (0, -4), "hip_r": (12, 14, -15), "knee_r": 22},
        {"root": (0, -6), "trunk": (5, 8), "hip": (4, 8), "knee": 8},
        idle="arms",
    ),
    "walking": _stride(26, 42, 24, 14, 4),
    "striding": _stride(38, 50, 38, 25, 7),
    "strolling": _stride(17, 30, 12, 8, 2),
    "jogging": _stride(42, 78, 38, 82, 10),
    "sprinting": _stride(64, 92, 62, 84, 22),
    "marching": _stride(62, 70, 50, 10, 0),
    "sneaking": _action(
        {"root": 30, **_LUNGE, "arm_l": (60, 20), "arm_r": (10, 30), "elbow": 90},
        {"root": 35, "hip": (60, 8), "knee": 80, "arm": (40, 15), "elbow": 100},
        {"root": 28, "hip_l": (85, 5), "knee_l": 95, "hip_r": 35, "knee_r": 60},
        cyclic=True,
    ),
    "stairs": _action(
        {"root": 10, "hip_r": (72, 4), "knee_r": 82, "hip_l": -5, "knee_l": 12},
        {"root": 12, "hip_r": (35, 4), "knee_r": 35, "hip_l": 20, "knee_l": 75},
        idle="arms",
    ),
    "jumping": _action(
        {**_SQUAT, "arm": (-50, 15), "elbow": 15},
        {"hip": (-8, 8), "knee": 12, "ankle": 45, "arm": (165, 15), "elbow": 10},
        {"hip": (75, 12), "knee": 95, "ankle": 20, "arm": (90, 35), "elbow": 25},
    ),
    "jumping_jack": _action(
        {"arm": (0, 8), "hip": (0, 3), "knee": 10},
        {"arm": (0, 95), "hip": (0, 25), "knee": 14},
        {"arm": (0, 148), "elbow": 15, "clavicle": (0, 25), "hip": (0, 36)},
    ),
    "leaping": _action(
        {"root": 14, "hip_r": (85, 8), "hip_l": (-28, 5), "knee_l": 30, "knee_r": 30}
        | {"arm_l": (110, 25), "arm_r": (-30, 45), "elbow": 25},
        {"root": 5, "hip_r": (55, 15), "hip_l": (-28, 15), "knee_l": 85, "knee_r": 8}
        | {"arm_l": (60, 80), "arm_r": (20, 90), "elbow": 15},
    ),
    "hopping": _action(
        {"hip_r": (40, 8), "knee_r": 105, "hip_l": (28, 3), "knee_l": 45, "root": 10},
        {"hip_r": (10, 8), "knee_r": 95, "hip_l": (-4, 3), "knee_l": 6, "ankle_l": 40},
        idle="arms",
    ),
    "squatting": _action(
        {"root": 15, "hip": (45, 15), "knee": 55, "arm": (60, 10), "elbow": 15},
        {**_SQUAT, "arm": (88, 12), "elbow": 12},
        {**_SQUAT, "arm": (45, 8, 30), "elbow": 115, "trunk": -10},
    ),
    "crouching": _action(
        {**_SQUAT, "root": 40, "trunk": 30},
        {"root": 35, "hip_r": (110, 10), "knee_r": 125, "hip_l": (60, 8), "knee_l": 138}
        | {"trunk": 25},
        idle="arms",
    ),
    "lunging": _action(
        _LUNGE,
        {**_LUNGE, "hip_r": (95, 5), "knee_r": 95, "knee_l": 75, "trunk": (10, 0, 25)},
        {"hip_r": (25, 50, -25), "knee_r": 70, "hip_l": (0, 45), "trunk": 15},
        idle="arms",
    ),
    "kneeling": _action(
        {"hip_r": (92, 8), "knee_r": 92, "hip_l": (-5, 5), "knee_l": 92, "ankle_l": 35},
        {"hip": (5, 10), "knee": 95, "ankle": 45},
        {"hip": (70, 15), "knee": 146, "ankle": 48, "root": 8},
        idle="arms",
    ),
    "sitting": _action(
        {**_SIT, "root": -8},
        {**_SIT, "root": 18, "trunk": 25, "knee": 100},
        {"hip": (72, 6), "knee": 40, "root": -18, "trunk": 15},
        idle="arms",
    ),
    "sitting_crossed_legs": _action(
        {"hip_r": (95, -15, 15), "knee_r": 65, "hip_l": (85, 4), "knee_l": 88}
        | {"root": -8, "trunk": 8},
        {"hip_r": (85, 40, -40), "knee_r": 105, "hip_l": (85, 5), "knee_l": 88}
        | {"root": -10, "trunk": 12},
        idle="arms",
    ),
    "sitting_on_floor": _action(
        {"hip": (88, 12), "knee": 10, "root": -10, "trunk": 15},
        {"hip": (110, 10), "knee": 105, "trunk": 25},
        {"hip": (95, 55, -40), "knee": 130, "trunk": 12},
        {"hip_r": (115, 8), "knee_r": 110, "hip_l": (80, 15), "knee_l": 12},
        idle="arms",
    ),
    "typing": _action(
        {**_SIT, "arm": (35, 5, 15), "elbow": 85, "head": 15},
        {**_SIT, "trunk": 15, "arm": (55, 10, 20), "elbow": 62, "neck": -10},
    ),
    "reaching_up": _action(
        {"arm_r": (170, 8), "clavicle_r": (0, 25), "trunk": (-6, 12), "arm_l": (5, 12)}
        | {**_STAND, "ankle": 30, "neck": -25},
        {"arm": (165, 15), "clavicle": (0, 25), "trunk": -10, **_STAND, "ankle": 40},
    ),
    "reaching_forward": _action(
        {
            "trunk": (20, 0, 20),
            "arm_r": (95, -5),
            "elbow_r": 8,
            "clavicle_r": (0, 0, 20),
        },
        {"root": 25, "trunk": (25, 0, 15), "arm_r": (110, 10), "arm_l": (-20, 20)}
        | {"hip_r": (45, 3), "knee_r": 40, "hip_l": (10, 3)},
        {"trunk": 20, "arm": (85, 5), "elbow": 15, "hip": (20, 5)},
    ),
    "picking_up": _action(
        {"root": 60, "trunk": 40, "hip": (75, 6), "knee": 20, "arm_r": (85, 5)},
        {"root": 45, "trunk": 35, "hip": (85, 12), "knee": 70, "arm": (80, 5)},
        {**_LUNGE, "root": 35, "trunk": 45, "knee_l": 95, "arm": (60, 5), "elbow": 20},
    ),
    "bowing": _action(
        {"root": 20, "hip": (20, 3), "trunk": 12, "neck": 20, **_HANG},
        {"root": 55, "hip": (55, 3), "trunk": 30, "neck": 15, "arm": (45, 8)},
        {"root": 35, "hip": (35, 3), "arm_r": (30, 5, 60), "elbow_r": 100, "neck": 20},
    ),
    "waving": _action(
        {"arm_r": (25, 95, -60), "elbow_r": 60, "clavicle_r": (0, 10)},
        {"arm_r": (60, 120, -30), "elbow_r": 25, "clavicle_r": (0, 20)},
        {"arm_r": (90, 60, -75), "elbow_r": 95},
        idle="legs",
    ),
    "waving_both": _action(
        {"arm": (30, 110, -50), "elbow": 70, "clavicle": (0, 15)},
        {"arm": (20, 140, -10), "elbow": 30, "clavicle": (0, 25)},
        idle="legs",
    ),
    "pointing": _action(
        {"arm_r": (88, 5), "elbow_r": 8, "trunk": (0, 0, 12)},
        {"arm_r": (70, 85), "elbow_r": 10, "neck": (0, 0, -40)},
        {"arm_r": (135, 20), "elbow_r": 12, "neck": -20},
        {"arm_r": (55, -25), "elbow_r": 12},
        idle="legs",
    ),
    "phoning": _action(
        {"arm_r": (38, 30, 20), "elbow_r": 142, "neck": (5, -12, -10)},
        {"arm_r": (60, 45, 10), "elbow_r": 135, "arm_l": (30, 5, 60), "elbow_l": 95},
        idle="legs",
    ),
    "reading": _action(
        {"arm": (28, 8, 30), "elbow": 100, "neck": 20, "head": 15},
        {"arm_r": (50, 5, 35), "elbow_r": 95, "arm_l": (20, 10, 50), "elbow_l": 100}
        | {"neck": 22, "head": 10},
        idle="legs",
    ),
    "drinking": _action(
        {"arm_r": (70, 40, 30), "elbow_r": 135, "neck": -22, "arm_l": (0, 8)},
        {"arm_r": (30, 12, 20), "elbow_r": 95, "arm_l": (-10, 20), "elbow_l": 45},
        idle="legs",
    ),
    "photographing": _action(
        {"arm": (75, 25, 35), "elbow": 118, "neck": 8},
        {"arm": (85, 15, 15), "elbow": 60},
        {"arm": (120, 20, 15), "elbow": 75, "neck": -20},
        idle="legs",
    ),
    "saluting": _action(
        {"arm_r": (60, 85, 40), "elbow_r": 138, "arm_l": (0, 4), "hip": (0, 2)},
        {"arm_r": (40, 70, 60), "elbow_r": 125, "arm_l": (-5, 10), "elbow_l": 20},
    ),
    "clapping": _action(
        {"arm": (45, -5, 30), "elbow": 80},
        {"arm": (55, 35, 10), "elbow": 60},
        {"arm": (140, 5, 30), "elbow": 50},
        idle="legs",
    ),
    "shrugging": _action(
        {"clavicle": (0, 22), "arm": (10, 35, -55), "elbow": 85},
        {"clavicle": (0, 28), "arm": (15, 55, -70), "elbow": 55, "neck": (0, 15)},
        idle="legs",
    ),
    "carrying_box": _action(
        {"arm": (25, 10, 15), "elbow": 88, "trunk": -8, **_STAND},
        {"arm": (55, 12, 15), "elbow": 50, "hip": (25, 10), "knee": 30, "root": 8},
        {"arm": (150, 20, 0), "elbow": 60, "hip_r": (22, 5), "hip_l": (-15, 5)},
    ),
    "carrying_bag": _action(
        {"arm_r": (0, 8), "trunk": (5, 12), "arm_l": (5, 35), "clavicle_r": (0, -5)},
        {"arm_r": (50, 40, 10), "elbow_r": 145, "trunk": (12, -8)},
        idle="legs",
    ),
    "pushing": _action(
        {"root": 30, "hip_r": (65, 5), "knee_r": 65, "hip_l": (-10, 5), "knee_l": 15}
        | {"arm": (95, 12), "elbow": 15},
        {"root": 22, "hip_r": (45, 5), "knee_r": 55, "hip_l": (5, 5), "knee_l": 30}
        | {"arm": (60, 25), "elbow": 95},
    ),
    "pulling": _action(
        {"root": -18, "hip_r": (45, 8), "knee_r": 25, "hip_l": (35, 8), "knee_l": 75}
        | {"arm": (65, 5), "elbow": 12},
        {"root": -10, "trunk": (0, 0, -25), "hip": (40, 15), "knee": 55}
        | {"arm_r": (-10, 25), "elbow_r": 115, "arm_l": (60, 5), "elbow_l": 40},
    ),
    "throwing": _action(
        {"trunk": (-10, -8, -45), "arm_r": (60, 95, -80), "elbow_r": 95, "root": -8}
        | {"arm_l": (80, 30), "hip_l": (50, 8), "knee_l": 50, "hip_r": (-5, 8)},
        {"trunk": (5, 5, 0), "arm_r": (120, 60, -40), "elbow_r": 60, "arm_l": (30, 30)}
        | {"hip_l": (40, 8), "knee_l": 25, "hip_r": (-15, 8), "knee_r": 25},
        {"trunk": (30, 5, 40), "arm_r": (60, -25, 20), "elbow_r": 20, "root": 22}
        | {"arm_l": (-25, 30), "hip_l": (45, 3), "knee_l": 30, "hip_r": (-15, 6)},
    ),
    "catching": _action(
        {"arm": (80, 12, 0), "elbow": 55, "hip": (30, 15), "knee": 45, "root": 12},
        {"arm": (145, 10), "elbow": 40, "hip": (5, 12), "knee": 15, "neck": -25},
        {"arm": (40, 10), "elbow": 30, "hip": (75, 18), "knee": 85, "root": 35},
    ),
    "batting": _action(
        {"trunk": (5, 0, -45), "arm_r": (45, 60, 20), "elbow_r": 110}
        | {"arm_l": (65, -40, 20), "elbow_l": 50, "hip": (22, 22), "knee": 30},
        {"trunk": (5, 0, 45), "arm_l": (60, 60, 10), "elbow_l": 70}
        | {"arm_r": (75, -35, 20), "elbow_r": 30, "hip": (15, 22), "knee": 20},
    ),
    "golfing": _action(
        {"root": 30, "trunk": (15, 0, -40), "arm_l": (85, -40), "arm_r": (70, 10)}
        | {"elbow_r": 85, "hip": (40, 12), "knee": 22},
        {"root": 32, "trunk": 20, "arm": (45, -12), "hip": (42, 12), "knee": 24},
        {"root": 5, "trunk": (0, 0, 45), "arm_r": (120, -40), "arm_l": (90, 40)}
        | {"elbow_l": 90, "hip_r": (-10, 10), "knee_r": 40},
    ),
    "serving": _action(
        {"arm_l": (160, 10), "arm_r": (20, 85, -60), "elbow_r": 120, "trunk": -20}
        | {"hip_l": (15, 8), "hip_r": (10, 10), "knee": 30, "neck": -25},
        {"arm_r": (170, 20), "elbow_r": 10, "arm_l": (50, 5, 40), "elbow_l": 80}
        | {"clavicle_r": (0, 25), "ankle": 35, "neck": -20},
    ),
    "shooting_ball": _action(
        {"arm": (95, 18, 10), "elbow": 115, "hip": (40, 10), "knee": 55, "root": 15},
        {"arm": (150, 10), "elbow": 20, "wrist": 40, "ankle": 40, "neck": -20},
    ),
    "boxing_guard": _action(
        _GUARD, {**_GUARD, "trunk": (20, 15, 25), "hip": (40, 15), "knee": 50}
    ),
    "punching": _action(
        _GUARD,
        {**_GUARD, "arm_r": (90, -5), "elbow_r": 5, "trunk": (12, 0, 45)},
        {**_GUARD, "arm_r": (80, 65, 60), "elbow_r": 85, "trunk": (5, 0, 40)},
        {**_GUARD, "arm_r": (110, 5), "elbow_r": 95, "trunk": (-5, -10, 30)},
    ),
    "front_kick": _action(
        {**_GUARD, "hip_r": (105, 5), "knee_r": 125, "root": -5, "hip_l": (-5, 3)},
        {**_GUARD, "hip_r": (95, 5), "knee_r": 8, "root": -22, "hip_l": (-18, 3)},
        {**_GUARD, "hip_r": (40, 5), "knee_r": 20, "root": -8, "hip_l": (-8, 3)},
    ),
    "side_kick": _action(
        {**_GUARD, "hip_r": (80, 40, 20), "knee_r": 120, "root": (0, 12)},
        {**_GUARD, "hip_r": (55, 62, 20), "knee_r": 8, "root": (0, 32)},
    ),
    "ball_kick": _action(
        {"hip_r": (-28, 8), "knee_r": 90, "arm_l": (20, 80), "arm_r": (-35, 30)}
        | {"root": 12, "hip_l": 20, "knee_l": 25},
        {"hip_r": (75, -8), "knee_r": 10, "arm_l": (-20, 60), "arm_r": (40, 40)}
        | {"root": -10, "hip_l": -5, "knee_l": 10, "trunk": (25, 0, 10)},
    ),
    "fencing": _action(
        {
            **_LUNGE,
            "arm_r": (75, 30),
            "elbow_r": 60,
            "arm_l": (-20, 80),
            "elbow_l": 100,
        },
        {**_LUNGE, "root": 20, "arm_r": (92, 5), "elbow_r": 5, "arm_l": (-40, 60)},
    ),
    "archery": _action(
        {"arm_l": (60, 88), "elbow_l": 3, "arm_r": (75, 70, 40), "elbow_r": 140}
        | {"neck": (0, 0, 45), "trunk": (0, 0, 15)},
        {"arm_l": (20, 35), "elbow_l": 20, "arm_r": (40, 5, 40), "elbow_r": 90},
        idle="legs",
    ),
    "dancing": _action(
        {"arm": (30, 90, -40), "elbow": 80, "trunk": (0, 18, 15), "hip": (18, 12)}
        | {"knee": 30},
        {"arm_r": (150, 40), "arm_l": (-10, 45, 45), "elbow_l": 95, "trunk": (0, -15)}
        | {"hip_r": (0, 30), "hip_l": (20, 8), "knee_l": 40},
        {"arm": (80, 35, 50), "elbow": 100, "hip_r": (55, 10), "knee_r": 75}
        | {"trunk": (10, 0, -25)},
        {"arm_r": (60, -25), "arm_l": (0, 95), "hip": (30, 22, -20), "knee": 45},
        cyclic=True,
        noise=12.0,
    ),
    "ballet": _action(
        {"arm": (70, 30, 20), "elbow": 40, "hip": (0, 8, -35), "ankle": 45},
        {"arm": (155, 25, 20), "elbow": 45, "hip_r": (60, 60, -40), "knee_r": 125},
        {"root": 35, "arm_r": (130, 15), "arm_l": (0, 95), "hip_r": (-28, 8)}
        | {"ankle": 40, "trunk": -20, "hip_l": 30},
        {"arm": (10, 100), "elbow": 15, "hip_r": (45, 60, -30), "ankle": 40},
    ),
    "yoga_tree": _action(
        {"arm": (165, 20, 20), "elbow": 35, "hip_r": (60, 60, -42), "knee_r": 138},
        {"arm": (40, 5, 40), "elbow": 110, "hip_r": (45, 50, -40), "knee_r": 120},
    ),
    "yoga_warrior": _action(
        {"arm": (0, 92), "hip_r": (60, 50, -30), "knee_r": 80, "hip_l": (-5, 42)},
        {**_LUNGE, "arm": (165, 12), "trunk": -15, "knee_l": 8, "hip_l": -30},
        {"root": 70, "hip_l": 65, "hip_r": -20, "arm": (150, 15), "knee_l": 10},
    ),
    "yoga_triangle": _action(
        {"root": (10, 35), "trunk": (0, 35), "arm": (0, 95), "hip": (15, 40)},
        {"root": 55, "trunk": (20, 0, 45), "arm": (10, 92), "hip": (60, 30)},
    ),
    "side_stretch": _action(
        {"trunk": (0, 34), "arm_r": (0, 148), "arm_l": (0, 12), "elbow": 15},
        {"trunk": (5, 20, 40), "arm": (85, 20), "elbow": 60},
        {"trunk": -30, "arm": (-50, 25), "elbow": 10, "neck": -25},
        idle="legs",
    ),
    "toe_touching": _action(
        {"root": 72, "trunk": 55, "hip": (80, 5), "knee": 6, "arm": (100, 5)},
        {"root": 65, "trunk": (45, 0, 40), "hip": (75, 30), "arm_r": (95, 5)}
        | {"arm_l": (-30, 60)},
    ),
    "climbing": _action(
        {"arm_r": (165, 15), "elbow_r": 20, "arm_l": (110, 25), "elbow_l": 95}
        | {"hip_l": (85, 30, -20), "knee_l": 100, "hip_r": (5, 10), "neck": -20},
        {"arm_l": (150, 30), "elbow_l": 60, "arm_r": (100, 35), "elbow_r": 120}
        | {"hip_r": (75, 45, -30), "knee_r": 110, "hip_l": (25, 12), "knee_l": 40},
        {"arm": (145, 15), "elbow": 75, "hip": (65, 25), "knee": 85, "root": 10},
        noise=10.0,
    ),
    "rowing": _action(
        {**_SIT, "root": 25, "trunk": 30, "arm": (85, 5), "hip": (115, 8), "knee": 110},
        {"hip": (70, 8), "knee": 12, "root": -20, "arm": (-25, 25), "elbow": 105},
    ),
    "hammering": _action(
        {"arm_r": (140, 25, -10), "elbow_r": 100, "arm_l": (50, 5), "elbow_l": 50},
        {"arm_r": (70, 5), "elbow_r": 35, "arm_l": (50, 5), "elbow_l": 55, "trunk": 25},
        idle="legs",
    ),
    "playing_guitar": _action(
        {"arm_r": (5, 35, 45), "elbow_r": 95, "arm_l": (30, 30, -15), "elbow_l": 105}
        | {"trunk": 10, "neck": (10, 0, 20)},
        {"arm_r": (-5, 45, 40), "elbow_r": 85, "arm_l": (45, 45, -30), "elbow_l": 85}
        | {"trunk": -12},
        idle="legs",
    ),
    "swimming": _action(
        {"root": 50, "hip": (45, 8), "knee": 20, "arm_r": (165, 10), "arm_l": (-40, 15)}
        | {"trunk": (0, 0, 25), "neck": -25},
        {"root": 48, "hip": (50, 20), "knee": 45, "arm": (110, 55), "elbow": 35},
        {
            "root": 50,
            "hip": (40, 8),
            "arm_l": (90, 40),
            "elbow_l": 85,
            "arm_r": (40, 5),
        },
        cyclic=True,
    ),
}
