"""Motion capture: joint positions from NPZ and BVH files.

Positions are millimetres in a world frame with y up (right-handed), joints in the
order of :data:`input_pipeline.skeleton.H36M_17`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from input_pipeline.skeleton import H36M_17
from input_pipeline.synthetic.body import rotations
from runtime.files import read_npz
from runtime.reading import read_bytes

VAL_SHARE = 0.2
_BVH_UNIT_MM = 10.0  # the files do not say
_BONES_MM = (1500, 8000)  # all 16 bones of a small child, and twice those of a man


@dataclasses.dataclass(frozen=True, eq=False)
class Motion:
    """F frames of joint positions.

    ``positions`` (F, 17, 3) float32 mm; ``subject`` (F,) int64 and ``action`` (F,)
    text per frame; ``source``: where they come from, for messages.
    """

    positions: np.ndarray
    subject: np.ndarray
    action: np.ndarray
    source: str

    def __post_init__(self) -> None:
        count = len(self.positions)
        if self.positions.shape != (count, 17, 3) or count == 0:
            raise ValueError(
                f"{self.source}: positions have shape {self.positions.shape}, "
                "expected (frames, 17, 3) with at least one frame"
            )
        for name in ("subject", "action"):
            if (shape := getattr(self, name).shape) != (count,):
                problem = f"{name} has shape {shape}, expected ({count},)"
                raise ValueError(f"{self.source}: {problem}")
        bad = np.nonzero(~np.isfinite(self.positions).all(axis=(1, 2)))[0]
        if len(bad):
            raise ValueError(
                f"{self.source}: frame {bad[0]} holds a position that is not a "
                f"number ({len(bad)} such frames); remove these frames"
            )

    def __len__(self) -> int:
        return len(self.positions)


@functools.lru_cache(maxsize=8)
def frame_order(motion: Motion, split: str, seed: int) -> np.ndarray:
    """Frames of a split ("train", "val") in the order of its samples, each once.

    The last fifth of the subject numbers is ``val``; where there is one subject
    only, the last fifth of its frames.

    Raises:
        ValueError: the split is empty.
    """
    subjects = np.unique(motion.subject)
    if len(subjects) > 1:
        count = max(round(VAL_SHARE * len(subjects)), 1)
        is_val = np.isin(motion.subject, subjects[-count:])
    else:
        is_val = np.arange(len(motion)) >= round((1.0 - VAL_SHARE) * len(motion))
    frames = np.nonzero(is_val == (split == "val"))[0]
    if len(frames) == 0:
        raise ValueError(
            f"{motion.source}: {len(motion)} frames leave none for {split!r}; "
            "give a longer recording"
        )
    order = np.random.default_rng((seed, split == "val")).permutation(frames)
    order.setflags(write=False)
    return order


def read_motion(path: str | os.PathLike[str]) -> Motion:
    """Reads an ``.npz`` file, a ``.bvh`` file or a folder of ``.bvh`` files.

    Args:
        path: the NPZ must hold ``positions`` (frames, joints, 3) in mm, y up, and
            ``joint_names``; ``subject`` and ``action`` are taken where present. BVH is
            read as centimetres; of a folder, each file counts as one subject.

    Raises:
        ValueError: the file is missing or damaged, its joints do not map onto the 17
            of H36M_17, or its unit is not the one stated.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() == ".bvh")
        if not files:
            raise ValueError(f"{path}: the folder holds no .bvh file")
        motion = _read_bvh_files(files, path)
    elif not path.is_file():
        raise ValueError(f"{path}: no such motion file")
    elif path.suffix.lower() == ".npz":
        motion = _read_npz(path)
    elif path.suffix.lower() == ".bvh":
        motion = _read_bvh_files([path], path)
    else:
        raise ValueError(f"{path}: motion files end in .npz or .bvh")
    # Giants and dwarfs: the file's unit is not the one stated.
    first, second = np.array(H36M_17.edges).T
    bones = motion.positions[:, first] - motion.positions[:, second]
    length = float(np.median(np.linalg.norm(bones, axis=-1).sum(-1)))
    low, high = _BONES_MM
    if not low <= length <= high:
        raise ValueError(
            f"{motion.source}: the bones of a person add up to {length:.4g} mm, "
            f"expected {low} to {high}; scale the positions of an NPZ file to mm, the "
            "offsets and positions of a BVH file to cm"
        )
    return motion


