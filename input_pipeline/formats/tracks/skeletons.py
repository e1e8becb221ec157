"""Joints by number: what trackers of people mean by the n-th joint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from input_pipeline.sides import key_of
from input_pipeline.skeleton import COCO_17, Skeleton, match_joints

_MEDIAPIPE = (
    "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye "
    "right_eye_outer left_ear right_ear left_mouth right_mouth left_shoulder "
    "right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky "
    "right_pinky left_index right_index left_thumb right_thumb left_hip right_hip "
    "left_knee right_knee left_ankle right_ankle left_heel right_heel left_foot_index "
    "right_foot_index"
)
_ARM = (11, 13), (13, 15), (15, 17), (15, 19), (15, 21), (17, 19)
_LEG = (11, 23), (23, 25), (25, 27), (27, 29), (27, 31), (29, 31)
_RIGHT = [(a + 1, b + 1) for a, b in (*_ARM, *_LEG)]
_FACE = (0, 1), (1, 2), (2, 3), (3, 7), (0, 4), (4, 5), (5, 6), (6, 8), (9, 10)
_BODY = (
    "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist {}RHip RKnee RAnkle "
    "LHip LKnee LAnkle REye LEye REar LEar"
)
_FEET = " LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel"
_BODY_EDGES = (
    "Neck-RShoulder RShoulder-RElbow RElbow-RWrist Neck-LShoulder LShoulder-LElbow "
    "LElbow-LWrist RHip-RKnee RKnee-RAnkle LHip-LKnee LKnee-LAnkle Neck-Nose Nose-REye "
    "REye-REar Nose-LEye LEye-LEar "
)
_FEET_EDGES = (
    " LAnkle-LBigToe LBigToe-LSmallToe LAnkle-LHeel RAnkle-RBigToe RBigToe-RSmallToe "
    "RAnkle-RHeel"
)


def _named(name: str, joints: str, edges: str, root: str) -> Skeleton:
    pairs = [edge.split("-") for edge in edges.split()]
    return Skeleton.from_names(
        {"name": name, "joints": joints.split(), "edges": pairs, "root": root}
    )


MEDIAPIPE_33 = Skeleton.from_names(
    {
        "name": "mediapipe_33",
        "joints": _MEDIAPIPE.split(),
        "edges": [*_FACE, (11, 12), (23, 24), *_ARM, *_LEG, *_RIGHT],
        "root": 23,
    }
)
OPENPOSE_25 = _named(
    "openpose_25",
    _BODY.format("MidHip ") + _FEET,
    _BODY_EDGES + "Neck-MidHip MidHip-RHip MidHip-LHip" + _FEET_EDGES,
    "MidHip",
)
OPENPOSE_18 = _named(
    "openpose_18", _BODY.format(""), _BODY_EDGES + "Neck-RHip Neck-LHip", "Neck"
)
HALPE_26 = Skeleton.from_names(
    {
        "name": "halpe_26",
        "joints": (
            *COCO_17.joints,
            *("head", "neck", "hip", "left_big_toe", "right_big_toe"),
            *("left_small_toe", "right_small_toe", "left_heel", "right_heel"),
        ),
        "edges": [
            *((0, 1), (0, 2), (1, 3), (2, 4), (0, 17), (0, 18), (18, 19)),
            *((18, 5), (18, 6), (5, 7), (6, 8), (7, 9), (8, 10), (19, 11), (19, 12)),
            *((11, 13), (12, 14), (13, 15), (14, 16), (15, 20), (15, 22), (15, 24)),
            *((16, 21), (16, 23), (16, 25)),
        ],
        "root": 19,
    }
)
BY_COUNT = {
    skeleton.num_joints: skeleton
    for skeleton in (COCO_17, OPENPOSE_18, OPENPOSE_25, HALPE_26, MEDIAPIPE_33)
}
_NUMBER = re.compile(r"(?:[A-Za-z]+[\s._\-]?)?0*(\d+)")


def named(joints: Sequence[str], unnamed: Skeleton | None = None) -> Skeleton:
    """These joints; those of a known skeleton where they are numbers.

    Joints of the same names as those of a known skeleton have its bones, others none.

    Args:
        joints: their names; numbers in a row are none.
        unnamed: what has so many joints; by default what detectors of people have.

    Examples:
        >>> named([f"landmark_{i:02d}" for i in range(33)]).joints[11]
        'left_shoulder'
        >>> named(["nose", "tail"]).edges
        ()
    """
    found = [_NUMBER.fullmatch(joint) for joint in joints]
    numbers = [int(match[1]) for match in found if match]
    count, first = len(joints), numbers[0] if numbers else 0
    known = BY_COUNT.get(count)
    if unnamed is not None and unnamed.num_joints == count:
        known = unnamed
    if known is not None and numbers == list(range(first, first + count)):
        return known
    plain: dict[str, Any] = {"name": "tracks", "joints": list(joints)}
    known = BY_COUNT.get(count)
    if known is not None and {*map(key_of, joints)} == {*map(key_of, known.joints)}:
        place = match_joints(joints, known).tolist()
        edges = [(place[a], place[b]) for a, b in known.edges]
        plain |= {"name": known.name, "edges": edges, "root": place[known.root]}
    return Skeleton.from_names(plain)
