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

from input_pipeline.skeleton import Skeleton
from input_pipeline.synthetic import scene
from input_pipeline.synthetic.camera import (
    draw_view,
    frame_person,
    project,
    view_rotation,
)
from input_pipeline.synthetic.figure import ConeBuilder, Cones
from input_pipeline.synthetic.render import hidden_joints
from input_pipeline.synthetic.sample import paint

_TRUNK = [
    "Withers",
    "Loin",
    "TailBase",
    "TailMid",
    "TailTip",
    "Neck",
    "Nose",
    "LEye",
    "REye",
    "LEar",
    "REar",
]
_LEGS = [
    f"{side}{joint}"
    for side in "LR"
    for joint in ["Shoulder", "Elbow", "Forepaw", "Hip", "Knee", "Hindpaw"]
]
JOINTS = (*_TRUNK, *_LEGS)
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


def _edges() -> tuple[tuple[int, int], ...]:
    chains = [chain.split() for chain in _CHAINS]
    pairs = [p for c in chains for p in itertools.pairwise(c)]
    return tuple((JOINT[a], JOINT[b]) for a, b in pairs)


SKELETON = Skeleton(
    name="animal_23",
    joints=JOINTS,
    edges=_edges(),
    left_right=tuple(
        (i, JOINT[f"R{name[1:]}"])
        for name, i in JOINT.items()
        if name[0] == "L" and f"R{name[1:]}" in JOINT
    ),
    root=JOINT["Withers"],
)
# mm below the skin; shoulders and hips lie deep, and are seen from their own side.
_DEPTH_INSIDE = np.array(
    [115.0 if n[1:] in ("Shoulder", "Hip") or n == "Loin" else 60.0 for n in JOINTS]
)
SPLITS = {"train": 0, "val": 1}
NUM_ANIMALS = {"train": 30, "val": 8}
ACTIONS = ("stand", "walk", "gallop", "graze", "sit", "bow")


@dataclasses.dataclass(frozen=True)
class AnimalSample:
    """A drawn animal.

    ``image`` (size, size, 3) uint8; ``keypoints`` (23, 2) float32 pixels;
    ``occlusion`` (23,) int8, 2 labelled, 1 hidden by the body itself;
    ``positions_mm`` (23, 3) float32, camera frame.
    """

    image: np.ndarray
    keypoints: np.ndarray
    occlusion: np.ndarray
    positions_mm: np.ndarray
    action: str
    subject: int


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Measures in mm and the coat's two colours (3,) of one animal."""

    back: float
    neck: float
    muzzle: float
    tail: float
    fore: tuple[float, float]
    hind: tuple[float, float]
    width: float
    girth: float
    ear: float
    coat: np.ndarray
    legs: np.ndarray


@functools.lru_cache(maxsize=256)
def _draw_shape(seed: int, subject: int) -> _Shape:
    rng = np.random.default_rng((seed, subject, 0xA71A))
    own = 1.0 + 0.07 * rng.normal(size=10).clip(-2, 2)
    look = scene.draw_look(rng)
    legs = 1.0 + 0.1 * rng.normal()
    return _Shape(
        back=300.0 * own[0],
        neck=250.0 * own[1],
        muzzle=230.0 * own[2],
        tail=190.0 * own[3],
        fore=(230.0 * own[4] * legs, 290.0 * own[5] * legs),
        hind=(260.0 * own[6] * legs, 300.0 * own[7] * legs),
        width=85.0 * own[8],
        girth=float(own[9]),
        ear=70.0 * float(rng.uniform(0.8, 1.5)),
        coat=look.hair,
        legs=look.hair if rng.random() < 0.5 else 0.6 * look.hair,
    )


@dataclasses.dataclass
class _Pose:
    """Degrees. Pitch lifts what lies ahead (trunk, neck, head) or behind (tail)."""

    trunk: float = 0.0
    bend: float = 0.0  # of the back, upwards
    yaw: float = 0.0  # of the back, to the left
    neck: tuple[float, float] = (45.0, 0.0)  # pitch, yaw
    head: tuple[float, float] = (-20.0, 0.0)
    tail: tuple[float, float] = (-35.0, 0.0)
    fore: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    hind: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


