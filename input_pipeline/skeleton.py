"""The skeleton: joint names, edges, left-right pairs and root, defined once.

The same record is used by the data readers, the flip of the augmentation, the
metrics (bone lengths, root) and the drawing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


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
        repeated = sorted({j for j in self.joints if self.joints.count(j) > 1})
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

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary that :meth:`from_dict` reads back."""
        return {
            "name": self.name,
            "joints": list(self.joints),
            "edges": [list(edge) for edge in self.edges],
            "left_right": [list(pair) for pair in self.left_right],
            "root": self.root,
        }

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
    def from_coco_category(cls, category: Mapping[str, Any]) -> Skeleton:
        """The skeleton named in one entry of a COCO file's ``categories``.

        COCO counts the joints of ``skeleton`` from 1. Left-right pairs are found
        by name (see :func:`find_left_right`); the root is a joint whose name
        speaks of the pelvis, hip centre, spine or root, else the first joint.

        Raises:
            ValueError: ``keypoints`` missing or empty, or an edge out of range.
        """
        joints = tuple(str(j) for j in category.get("keypoints", ()))
        if not joints:
            raise ValueError(
                f"category {category.get('name', '?')!r} names no keypoints; "
                "add 'keypoints': [names] to the file's categories"
            )
        edges = tuple((int(a) - 1, int(b) - 1) for a, b in category.get("skeleton", ()))
        return cls(
            name=str(category.get("name", "coco")),
            joints=joints,
            edges=edges,
            left_right=find_left_right(joints),
            root=_find_root(joints),
        )


def find_left_right(joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs joints whose names differ only in left/right, l/r or L/R.

    >>> find_left_right(["nose", "left_eye", "right_eye", "LHip", "RHip"])
    ((1, 2), (3, 4))
    """
    index = {name: i for i, name in enumerate(joints)}
    pairs = []
    for name, i in index.items():
        for partner in _right_names(name):
            if partner in index and partner != name:
                pairs.append((i, index[partner]))
                break
    return tuple(pairs)


def _right_names(name: str) -> list[str]:
    """What the right partner of a left joint called ``name`` could be called."""
    candidates = [
        name.replace(left, right)
        for left, right in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
        if left in name
    ]
    for left, right in (("L", "R"), ("l", "r")):
        if name.startswith(left):
            candidates.append(right + name[1:])
        if name.endswith(left):
            candidates.append(name[:-1] + right)
        for mark in "_-. ":
            candidates.append(
                name.replace(f"{mark}{left}{mark}", f"{mark}{right}{mark}")
            )
    return candidates


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
