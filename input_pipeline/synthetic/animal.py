"""A four-legged animal of 23 joints, drawn with the mannequin's cones.

It shows that nothing in the chain knows about people: skeleton, gaits and shape are
its own, only the painter is shared. Frame as in :mod:`.body`: x to the animal's left,
y up, z forward.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from input_pipeline.sides import find_left_right
from input_pipeline.skeleton import Skeleton
from input_pipeline.synthetic import scene
from input_pipeline.synthetic.body import Body, Posture, both_sides, hang_bones
from input_pipeline.synthetic.cones import build_cones, parse_parts
from input_pipeline.synthetic.render import hidden_joints
from input_pipeline.synthetic.sample import (
    SPLITS,
    Sample,
    draw_subject,
    look_at,
    paint,
)

NUM_ANIMALS = {"train": 30, "val": 8}
JOINTS = (
    *("Withers", "Loin", "TailBase", "TailMid", "TailTip", "Neck", "Nose"),
    *("LEye", "REye", "LEar", "REar"),
    *("LShoulder", "LElbow", "LForepaw", "LHip", "LKnee", "LHindpaw"),
    *("RShoulder", "RElbow", "RForepaw", "RHip", "RKnee", "RHindpaw"),
)
JOINT = {name: i for i, name in enumerate(JOINTS)}
_CHAINS = (
    "Nose Neck Withers Loin TailBase TailMid TailTip",
    "Withers LShoulder LElbow LForepaw",
    "Withers RShoulder RElbow RForepaw",
    "TailBase LHip LKnee LHindpaw",
    "TailBase RHip RKnee RHindpaw",
    "Nose LEye LEar",
    "Nose REye REar",
)
SKELETON = Skeleton(
    name="animal_23",
    joints=JOINTS,
    edges=tuple(
        (JOINT[a], JOINT[b])
        for chain in _CHAINS
        for a, b in itertools.pairwise(chain.split())
    ),
    left_right=find_left_right(JOINTS),
    root=JOINT["Withers"],
)
# mm below the skin; shoulders and hips lie deep, and are seen from their own side.
_DEPTH_INSIDE = np.array(
    [115.0 if n[1:] in ("Shoulder", "Hip") or n == "Loin" else 60.0 for n in JOINTS]
)

# Frames that turn the bones: pitch lifts what lies ahead, yaw turns it to the left.
_FRAMES = (
    *("world", "front", "rear", "neck", "head", "tail", "tip"),
    *(
        f"{side}{end}{part}"
        for end in ("fore", "hind")
        for side in "LR"
        for part in "12"
    ),
)
# Degrees: pitch of trunk, neck, head and tail; swing and fold of fore and hind legs.
# A pair is drawn uniformly.
_POSES = {
    "stand": (0, 45, -20, -35, 0, 0, 0, 0),
    "graze": (-8, (-55.0, -15.0), (-70.0, -40.0), -35, 0, 0, 0, 0),
    "sit": ((30.0, 50.0), 55, -20, -75, 0, 0, 75, 110),
    "bow": ((-35.0, -20.0), 50, -20, 45, 60, -20, 0, 0),
}
ACTIONS = ("stand", "walk", "gallop", "graze", "sit", "bow")
# Spread of: turn of the neck, its pitch, pitch and turn of the head and of the tail,
# pitch, bend and yaw of the trunk, swing and fold of the legs.
_NOISE = (28.0, 9.0, 9.0, 15.0, 18.0, 28.0, 3.0, 5.0, 9.0, *[6.0] * 8)

# start | end | radii | colour, see cones.parse_parts. A leg hides no joint of its own.
_LEG = "clear *{0} *{1} *{2} Withers TailBase"
_FORE = _LEG.format("Shoulder", "Elbow", "Forepaw")
_HIND = _LEG.format("Hip", "Knee", "Hindpaw")
_TRUNK = "clear Withers Loin TailBase Neck"
_HEAD = "clear Neck Nose"
_SOLID = f"""
Withers 0 -58 15 | Loin 0 -58 15 | 135 125 | coat | frame world, {_TRUNK}
Loin 0 -58 15 | TailBase 0 -58 15 | 125 105 | coat | frame world, {_TRUNK}
Withers 0 -19 5 | Neck | 105 72 | coat | frame world, clear Withers Neck
Neck | LEye > REye .5 | 78 70 | coat | size one, {_HEAD}
LEye > REye .5 | Nose | 64 36 | coat .93 dark | size one, {_HEAD}
*Eye | *Eye 3 0 0 | 17 17 | dark | frame head, size one, {_HEAD} LEye REye LEar REar
*Ear > Neck .6 | *Ear | 38 14 | ears | size one, clear Neck *Ear
TailBase | TailMid | 38 30 | coat | size one, clear TailBase TailMid
TailMid | TailTip | 30 14 | coat | size one, clear TailMid TailTip
*Shoulder | *Elbow | 88 48 | coat | {_FORE}
*Elbow | *Forepaw | 48 30 | legs | size one, {_FORE}
*Forepaw | *Forepaw > *Elbow -.06 | 40 38 | legs | size one
*Hip | *Knee | 108 58 | coat | {_HIND}
*Knee | *Hindpaw | 58 30 | legs | size one, {_HIND}
*Hindpaw | *Hindpaw > *Knee -.06 | 40 38 | legs | size one
"""


@dataclasses.dataclass(frozen=True)
class AnimalSample(Sample):
    """A drawn animal; ``hidden`` (23,) bool: the body itself covers the joint."""

    hidden: np.ndarray


@functools.lru_cache(maxsize=256)
def _draw_body(seed: int, subject: int) -> tuple[Body, dict[str, np.ndarray]]:
    """Measures and colours of one animal."""
    rng = np.random.default_rng((seed, subject, 0xA71A))
    own = 1.0 + 0.07 * rng.normal(size=10).clip(-2, 2)
    coat = scene.draw_look(rng).hair
    legs = 1.0 + 0.1 * rng.normal()
    muzzle, width = 230.0 * own[2], 85.0 * own[8]
    ear = 50.0 + 70.0 * float(rng.uniform(0.8, 1.5))
    # joint: the joint from which its bone comes, the frame that turns it, the bone.
    table = {
        "Withers": ("Loin", "front", (0, 0, 300.0 * own[0])),
        "TailBase": ("Loin", "rear", (0, 0, -300.0 * own[0])),
        "TailMid": ("TailBase", "tail", (0, 0, -190.0 * own[3])),
        "TailTip": ("TailMid", "tip", (0, 0, -190.0 * own[3])),
        "Neck": ("Withers", "neck", (0, 0, 250.0 * own[1])),
        "Nose": ("Neck", "head", (0, 0, muzzle)),
        "*Eye": ("Neck", "head", (52.0, 38.0, 0.45 * muzzle)),
        "*Ear": ("Neck", "head", (70.0, ear, 0)),
        "*Shoulder": ("Withers", "world", (width, -95.0, 25.0)),
        "*Elbow": ("*Shoulder", "*fore1", (0, -230.0 * own[4] * legs, 0)),
        "*Forepaw": ("*Elbow", "*fore2", (0, -290.0 * own[5] * legs, 0)),
        "*Hip": ("TailBase", "world", (width, -60.0, 45.0)),
        "*Knee": ("*Hip", "*hind1", (0, -260.0 * own[6] * legs, 0)),
        "*Hindpaw": ("*Knee", "*hind2", (0, -300.0 * own[7] * legs, 0)),
    }
    shade = coat if rng.random() < 0.5 else 0.6 * coat
    dark = np.full(3, 0.06)
    colours = {"coat": coat, "legs": shade, "ears": 0.8 * shade, "dark": dark}
    return Body(both_sides(table), {"one": 1.0, "girth": float(own[9])}), colours


def _stride(rng: np.random.Generator, reach: float, *, gallop: bool) -> list[float]:
    """Swing and fold of the four legs, and the bend of the back.

    Legs swing like pendulums; at a walk diagonal pairs, at a gallop both ends.
    """
    phase = rng.uniform(0.0, 2.0 * np.pi)
    ahead = phase + np.array([0.0, 0.5 if gallop else np.pi])
    behind = ahead + (1.0 if gallop else 0.75) * np.pi
    fore = np.stack([np.sin(ahead), -1.4 * np.maximum(np.cos(ahead), 0.0)], 1)
    hind = np.stack([np.sin(behind), np.maximum(np.cos(behind), 0.0)], 1)
    bend = 12.0 * np.cos(phase) if gallop else 0.0
    return [*(reach * np.concatenate([fore, hind])).ravel(), bend]


def _draw_frames(rng: np.random.Generator, action: str) -> dict[str, np.ndarray]:
    """The frames of one pose of an action, with noise on every angle."""
    if action in _POSES:
        row = [rng.uniform(*v) if isinstance(v, tuple) else v for v in _POSES[action]]
        trunk, neck, head, tail, *leg = row
        legs, bend = [*leg[:2], *leg[:2], *leg[2:], *leg[2:]], 0.0
    else:
        gallop = action == "gallop"
        reach = rng.uniform(30.0, 50.0) if gallop else rng.uniform(12.0, 28.0)
        trunk, neck, head, tail = 0.0, 35.0 if gallop else 45.0, -20.0, -35.0
        *legs, bend = _stride(rng, reach, gallop=gallop)
    noise = rng.normal(0.0, _NOISE)
    turn, trunk, bend, yaw = noise[0], trunk + noise[6], bend + noise[7], noise[8]
    tail, wag = tail + noise[4], noise[5]
    pitches = [0.0, trunk - bend, trunk + bend, neck + noise[1], head + noise[2]]
    pitches += [trunk - tail, trunk - 0.4 * tail]
    yaws = [0.0, yaw, -yaw, 0.5 * turn, turn + noise[3], wag, 1.6 * wag] + [0.0] * 8
    swings, folds = np.reshape(legs + noise[9:], (4, 2)).T
    upper = np.array([-22.0, -22.0, 18.0, 18.0]) + swings + 0.5 * trunk
    # A hind leg folds backwards below the knee, a fore leg below the elbow too.
    lower = upper + np.array([42.0, 42.0, -50.0, -50.0]) - np.abs(folds)
    pitches += np.stack([upper, lower], 1).ravel().tolist()
    angles = np.deg2rad([pitches, yaws])
    (sp, sy), (cp, cy) = np.sin(angles), np.cos(angles)
    # Ry(yaw) Rx(-pitch): the third column looks ahead.
    rows = (cy, -sy * sp, sy * cp), (0 * cp, cp, sp), (-sy, -cy * sp, cy * cp)
    turns = np.stack([np.stack(row, -1) for row in rows], -2)
    return dict(zip(_FRAMES, turns, strict=True))


def draw_animal(
    index: int,
    *,
    split: str,
    seed: int = 0,
    size: int = 256,
    elevation_deg: tuple[float, float] = (-10.0, 30.0),
) -> AnimalSample:
    """Draws animal ``index`` of a split, as ``render_sample`` draws a mannequin."""
    rng = np.random.default_rng((seed, SPLITS[split], index, 0xA71A))
    subject = draw_subject(rng, split, NUM_ANIMALS)
    body, colours = _draw_body(seed, subject)
    action = ACTIONS[int(rng.integers(len(ACTIONS)))]
    frames = _draw_frames(rng, action)
    posture = Posture(hang_bones(body, frames, JOINT), frames)
    view = look_at(rng, posture, SKELETON.root, elevation_deg)
    cones = build_cones(
        parse_parts(_SOLID), view.posture, JOINTS, sizes=body.sizes, colours=colours
    )
    return AnimalSample(
        hidden=hidden_joints(cones, view.posture.joints, _DEPTH_INSIDE),
        image=paint(rng, cones, view, look=scene.draw_look(rng), size=size),
        keypoints=view.keypoints(size),
        positions_mm=view.posture.joints.astype(np.float32),
        action=action,
        subject=subject,
    )
