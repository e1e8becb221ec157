"""The skeleton: joint names, edges, left-right pairs and root, defined once.

The same record is used by the data readers, the flip of the augmentation, the
metrics (bone lengths, root) and the drawing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.sides import find_left_right, key_of
from runtime.reading import MOST_CONFIG, read_bytes

# The most joints of a skeleton; a mesh is no skeleton.
MOST_JOINTS = 1000


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """Names and structure of P landmarks.

    Args:
        name: what the skeleton is called, e.g. ``"h36m_17"``.
        joints: P unique landmark names, in the order of every array.
        edges: bones as (parent, child) indices into ``joints``.
        left_right: (left, right) index pairs that swap under a mirror image.
        root: index of the joint to which root-relative metrics refer.

    Raises:
        ValueError: repeated names, indices out of range, a joint in two pairs.
    """

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    left_right: tuple[tuple[int, int], ...] = ()
    root: int = 0

    def __post_init__(self) -> None:
        count = len(self.joints)
        if count == 0:
            raise ValueError(f"skeleton {self.name!r} has no joints")
        times = Counter(self.joints)
        repeated = sorted(joint for joint in times if times[joint] > 1)
        if repeated:
            raise ValueError(f"skeleton {self.name!r} repeats the joints {repeated}")
        for what, pairs in (("edge", self.edges), ("left_right", self.left_right)):
            for pair in pairs:
                if not all(0 <= i < count for i in pair) or pair[0] == pair[1]:
                    raise ValueError(
                        f"skeleton {self.name!r}: {what} {pair} must hold two "
                        f"different indices in 0..{count - 1}"
                    )
        paired = [i for pair in self.left_right for i in pair]
        if len(paired) != len(set(paired)):
            raise ValueError(
                f"skeleton {self.name!r}: a joint is in two left_right pairs"
            )
        if not 0 <= self.root < count:
            raise ValueError(
                f"skeleton {self.name!r}: root {self.root} is not in 0..{count - 1}"
            )

    @property
    def num_joints(self) -> int:
        """P, the number of landmarks."""
        return len(self.joints)

    @functools.cached_property
    def flip_permutation(self) -> np.ndarray:
        """(P,) int32: joint p of a mirrored picture was joint ``perm[p]``."""
        permutation = np.arange(self.num_joints, dtype=np.int32)
        for left, right in self.left_right:
            permutation[left], permutation[right] = right, left
        return permutation

    @functools.cached_property
    def sides(self) -> tuple[str, ...]:
        """``"left"``, ``"right"`` or ``"centre"`` for each joint."""
        side = ["centre"] * self.num_joints
        for left, right in self.left_right:
            side[left], side[right] = "left", "right"
        return tuple(side)

    @property
    def unpaired(self) -> tuple[str, ...]:
        """The joints that are in no left-right pair."""
        paired = {i for pair in self.left_right for i in pair}
        return tuple(j for i, j in enumerate(self.joints) if i not in paired)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary that :meth:`from_dict` reads back."""
        return {
            "name": self.name,
            "joints": list(self.joints),
            "edges": [list(edge) for edge in self.edges],
            "left_right": [list(pair) for pair in self.left_right],
            "root": self.root,
        }

    def changed(self, record: Mapping[str, Any]) -> Skeleton:
        """This skeleton with what a record of :meth:`from_names` gives.

        ``edges`` and ``root`` take the place of its own; ``left_right`` is added to
        its pairs, in place of those that have a joint in common with it.

        Raises:
            ValueError: as :meth:`from_names`.
        """
        joints = {"name": self.name, "joints": self.joints}
        given = Skeleton.from_names({"left_right": []} | dict(record) | joints)
        new = {joint for pair in given.left_right for joint in pair}
        kept = tuple(pair for pair in self.left_right if not new & {*pair})
        return dataclasses.replace(
            self,
            edges=given.edges if "edges" in record else self.edges,
            left_right=kept + given.left_right,
            root=given.root if "root" in record else self.root,
        )

    def with_pairs(self, pairs: Sequence[Sequence[int]]) -> Skeleton:
        """This skeleton with pairs of which it is not known which is the left one.

        Only the names can tell: of pairs that it has already, it keeps the sides.
        """
        named = {frozenset(pair) for pair in self.left_right}
        new = [pair for pair in pairs if frozenset(pair) not in named]
        return self.changed({"left_right": new})

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Skeleton:
        """Reads what :meth:`to_dict` wrote."""
        return cls(
            name=str(record["name"]),
            joints=tuple(str(j) for j in record["joints"]),
            edges=tuple((int(a), int(b)) for a, b in record["edges"]),
            left_right=tuple((int(a), int(b)) for a, b in record["left_right"]),
            root=int(record["root"]),
        )

    @classmethod
    def from_names(cls, record: Mapping[str, Any]) -> Skeleton:
        """The skeleton that a person wrote: bones and pairs by the joints' names.

        Examples:
            >>> Skeleton.from_names({"joints": ["nose", "tail"],
            ...                      "edges": [["nose", "tail"]]}).edges
            ((0, 1),)

        Args:
            record: ``joints`` and, where wanted, ``edges`` and ``left_right`` (pairs
                of names or indices), ``root`` (a name or index) and ``name``. Pairs
                are found by name where they are not given; the root is a joint whose
                name speaks of the pelvis, hip centre, spine or root, else the first.

        Raises:
            ValueError: a joint that is not among ``joints``; see :class:`Skeleton`.
        """
        given = record.get("joints")
        if not isinstance(given, list | tuple) or not given:
            raise ValueError("a skeleton needs 'joints': [names]")
        # Before their names are compared with each other.
        if len(given) > MOST_JOINTS:
            raise ValueError(
                f"a skeleton has at most {MOST_JOINTS} joints, not {len(given)}"
            )
        joints = tuple(str(joint) for joint in given)

        def place(joint: Any) -> int:
            if type(joint) is int:
                return joint
            if joint not in joints:
                raise ValueError(f"skeleton: {joint!r} is not one of {list(joints)}")
            return joints.index(joint)

        def pairs(field: str) -> tuple[tuple[int, int], ...]:
            return tuple((place(a), place(b)) for a, b in record.get(field) or ())

        try:
            return cls(
                name=str(record.get("name", "custom")),
                joints=joints,
                edges=pairs("edges"),
                left_right=pairs("left_right")
                if "left_right" in record
                else find_left_right(joints),
                root=place(record["root"]) if "root" in record else _find_root(joints),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"skeleton {record.get('name', '')!r}: {error}") from error


