"""The skeleton: pairs, permutation, root and the refusal of impossible ones."""

import numpy as np
import pytest

from input_pipeline import skeleton
from input_pipeline.skeleton import Skeleton


@pytest.mark.parametrize("name", sorted(skeleton.BUILT_IN))
def test_built_in_skeletons_are_connected_and_survive_json(name):
    s = skeleton.BUILT_IN[name]
    assert Skeleton.from_dict(s.to_dict()) == s
    reached = {s.root}
    for _ in s.joints:
        reached |= {b for e in s.edges for a, b in (e, e[::-1]) if a in reached}
    assert reached == set(range(s.num_joints))


def test_flip_permutation_swaps_sides_and_is_an_involution():
    s = skeleton.H36M_17
    perm = s.flip_permutation
    assert s.joints[perm[s.joints.index("LWrist")]] == "RWrist"
    assert s.joints[perm[s.joints.index("Neck")]] == "Neck"
    np.testing.assert_array_equal(perm[perm], np.arange(17))
    assert len(s.left_right) == 6
    assert s.sides[s.joints.index("LKnee")] == "left"
    assert s.sides[s.joints.index("RKnee")] == "right"
    assert s.sides[0] == "centre"


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["LHip", "RHip", "Head"], ((0, 1),)),
        (["left_eye", "nose", "right_eye"], ((0, 2),)),
        (["Right Paw", "Left Paw"], ((1, 0),)),
        (["wing_l", "wing_r", "tail"], ((0, 1),)),
        (["L_ear_tip", "R_ear_tip"], ((0, 1),)),
        (["Leg", "Root", "Tail"], ()),
    ],
)
def test_left_right_pairs_are_found_by_name(names, pairs):
    assert skeleton.find_left_right(names) == pairs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"joints": ()}, "no joints"),
        ({"joints": ("a", "a")}, r"repeats the joints \['a'\]"),
        ({"edges": ((0, 7),)}, r"edge \(0, 7\)"),
        ({"left_right": ((0, 1), (1, 2))}, "two left_right pairs"),
        ({"root": 3}, "root 3"),
    ],
)
def test_impossible_skeletons_are_refused(fields, message):
    good = {"name": "x", "joints": ("a", "b", "c"), "edges": ((0, 1),)}
    with pytest.raises(ValueError, match=message):
        Skeleton(**(good | fields))