def _stride(rng: np.random.Generator, reach: float, *, gallop: bool) -> _Pose:
    """Legs swing like pendulums; at a walk diagonal pairs, at a gallop both ends."""
    phase = rng.uniform(0.0, 2.0 * np.pi)
    lag = {"L": 0.0, "R": 0.5 if gallop else np.pi}
    pose = _Pose(bend=12.0 * np.cos(phase) if gallop else 0.0)
    for side in "LR":
        ahead = phase + lag[side]
        behind = ahead + (np.pi if gallop else 0.75 * np.pi)
        lift = max(np.cos(ahead), 0.0)
        pose.fore[side] = (reach * np.sin(ahead), -1.4 * reach * lift)
        pose.hind[side] = (reach * np.sin(behind), reach * max(np.cos(behind), 0.0))
    pose.neck = (35.0 if gallop else 45.0, 0.0)
    return pose


def _draw_pose(rng: np.random.Generator, action: str) -> _Pose:
    """One pose of an action, with noise on every angle."""
    pose = _Pose()
    if action in ("walk", "gallop"):
        gallop = action == "gallop"
        reach = rng.uniform(30.0, 50.0) if gallop else rng.uniform(12.0, 28.0)
        pose = _stride(rng, reach, gallop=gallop)
    elif action == "graze":
        pose = _Pose(trunk=-8.0, neck=(rng.uniform(-55.0, -15.0), 0.0))
        pose.head = (rng.uniform(-70.0, -40.0), 0.0)
    elif action == "sit":
        pose = _Pose(trunk=rng.uniform(30.0, 50.0), neck=(55.0, 0.0))
        pose.hind = dict.fromkeys("LR", (75.0, 110.0))
        pose.tail = (-75.0, 0.0)
    elif action == "bow":
        pose = _Pose(trunk=rng.uniform(-35.0, -20.0), neck=(50.0, 0.0))
        pose.fore = dict.fromkeys("LR", (60.0, -20.0))
        pose.tail = (45.0, 0.0)
    turn = rng.normal(0.0, 28.0)
    pose.neck = (pose.neck[0] + rng.normal(0, 9.0), turn)
    pose.head = (pose.head[0] + rng.normal(0, 9.0), turn + rng.normal(0, 15.0))
    pose.tail = (pose.tail[0] + rng.normal(0, 18.0), rng.normal(0.0, 28.0))
    pose.trunk += rng.normal(0.0, 3.0)
    pose.bend += rng.normal(0.0, 5.0)
    pose.yaw += rng.normal(0.0, 9.0)
    for legs in (pose.fore, pose.hind):
        for side in "LR":
            swing, fold = legs.get(side, (0.0, 0.0))
            legs[side] = (swing + rng.normal(0, 6.0), fold + rng.normal(0, 6.0))
    return pose


def _ahead(pitch: float, yaw: float) -> np.ndarray:
    """Unit vector that looks forward, lifted by ``pitch``, turned left by ``yaw``."""
    p, y = np.deg2rad((pitch, yaw))
    return np.array([np.sin(y) * np.cos(p), np.sin(p), np.cos(y) * np.cos(p)])