def _find_root(joints: Sequence[str]) -> int:
    for word in ("pelvis", "hip_center", "hipcenter", "root", "spine"):
        for i, name in enumerate(joints):
            if word in name.lower():
                return i
    return 0


def _tree(name: str, joints: str, parents: Sequence[int], root: int = 0) -> Skeleton:
    names = tuple(joints.split())
    return Skeleton(
        name=name,
        joints=names,
        edges=tuple((p, i) for i, p in enumerate(parents) if p >= 0),
        left_right=find_left_right(names),
        root=root,
    )


H36M_17 = _tree(
    "h36m_17",
    "Pelvis RHip RKnee RAnkle LHip LKnee LAnkle Spine Thorax Neck Head "
    "LShoulder LElbow LWrist RShoulder RElbow RWrist",
    (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
)
MPII_16 = _tree(
    "mpii_16",
    "RAnkle RKnee RHip LHip LKnee LAnkle Pelvis Thorax UpperNeck HeadTop "
    "RWrist RElbow RShoulder LShoulder LElbow LWrist",
    (1, 2, 6, 6, 3, 4, -1, 6, 7, 8, 11, 12, 7, 7, 13, 14),
    root=6,
)
LSP_14 = _tree(
    "lsp_14",
    "RAnkle RKnee RHip LHip LKnee LAnkle RWrist RElbow RShoulder LShoulder "
    "LElbow LWrist Neck HeadTop",
    (1, 2, 8, 9, 3, 4, 7, 8, 12, 12, 9, 10, -1, 12),
    root=12,
)
COCO_17 = Skeleton(
    name="coco_17",
    joints=(
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
        *("left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    edges=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12)),
        *((5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2)),
        *((1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    left_right=(
        *((1, 2), (3, 4), (5, 6), (7, 8)),
        *((9, 10), (11, 12), (13, 14), (15, 16)),
    ),
)
BUILT_IN = {s.name: s for s in (H36M_17, COCO_17, MPII_16, LSP_14)}


def well_known(skeleton: Skeleton) -> Skeleton:
    """The built-in skeleton with these joints and bones, else ``skeleton`` itself.

    The direction of a bone does not matter: COCO files do not say what a parent is.
    """
    bones = {frozenset(edge) for edge in skeleton.edges}
    for known in BUILT_IN.values():
        same_bones = not bones or bones == {frozenset(edge) for edge in known.edges}
        if known.joints == skeleton.joints and same_bones:
            return known
    return skeleton


def read_skeleton(text: str) -> Skeleton | Mapping[str, Any]:
    """A skeleton by the name of a built-in one, by a JSON file, or as JSON itself.

    A record without ``joints`` says what to change in the skeleton of a file; it is
    returned as it is, for :meth:`Skeleton.changed`.

    Raises:
        ValueError: none of the three, or a skeleton that does not hold together.
    """
    if text in BUILT_IN:
        return BUILT_IN[text]
    try:
        path = Path(text).expanduser()
        content = text if text.startswith("{") else read_bytes(path, most=MOST_CONFIG)
        record = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"config.data.skeleton = {text!r} is neither one of {sorted(BUILT_IN)} nor "
            f"a readable JSON file ({error})"
        ) from error
    fields = ("joints", "edges", "left_right", "root")
    if not isinstance(record, dict) or not any(field in record for field in fields):
        raise ValueError(f"config.data.skeleton = {text!r}: no JSON object of {fields}")
    try:
        return Skeleton.from_names(record) if "joints" in record else record
    except ValueError as error:
        raise ValueError(f"config.data.skeleton = {text[:200]!r}: {error}") from error


# The same place under another name, where data sets of people disagree.
_SYNONYMS = {
    "headtop": "head",
    "upperneck": "neck",
    "torso": "spine",
    "root": "pelvis",
    "hipcenter": "pelvis",
    "hipcentre": "pelvis",
}


def match_joints(
    found: Sequence[str], wanted: Skeleton, names: Mapping[str, str] | None = None
) -> np.ndarray:
    """Where each joint of ``wanted`` stands among the joints of a file, by name.

    Names are the same up to case, separators and the way to write left and right
    (``LHip``, ``left_hip``, ``hip.L``); a few names of people's joints have synonyms
    (``HeadTop`` is ``Head``).

    Examples:
        >>> match_joints(["right_hip", "HeadTop"], H36M_17)[[1, 10, 4]].tolist()
        [0, 1, -1]

    Args:
        found: J names of a file.
        wanted: the skeleton with P joints.
        names: name in the file -> name in the skeleton; goes before everything.

    Returns:
        (P,) int64 places in ``found``, -1 where the file has no such joint.

    Raises:
        ValueError: an unknown name in ``names``, no joint in common, or two joints
            of the file for one of the skeleton.
    """
    names = dict(names or {})
    for here, there in names.items():
        if here not in found or there not in wanted.joints:
            raise ValueError(
                f"config.data.joint_names: {here!r} -> {there!r}, but the file has "
                f"{list(found)} and the skeleton {list(wanted.joints)}"
            )
    exact = {joint: place for place, joint in enumerate(wanted.joints)}
    by_key = {key_of(joint): place for joint, place in exact.items()}
    by_synonym = {_synonym(key): place for key, place in by_key.items()}
    places = np.full(wanted.num_joints, -1, np.int64)
    for i, joint in enumerate(found):
        key = key_of(joint)
        target = exact.get(names.get(joint, joint), by_key.get(key))
        if target is None:
            target = by_synonym.get(_synonym(key))
        if target is None:
            continue
        if places[target] >= 0:
            raise ValueError(
                f"{found[places[target]]!r} and {joint!r} are both the skeleton's "
                f"{wanted.joints[target]!r}; name one of them in "
                "config.data.joint_names"
            )
        places[target] = i
    if (places < 0).all():
        raise ValueError(
            f"the file's joints {list(found)} and the skeleton's {list(wanted.joints)} "
            "have no name in common"
        )
    return places


def _synonym(key: tuple[str, str]) -> tuple[str, str]:
    return key[0], _SYNONYMS.get(key[1], key[1])
