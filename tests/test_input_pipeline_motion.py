"""Readers of motion capture: NPZ and BVH."""

import numpy as np
import pytest

from input_pipeline.skeleton import H36M_17
from input_pipeline.sources.motion import (
    Motion,
    frame_order,
    map_joints,
    read_bvh,
    read_motion,
)

TINY_BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0.0 0.0 0.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Head
  {
    OFFSET 0.0 10.0 0.0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0.0 5.0 0.0
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.008333
0 0 0 0 0 0 0 0 0
1 2 3 90 0 0 0 90 0
0 0 0 90 90 0 0 0 90
"""

# A person in the way of Mixamo: name, parent, offset.
BODY = (
    ("Hips", None, (0, 90, 0)),
    ("Spine", "Hips", (0, 20, 0)),
    ("Spine1", "Spine", (0, 12, 0)),
    ("Spine2", "Spine1", (0, 12, 0)),
    ("Neck", "Spine2", (0, 15, 0)),
    ("Head", "Neck", (0, 10, 2)),
    ("LeftShoulder", "Spine2", (6, 10, 0)),
    ("LeftArm", "LeftShoulder", (12, 0, 0)),
    ("LeftForeArm", "LeftArm", (28, 0, 0)),
    ("LeftHand", "LeftForeArm", (25, 0, 0)),
    ("RightShoulder", "Spine2", (-6, 10, 0)),
    ("RightArm", "RightShoulder", (-12, 0, 0)),
    ("RightForeArm", "RightArm", (-28, 0, 0)),
    ("RightHand", "RightForeArm", (-25, 0, 0)),
    ("LeftUpLeg", "Hips", (9, -2, 0)),
    ("LeftLeg", "LeftUpLeg", (0, -42, 0)),
    ("LeftFoot", "LeftLeg", (0, -43, 0)),
    ("RightUpLeg", "Hips", (-9, -2, 0)),
    ("RightLeg", "RightUpLeg", (0, -42, 0)),
    ("RightFoot", "RightLeg", (0, -43, 0)),
)


def _body_bvh(frames=2, prefix="mixamorig:", scale=1):
    def joint(name, offset, depth):
        kind = "ROOT" if depth == 0 else "JOINT"
        channels = "Zrotation Xrotation Yrotation"
        lines = [
            f"{kind} {prefix}{name}",
            "{",
            "OFFSET " + " ".join(str(scale * x) for x in offset),
        ]
        lines.append(f"CHANNELS 3 {channels}")
        for child, parent, shift in BODY:
            if parent == name:
                lines += joint(child, shift, depth + 1)
        return [*lines, "}"]

    lines = ["HIERARCHY", *joint("Hips", BODY[0][2], 0)]
    lines += ["MOTION", f"Frames: {frames}", "Frame Time: 0.03"]
    lines += [" ".join(["0"] * 3 * len(BODY))] * frames
    return "\n".join(lines)


def test_bvh_positions_by_hand(tmp_path):
    file = tmp_path / "tiny.bvh"
    file.write_text(TINY_BVH)
    names, positions = read_bvh(file)
    assert names == ["Hips", "Head", "HeadEnd"]
    np.testing.assert_allclose(positions[0], [(0, 0, 0), (0, 10, 0), (0, 15, 0)])
    # Rz(90) takes y to -x; then the child's Rx(90) takes its y to z, which Rz keeps.
    np.testing.assert_allclose(
        positions[1], [(1, 2, 3), (-9, 2, 3), (-9, 2, 8)], atol=1e-12
    )
    # Channels multiply in their order: Rz Rx takes y to z (Rx Rz would give -x).
    # The child's Ry(90) leaves its own y alone.
    np.testing.assert_allclose(
        positions[2], [(0, 0, 0), (0, 0, 10), (0, 0, 15)], atol=1e-12
    )


def test_bvh_person_maps_onto_the_skeleton(tmp_path):
    file = tmp_path / "walk.bvh"
    file.write_text(_body_bvh())
    motion = read_motion(file)
    assert motion.positions.shape == (2, 17, 3)
    assert motion.positions.dtype == np.float32
    place = dict(zip(H36M_17.joints, motion.positions[0].tolist(), strict=True))
    assert place["Pelvis"] == [0, 900, 0]
    assert place["Spine"] == [0, 1100, 0]
    assert place["Thorax"] == [0, 1340, 0]
    assert place["Head"] == [0, 1590, 20]
    assert place["LShoulder"] == [180, 1440, 0]  # the arm, not the collar bone
    assert place["LWrist"] == [710, 1440, 0]
    assert place["RAnkle"] == [-90, 30, 0]
    assert motion.action.tolist() == ["walk", "walk"]


def test_a_wrong_unit_is_noticed(tmp_path):
    file = tmp_path / "walk.bvh"
    file.write_text(_body_bvh(scale=100))
    with pytest.raises(ValueError, match=r"walk\.bvh.*add up to .* BVH file to cm"):
        read_motion(file)
    metres, _ = _npz(
        tmp_path, positions=np.random.default_rng(0).normal(size=(6, 17, 3))
    )
    with pytest.raises(ValueError, match="NPZ file to mm"):
        read_motion(metres)


def test_bvh_folder_counts_each_file_as_a_subject(tmp_path):
    for name in ("b.bvh", "a.bvh"):
        (tmp_path / name).write_text(_body_bvh())
    motion = read_motion(tmp_path)
    assert motion.subject.tolist() == [0, 0, 1, 1]
    assert motion.action.tolist() == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no motion here", "HIERARCHY and a MOTION"),
        (TINY_BVH.replace("CHANNELS 3", "CHANNELS x"), "HIERARCHY cannot be read"),
        (TINY_BVH.split("CHANNELS 3")[0] + "CHANNELS 3 MOTION", "cannot be read"),
        (TINY_BVH.replace("}\nMOTION", "MOTION"), "closing"),
        (TINY_BVH.replace("ROOT Hips\n{", "ROOT Hips\n"), "not followed by"),
        (TINY_BVH.replace("6 Xposition", "6 Wposition"), "unknown channel 'Wposition'"),
        (TINY_BVH.replace("Frames: 3", "Frames: 4"), "need 36 numbers, found 27"),
        (TINY_BVH.replace("1 2 3", "1 two 3"), "holds a word.*two"),
        (TINY_BVH.replace("Frame Time", "Time"), "must begin with 'Frames:'"),
    ],
)
def test_broken_bvh_is_named(tmp_path, text, words):
    file = tmp_path / "broken.bvh"
    file.write_text(text)
    with pytest.raises(ValueError, match=words) as raised:
        read_bvh(file)
    assert "broken.bvh" in str(raised.value)


def test_joints_that_do_not_map_are_listed(tmp_path):
    file = tmp_path / "tiny.bvh"
    file.write_text(TINY_BVH)
    with pytest.raises(ValueError, match=r"maps onto \['RHip', .*\['Hips', 'Head'"):
        read_motion(file)


@pytest.mark.parametrize(
    "names",
    [
        H36M_17.joints,
        # Poser / CMU style with sides as first letters.
        (
            *("hip", "rThigh", "rShin", "rFoot", "lThigh", "lShin", "lFoot"),
            *("abdomen", "chest", "neck", "head"),
            *("lShldr", "lForeArm", "lHand", "rShldr", "rForeArm", "rHand"),
        ),
        (
            *("pelvis", "right_hip", "right_knee", "right_ankle"),
            *("left_hip", "left_knee", "left_ankle"),
            *("spine", "thorax", "neck", "head"),
            *("left_shoulder", "left_elbow", "left_wrist"),
            *("right_shoulder", "right_elbow", "right_wrist"),
        ),
        (
            *("Hips", "RightUpLeg", "RightLeg", "RightFoot"),
            *("LeftUpLeg", "LeftLeg", "LeftFoot"),
            *("Spine", "Chest", "Neck", "Head"),
            *("LeftShoulder", "LeftLowerArm", "LeftHand"),
            *("RightShoulder", "RightLowerArm", "RightHand"),
        ),
    ],
)
def test_common_names_map_in_any_order(names):
    np.testing.assert_array_equal(map_joints(names, "test"), np.arange(17))
    turned = tuple(reversed(names))
    np.testing.assert_array_equal(map_joints(turned, "test"), np.arange(17)[::-1])


def test_spine1_is_the_thorax_where_another_joint_is_the_spine():
    names = [{"Thorax": "Spine1", "Spine": "Abdomen"}.get(j, j) for j in H36M_17.joints]
    np.testing.assert_array_equal(map_joints(names, "test"), np.arange(17))


def _npz(tmp_path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "positions": rng.normal(size=(6, 17, 3)) * 100.0,
        "joint_names": np.array(H36M_17.joints),
        "subject": np.array([3, 3, 3, 5, 5, 5]),
        "action": np.array(["walk"] * 6),
    } | changes
    file = tmp_path / "motion.npz"
    np.savez(file, **{k: v for k, v in arrays.items() if v is not None})
    return file, arrays


def test_npz_is_read_by_name(tmp_path):
    file, arrays = _npz(tmp_path, joint_names=np.array(H36M_17.joints[::-1]))
    motion = read_motion(file)
    np.testing.assert_allclose(
        motion.positions, arrays["positions"][:, ::-1], rtol=1e-6
    )
    assert motion.subject.tolist() == [3, 3, 3, 5, 5, 5]


def test_npz_without_subject_and_action_is_one_subject(tmp_path):
    file, _ = _npz(tmp_path, subject=None, action=None)
    motion = read_motion(file)
    assert set(motion.subject.tolist()) == {0}
    assert set(motion.action.tolist()) == {"motion"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": None}, "'positions' is missing"),
        ({"joint_names": None}, "'joint_names' is missing"),
        ({"positions": np.zeros((6, 16, 3))}, r"shape \(6, 16, 3\)"),
        ({"positions": np.zeros((0, 17, 3))}, "at least one frame"),
        ({"positions": np.full((6, 17, 3), "x")}, "not numbers"),
        ({"subject": np.zeros(5)}, r"subject has shape \(5,\)"),
        ({"joint_names": np.array(list("abcdefghijklmnopq"))}, "no joint of this file"),
    ],
)
def test_broken_npz_is_named(tmp_path, changes, words):
    file, _ = _npz(tmp_path, **changes)
    with pytest.raises(ValueError, match=words) as raised:
        read_motion(file)
    assert "motion.npz" in str(raised.value)


def test_npz_with_nan_names_the_frame(tmp_path):
    positions = np.zeros((6, 17, 3))
    positions[4, 2, 1] = np.nan
    file, _ = _npz(tmp_path, positions=positions)
    with pytest.raises(ValueError, match="frame 4"):
        read_motion(file)


def test_missing_damaged_and_unknown_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such motion file"):
        read_motion(tmp_path / "absent.npz")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match=r"damaged\.npz: not a readable \.npz"):
        read_motion(damaged)
    for content in (b"", b"\x93NUMPY"):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"not a readable \.npz"):
            read_motion(damaged)
    with damaged.open("wb") as stream:  # one array instead of an archive
        np.save(stream, np.zeros(3))
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        read_motion(damaged)
    other = tmp_path / "motion.c3d"
    other.write_bytes(b"")
    with pytest.raises(ValueError, match=r"end in \.npz or \.bvh"):
        read_motion(other)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"holds no \.bvh"):
        read_motion(empty)


def _motion(subjects):
    count = len(subjects)
    return Motion(
        np.zeros((count, 17, 3), np.float32),
        np.array(subjects),
        np.array(["x"] * count),
        "test",
    )


def test_frame_order_is_a_seeded_permutation_split_by_subject():
    motion = _motion(np.repeat(np.arange(10), 30))
    train = frame_order(motion, "train", 0)
    val = frame_order(motion, "val", 0)
    assert sorted(train) == list(range(240))
    assert sorted(val) == list(range(240, 300))
    assert not np.array_equal(train, np.sort(train))
    np.testing.assert_array_equal(train, frame_order(motion, "train", 0))
    assert not np.array_equal(train, frame_order(motion, "train", 1))


def test_frame_order_of_a_single_subject_splits_in_time():
    motion = _motion([7] * 10)
    assert sorted(frame_order(motion, "train", 0)) == list(range(8))
    assert sorted(frame_order(motion, "val", 0)) == [8, 9]
    with pytest.raises(ValueError, match="leave none for 'val'"):
        frame_order(_motion([7]), "val", 0)


def test_real_motion_capture_reads(shared_data):
    motion = read_motion(shared_data / "cmu_mocap17.npz")
    assert len(motion) == 37102
    assert len(np.unique(motion.subject)) == 30
    train, val = (frame_order(motion, s, 0) for s in ("train", "val"))
    assert len(train) + len(val) == 37102
    assert not set(motion.subject[train]) & set(motion.subject[val])