@functools.lru_cache(maxsize=1)
def load_motion(path: str) -> Motion:
    """:func:`read_motion`, once a process."""
    return read_motion(os.path.expanduser(path))


# Names by which files call the joints, best first; compared in lower case, without
# punctuation and without a prefix such as "mixamorig:".
_SIDED = {
    "Hip": ("hip", "upleg", "upperleg", "thigh", "femur"),
    "Knee": ("knee", "lowleg", "lowerleg", "leg", "shin", "calf", "tibia"),
    "Ankle": ("ankle", "foot"),
    "Shoulder": ("arm", "uparm", "upperarm", "shldr", "humerus", "shoulder"),
    "Elbow": ("elbow", "forearm", "lowarm", "lowerarm", "radius"),
    "Wrist": ("wrist", "hand"),
}
_CENTRAL = {
    "Pelvis": ("pelvis", "hips", "hip", "root"),
    "Thorax": ("thorax", "upperchest", "spine3", "spine2", "chest2", "chest", "spine1"),
    "Spine": ("spine", "spine1", "abdomen", "lowerback", "torso", "chest"),
    "Neck": ("neck1", "neck"),
    "Head": ("head",),
}


def map_joints(names: Sequence[str], source: str) -> np.ndarray:
    """Index (17,) into ``names`` of each joint of H36M_17.

    Raises:
        ValueError: a joint has no namesake; names those missing and those offered.
    """
    plain: dict[str, int] = {}
    for i, name in enumerate(names):
        plain.setdefault(_plain(name), i)
    found: dict[str, int] = {}
    # The thorax before the spine: either may be called "Spine1".
    for joint in dict.fromkeys((*_CENTRAL, *H36M_17.joints)):
        for name in _candidates(joint):
            if name in plain and plain[name] not in found.values():
                found[joint] = plain[name]
                break
    missing = [joint for joint in H36M_17.joints if joint not in found]
    if missing:
        raise ValueError(
            f"{source}: no joint of this file maps onto {missing}; it names "
            f"{list(names)}. Rename the joints to {list(H36M_17.joints)}"
        )
    return np.array([found[joint] for joint in H36M_17.joints])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.rsplit(":", 1)[-1].lower())


def _candidates(joint: str) -> list[str]:
    """Plain names of a joint, best first."""
    if joint in _CENTRAL:
        return [joint.lower(), *_CENTRAL[joint]]
    side, sided = {"L": "left", "R": "right"}[joint[0]], joint[1:]
    # "LeftShoulder" is the collar bone wherever there is a "LeftArm".
    first = [] if sided in ("Shoulder", "Hip") else [joint.lower()]
    for part in _SIDED[sided]:
        first += [f"{side}{part}", f"{side[0]}{part}", f"{part}{side[0]}"]
    return first


def _read_npz(path: Path) -> Motion:
    data = read_npz(path, ("positions", "joint_names", "subject", "action"))
    for key in ("positions", "joint_names"):
        if key not in data:
            raise ValueError(f"{path}: the array {key!r} is missing")
    positions, names = data["positions"], [str(n) for n in data["joint_names"]]
    if positions.ndim != 3 or positions.shape[1:] != (len(names), 3):
        raise ValueError(
            f"{path}: positions have shape {positions.shape}, expected "
            f"(frames, {len(names)}, 3) for its {len(names)} joint_names"
        )
    if positions.dtype.kind not in "fiu":
        raise ValueError(f"{path}: positions are {positions.dtype}, not numbers")
    count = len(positions)
    return Motion(
        positions=positions[:, map_joints(names, str(path))].astype(np.float32),
        subject=np.asarray(data.get("subject", np.zeros(count)), np.int64),
        action=np.asarray(data.get("action", np.full(count, path.stem)), np.str_),
        source=str(path),
    )


def _read_bvh_files(files: Sequence[Path], source: Path) -> Motion:
    positions, counts = [], []
    for file in files:
        names, joints = read_bvh(file)
        joints = _BVH_UNIT_MM * joints[:, map_joints(names, str(file))]
        positions.append(joints.astype(np.float32))
        counts.append(len(joints))
    return Motion(
        positions=np.concatenate(positions),
        subject=np.repeat(np.arange(len(files)), counts),
        action=np.repeat([file.stem for file in files], counts),
        source=str(source),
    )


