"""The skeleton: pairs, permutation, root and the refusal of impossible ones."""

import dataclasses

import numpy as np
import pytest

from input_pipeline import skeleton
from input_pipeline.sides import find_left_right
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
        # The side before a number, inside a name, beside another letter.
        (["forelegL1", "forelegR1", "forelegL2", "forelegR2"], ((0, 1), (2, 3))),
        (["ear_r1", "ear_l1", "frontL_knee", "frontR_knee"], ((1, 0), (2, 3))),
        (["FL_paw", "FR_paw", "HLpaw", "HRpaw"], ((0, 1), (2, 3))),
        (["FL", "FR", "RL", "RR"], ((0, 1), (2, 3))),
        (["paw1LH", "paw2LF", "paw3RF", "paw4RH"], ((0, 3), (1, 2))),
        (["leftEye", "Right_eye", "flpaw", "frpaw"], ((0, 1), (2, 3))),
        (["left_foot", "foot_r", "Hip-R", "hip_left"], ((0, 1), (3, 2))),
        # Which of several would be a guess.
        (["legL1", "legL2", "legR3", "legR4"], ()),
        (["upper_lip", "lower_lip", "flank", "throat"], ()),
    ],
)
def test_left_right_pairs_are_found_by_name(names, pairs):
    assert find_left_right(names) == pairs


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


def test_a_pair_or_a_root_is_set_without_the_rest():
    own = Skeleton.from_names(
        {
            "name": "mine",
            "joints": ["L_ear", "R_ear", "a", "b", "tail"],
            "edges": [["a", "b"]],
        }
    )
    assert own.changed({}) == own
    assert own.changed({"root": "tail"}) == dataclasses.replace(own, root=4)
    assert own.changed({"left_right": [["b", "a"]]}).left_right == ((0, 1), (3, 2))
    assert own.changed({"left_right": [["R_ear", "a"]]}).left_right == ((1, 2),)
    assert own.changed({"edges": [["tail", 0]]}).edges == ((4, 0),)
    with pytest.raises(ValueError, match="'wing' is not one of"):
        own.changed({"left_right": [["a", "wing"]]})