def _pose_joints(pose: _Pose, shape: _Shape) -> np.ndarray:
    """(23, 3) mm, animal's frame, the loin at the origin."""
    joints = np.zeros((23, 3))
    front = _ahead(pose.trunk - pose.bend, pose.yaw)
    rear = _ahead(pose.trunk + pose.bend, -pose.yaw)
    at = dict.fromkeys(JOINTS, np.zeros(3))
    at["Withers"] = shape.back * front
    at["TailBase"] = -shape.back * rear
    at["Neck"] = at["Withers"] + shape.neck * _ahead(pose.neck[0], pose.neck[1] / 2)
    look = _ahead(*pose.head)
    at["Nose"] = at["Neck"] + shape.muzzle * look
    left = np.cross([0.0, 1.0, 0.0], look)
    left /= np.linalg.norm(left)
    crown = np.cross(look, left)
    wag = _ahead(pose.trunk - pose.tail[0], pose.tail[1])
    at["TailMid"] = at["TailBase"] - shape.tail * wag
    curl = _ahead(pose.trunk - 0.4 * pose.tail[0], 1.6 * pose.tail[1])
    at["TailTip"] = at["TailMid"] - shape.tail * curl
    for side, mirror in (("L", 1.0), ("R", -1.0)):
        at[f"{side}Eye"] = at["Neck"] + 0.45 * shape.muzzle * look
        at[f"{side}Eye"] = at[f"{side}Eye"] + 52.0 * mirror * left + 38.0 * crown
        at[f"{side}Ear"] = at["Neck"] + 70.0 * mirror * left
        at[f"{side}Ear"] = at[f"{side}Ear"] + (50.0 + shape.ear) * crown
        _leg(at, pose, shape, side, mirror)
    for name, i in JOINT.items():
        joints[i] = at[name]
    return joints


def _leg(
    at: dict[str, np.ndarray], pose: _Pose, shape: _Shape, side: str, mirror: float
) -> None:
    """Fills in both legs of one side; angles are measured from straight down."""
    wide = np.array([mirror * shape.width, 0.0, 0.0])
    lean = 0.5 * pose.trunk
    for names, root, (swing, fold), rest, (upper, lower) in (
        (
            ("Shoulder", "Elbow", "Forepaw"),
            at["Withers"] + wide + np.array([0.0, -95.0, 25.0]),
            pose.fore[side],
            (-22.0, 20.0),
            shape.fore,
        ),
        (
            ("Hip", "Knee", "Hindpaw"),
            at["TailBase"] + wide + np.array([0.0, -60.0, 45.0]),
            pose.hind[side],
            (18.0, -32.0),
            shape.hind,
        ),
    ):
        thigh = rest[0] + swing + lean
        # A hind leg folds backwards below the knee, a fore leg below the elbow too.
        shank = thigh + rest[1] - rest[0] - abs(fold)
        joint = root + upper * _down(thigh)
        at[f"{side}{names[0]}"], at[f"{side}{names[1]}"] = root, joint
        at[f"{side}{names[2]}"] = joint + lower * _down(shank)