@dataclasses.dataclass
class _BvhJoint:
    name: str
    parent: int
    offset: Sequence[float] = (0.0, 0.0, 0.0)
    channels: Sequence[str] = ()


def read_bvh(path: str | os.PathLike[str]) -> tuple[list[str], np.ndarray]:
    """Joint names and world positions of one BVH text file.

    The end site of joint ``Head`` becomes a joint called ``HeadEnd``, and so on.

    Returns:
        Names (J) and positions (frames, J, 3) in the file's unit.

    Raises:
        ValueError: the text is not BVH, or a frame has too few or too many numbers.
    """
    path = Path(path)
    try:
        text = read_bytes(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable text file ({error})") from error
    head, mark, tail = text.partition("MOTION")
    if not mark or not head.lstrip().startswith("HIERARCHY"):
        raise ValueError(f"{path}: a BVH file has a HIERARCHY and a MOTION section")
    joints = _parse_hierarchy(iter(head.split()[1:]), path)
    values = _parse_frames(tail, sum(len(j.channels) for j in joints), path)
    return [joint.name for joint in joints], _positions(joints, values)


def _parse_hierarchy(words: Iterator[str], path: Path) -> list[_BvhJoint]:
    joints: list[_BvhJoint] = []
    above: list[int] = []  # the joints whose braces are open
    try:
        for word in words:
            if word in ("ROOT", "JOINT", "End"):
                name, parent = next(words), above[-1] if above else -1
                name = f"{joints[parent].name}End" if word == "End" else name
                joints.append(_BvhJoint(name, parent))
                above.append(len(joints) - 1)
                if next(words) != "{":
                    raise ValueError(f"joint {name!r} is not followed by '{{'")
            elif word == "OFFSET":
                joints[above[-1]].offset = [float(next(words)) for _ in range(3)]
            elif word == "CHANNELS":
                names = [next(words) for _ in range(int(next(words)))]
                for name in names:
                    if not re.fullmatch("[XYZ](position|rotation)", name):
                        raise ValueError(f"unknown channel {name!r}")
                joints[above[-1]].channels = names
            elif word == "}":
                above.pop()
            else:
                raise ValueError(f"unexpected word {word!r}")
    except (ValueError, IndexError, StopIteration) as error:
        raise ValueError(f"{path}: HIERARCHY cannot be read: {error}") from error
    if not joints or above:
        raise ValueError(f"{path}: HIERARCHY is empty or lacks a closing '}}'")
    return joints


def _parse_frames(text: str, channels: int, path: Path) -> np.ndarray:
    """Numbers (frames, channels) of the MOTION section."""
    match = re.match(r"\s*Frames:\s*(\d+)\s*Frame Time:\s*\S+", text)
    if match is None:
        raise ValueError(f"{path}: MOTION must begin with 'Frames:' and 'Frame Time:'")
    try:
        values = np.array(text[match.end() :].split(), np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: MOTION holds a word: {error}") from error
    frames = int(match.group(1))
    if frames < 1 or values.size != frames * channels:
        raise ValueError(
            f"{path}: {frames} frames of {channels} channels need "
            f"{frames * channels} numbers, found {values.size}"
        )
    return values.reshape(frames, channels)


def _positions(joints: list[_BvhJoint], values: np.ndarray) -> np.ndarray:
    """World positions (frames, J, 3): the channels' transforms down the tree."""
    place = np.zeros((len(values), len(joints), 3))
    turns = np.zeros((len(values), len(joints), 3, 3))
    columns = iter(values.T)
    for j, joint in enumerate(joints):
        local = np.broadcast_to(np.eye(3), (len(values), 3, 3))
        shift = np.tile(joint.offset, (len(values), 1)).astype(np.float64)
        for channel in joint.channels:
            if channel.endswith("position"):
                # A position channel replaces the offset on its axis.
                shift[:, "XYZ".index(channel[0])] = next(columns)
            else:
                angles = np.zeros((len(values), 3))  # about x, z and y
                angles[:, "XZY".index(channel[0])] = np.deg2rad(next(columns))
                local = local @ rotations(angles)
        if joint.parent < 0:
            place[:, j], turns[:, j] = shift, local
        else:
            above = turns[:, joint.parent]
            place[:, j] = place[:, joint.parent] + np.einsum("fij,fj->fi", above, shift)
            turns[:, j] = above @ local
    return place