def _down(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([0.0, -np.cos(angle), np.sin(angle)])


def _build(joints: np.ndarray, shape: _Shape) -> Cones:
    """Cones around the joints; ``joints`` in the frame in which they are wanted."""
    at = {name: joints[i] for name, i in JOINT.items()}
    girth, builder = shape.girth, ConeBuilder(JOINT)
    trunk = ("Withers", "Loin", "TailBase")
    side = at["LShoulder"] + at["RShoulder"] - 2.0 * at["Withers"]
    below = 0.5 * side / max(float(np.linalg.norm(0.5 * side)), 1e-6)
    for start, end, radii in (
        ("Withers", "Loin", (135.0, 125.0)),
        ("Loin", "TailBase", (125.0, 105.0)),
    ):
        drop = 60.0 * below
        ends = (at[start] + drop, at[end] + drop)
        radii = (radii[0] * girth, radii[1] * girth)
        builder.add(ends, radii, shape.coat, clear=(*trunk, "Neck"))
    builder.add(
        (at["Withers"] + 20.0 * below, at["Neck"]),
        (105.0 * girth, 72.0 * girth),
        shape.coat,
        clear=("Withers", "Neck"),
    )
    _head(builder, at, shape)
    for start, end, radii in (
        ("TailBase", "TailMid", (38.0, 30.0)),
        ("TailMid", "TailTip", (30.0, 14.0)),
    ):
        builder.add((at[start], at[end]), radii, shape.coat, clear=(start, end))
    for one in "LR":
        _limbs(builder, at, shape, one, girth)
    return builder.build()


def _head(builder: ConeBuilder, at: dict[str, np.ndarray], shape: _Shape) -> None:
    own = ("Neck", "Nose", "LEye", "REye", "LEar", "REar")
    eyes = 0.5 * (at["LEye"] + at["REye"])
    builder.add((at["Neck"], eyes), (78.0, 70.0), shape.coat, clear=own[:2])
    dark = np.full(3, 0.06)
    builder.add(
        (eyes, at["Nose"]),
        (64.0, 36.0),
        shape.coat,
        other=dark,
        split=0.93,
        clear=own[:2],
    )
    for side in "LR":
        eye, ear = at[f"{side}Eye"], at[f"{side}Ear"]
        builder.add((eye, eye + 0.05 * (eye - eyes)), (17.0, 17.0), dark, clear=own)
        root = at["Neck"] + 0.4 * (ear - at["Neck"])
        clear = ("Neck", f"{side}Ear")
        builder.add((root, ear), (38.0, 14.0), 0.8 * shape.legs, clear=clear)


def _limbs(
    builder: ConeBuilder,
    at: dict[str, np.ndarray],
    shape: _Shape,
    side: str,
    girth: float,
) -> None:
    for names, radii in (
        (("Shoulder", "Elbow", "Forepaw"), (88.0, 48.0, 30.0)),
        (("Hip", "Knee", "Hindpaw"), (108.0, 58.0, 30.0)),
    ):
        own = tuple(f"{side}{name}" for name in names)
        top, middle, paw = (at[name] for name in own)
        clear = (*own, "Withers", "TailBase")
        thick = (radii[0] * girth, radii[1] * girth)
        builder.add((top, middle), thick, shape.coat, clear=clear)
        builder.add((middle, paw), radii[1:], shape.legs, clear=clear)
        builder.add((paw, paw + 0.06 * (paw - middle)), (40.0, 38.0), shape.legs)


def draw_animal(
    index: int,
    *,
    split: str,
    seed: int = 0,
    size: int = 256,
    elevation_deg: tuple[float, float] = (-10.0, 30.0),
) -> AnimalSample:
    """Draws sample ``index`` of a split; it depends on the arguments alone.

    Args:
        index: number of the sample, from 0.
        split: ``"train"`` or ``"val"``; their animals are disjoint.
        seed: of the whole data set.
        size: side of the square picture in pixels.
        elevation_deg: (low, high) of the camera's elevation, above is positive.

    Raises:
        ValueError: an argument is out of its range.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} must be one of {sorted(SPLITS)}")
    if index < 0 or seed < 0 or size < 8:
        raise ValueError(
            f"index={index} and seed={seed} must not be negative, "
            f"size={size} must be at least 8"
        )
    rng = np.random.default_rng((seed, SPLITS[split], index, 0xA71A))
    first = 0 if split == "train" else NUM_ANIMALS["train"]
    subject = first + int(rng.integers(NUM_ANIMALS[split]))
    shape = _draw_shape(seed, subject)
    action = ACTIONS[int(rng.integers(len(ACTIONS)))]
    joints = _pose_joints(_draw_pose(rng, action), shape)
    rotation = view_rotation(*draw_view(rng, elevation_deg))
    joints = (joints - joints[SKELETON.root]) @ rotation.T
    scale, translation = frame_person(rng, joints)
    cones = _build(joints, shape)
    hidden = hidden_joints(cones, joints, _DEPTH_INSIDE)
    image = paint(
        rng,
        cones,
        joints,
        look=scene.draw_look(rng),
        up=rotation[:, 1],
        scale=scale,
        translation=translation,
        size=size,
    )
    pixels = project(joints, scale=scale * size, translation=translation * size)
    return AnimalSample(
        image=image,
        keypoints=pixels.astype(np.float32),
        occlusion=np.where(hidden, 1, 2).astype(np.int8),
        positions_mm=joints.astype(np.float32),
        action=action,
        subject=subject,
    )
