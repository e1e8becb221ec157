"""Readers of labels: every format gives the same record."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_formats as formats
from scipy.io import savemat
from tiny_formats import COUNT

from input_pipeline.checks.problems import Problem, raise_problem
from input_pipeline.checks.validate import validate
from input_pipeline.dataset import open_dataset
from input_pipeline.formats import mat_file
from input_pipeline.formats.annotations import Labels, Source
from input_pipeline.formats.splits import read_index
from input_pipeline.landmarks import Landmarks
from input_pipeline.settings import read_settings
from input_pipeline.skeleton import (
    BUILT_IN,
    H36M_17,
    LSP_14,
    MPII_16,
    match_joints,
    read_skeleton,
)
from input_pipeline.sources.labelled_pictures import LabelledPictures

VIDEO = "labeled-data/video/"


def _index(data, split="train") -> Labels:
    index = read_index(read_settings(data), split, report=raise_problem)
    assert index is not None
    return index


def _landmarks(data, folder) -> Landmarks:
    data = data | {"data_dir": str(folder / "prepared"), "num_val": 0}
    return open_dataset(data).landmarks("train")


def _assert_same(one: Landmarks, other: Landmarks) -> None:
    assert one.skeleton.joints == other.skeleton.joints
    assert {frozenset(e) for e in one.skeleton.edges} == {
        frozenset(e) for e in other.skeleton.edges
    }
    assert one.skeleton.left_right == other.skeleton.left_right
    assert one.skeleton.root == other.skeleton.root
    assert one.names == other.names
    np.testing.assert_array_equal(one.sample_ids, other.sample_ids)
    np.testing.assert_array_equal(one.labelled, other.labelled)
    np.testing.assert_allclose(one.keypoints, other.keypoints, atol=2e-6)
    np.testing.assert_allclose(one.centre, other.centre, atol=2e-6)
    np.testing.assert_allclose(one.half_side, other.half_side, atol=2e-6)


def test_readers_agree(tmp_path):
    """COCO, MPII (both), DeepLabCut (csv of 1 and 3 cells, h5) and SLEAP."""
    xy, gone = formats.points(MPII_16), formats.hidden(MPII_16)
    files = formats.names(folder=VIDEO)
    formats.write_pictures(tmp_path, files)
    given = (tmp_path, MPII_16, xy, gone, files)
    reference = _landmarks(formats.write_coco(*given), tmp_path)
    np.testing.assert_array_equal(reference.labelled, ~gone)
    np.testing.assert_allclose(reference.keypoints[~gone], xy[~gone], atol=2e-6)
    three = _landmarks(formats.write_dlc(*given, cells=3), tmp_path)
    dlc = formats.write_dlc(*given)
    hdf = formats.write_dlc_hdf(dlc)
    images = {"images": str(tmp_path)}
    for other in (
        three,
        _landmarks(dlc, tmp_path),
        _landmarks(hdf | images, tmp_path),
        _landmarks(formats.write_mpii_json(tmp_path, xy, gone, files), tmp_path),
        _landmarks(formats.write_mpii_mat(tmp_path, xy, gone, files), tmp_path),
    ):
        _assert_same(other, reference)
    sleap = _landmarks(formats.write_sleap(*given) | images, tmp_path)
    assert [Path(n).name for n in sleap.names] == [
        Path(n).name for n in reference.names
    ]
    object.__setattr__(sleap, "names", reference.names)  # it names whole paths
    _assert_same(sleap, reference)


@pytest.mark.parametrize("extended", [False, True])
def test_lsp(tmp_path, extended):
    xy, gone = formats.points(LSP_14), formats.hidden(LSP_14)
    data = formats.write_lsp(tmp_path, xy, gone, extended=extended)
    landmarks = _landmarks(data, tmp_path)
    assert landmarks.skeleton == LSP_14
    np.testing.assert_array_equal(landmarks.labelled, ~gone)
    np.testing.assert_allclose(landmarks.keypoints[~gone], xy[~gone], atol=2e-6)
    assert landmarks.names[0] == ("im00001.jpg" if extended else "im0001.jpg")


def test_h36m_npz(tmp_path):
    xy, files = formats.points(H36M_17), formats.names()
    formats.write_pictures(tmp_path, files)
    data = formats.write_h36m_npz(tmp_path, xy, files) | {"box": "annotation"}
    landmarks = _landmarks(data, tmp_path)
    assert landmarks.skeleton == H36M_17
    np.testing.assert_allclose(landmarks.keypoints, xy, atol=2e-6)
    np.testing.assert_allclose(landmarks.centre, formats.SIZE / 2)


def test_h36m_challenge_folder(tmp_path):
    xy = formats.points(H36M_17, count=5)
    data = formats.write_challenge(tmp_path, xy)
    data |= {"data_dir": str(tmp_path / "prepared"), "num_val": 0}
    for split in ("train", "val"):
        landmarks = open_dataset(data).landmarks(split)
        np.testing.assert_allclose(landmarks.keypoints, xy, atol=2e-6)
        assert landmarks.names[4] == "00005.jpg"


@pytest.mark.parametrize(
    ("fields", "train", "val"),
    [
        ({}, "a", "a"),
        ({"images": "i"}, "i", "i"),
        ({"annotations_val": "b/y.json"}, "a", "b"),
        ({"annotations_val": "b/y.json", "images": "i"}, "i", "i"),
        ({"annotations_val": "b/y.json", "images": "i", "images_val": "v"}, "i", "v"),
    ],
)
def test_where_pictures_are_looked_for(fields, train, val):
    settings = read_settings({"name": "coco", "annotations": "a/x.json"} | fields)
    assert settings.annotation_file("train") == (Path("a/x.json"), Path(train))
    file = Path(fields.get("annotations_val", "a/x.json"))
    assert settings.annotation_file("val") == (file, Path(val))


def test_where_the_challenges_pictures_are_looked_for(tmp_path):
    (tmp_path / "Val").mkdir()
    data = {"name": "h36m", "annotations": str(tmp_path), "images": "elsewhere"}
    settings = read_settings(data)
    assert settings.annotation_file("train")[1] == Path("elsewhere")
    assert settings.annotation_file("val")[1] == tmp_path / "Val" / "IMG"


def test_the_challenge_has_no_2d_of_its_own(tmp_path):
    xy = formats.points(H36M_17, count=2)
    data = formats.write_challenge(tmp_path, xy)
    for file in tmp_path.glob("*_cache/*.npz"):
        file.unlink()
    with pytest.raises(ValueError, match=r"Sun et al.*beside Train and Val"):
        _index(data)


def test_labels_are_brought_to_one_skeleton_by_name(tmp_path):
    """MPII has no Spine; its UpperNeck and HeadTop are the Neck and the Head."""
    xy, files = formats.points(MPII_16), formats.names()
    formats.write_pictures(tmp_path, files)
    gone = np.zeros((COUNT, 16), bool)
    data = formats.write_mpii_json(tmp_path, xy, gone, files)
    index = _index(data | {"skeleton": "h36m_17"})
    assert index.skeleton == H36M_17
    for person, points in zip(index.persons, xy, strict=True):
        for joint, theirs in (("Head", "HeadTop"), ("LKnee", "LKnee")):
            i, k = H36M_17.joints.index(joint), MPII_16.joints.index(theirs)
            np.testing.assert_allclose(person.keypoints[i], points[k], atol=2e-6)
        assert person.labelled.tolist() == [j != "Spine" for j in H36M_17.joints]


def test_joints_that_are_left_out_are_noted(tmp_path):
    xy, files = formats.points(MPII_16), formats.names()
    formats.write_pictures(tmp_path, files)
    gone = np.zeros((COUNT, 16), bool)
    data = formats.write_coco(tmp_path, MPII_16, xy, gone, files)
    report = validate(open_dataset(data | {"skeleton": "coco_17", "num_val": 2}))
    notes = {p.kind: p.value for p in report.problems if not p.fatal}
    assert notes["joints not in file"].startswith("nose, left_eye")
    assert "Pelvis" in notes["joints not used"]


def test_other_names_are_given_in_the_config(tmp_path):
    xy, files = formats.points(MPII_16), formats.names()
    formats.write_pictures(tmp_path, files)
    gone = np.zeros((COUNT, 16), bool)
    data = formats.write_mpii_json(tmp_path, xy, gone, files)
    skeleton = {"joints": ["Kopf", "Becken"], "edges": [["Becken", "Kopf"]]}
    path = tmp_path / "skeleton.json"
    path.write_text(json.dumps(skeleton))
    renames = {"HeadTop": "Kopf", "Pelvis": "Becken"}
    index = _index(data | {"skeleton": str(path), "joint_names": renames})
    assert index.skeleton.joints == ("Kopf", "Becken")
    np.testing.assert_allclose(index.persons[3].keypoints[0], xy[3, 9], atol=2e-6)
    with pytest.raises(ValueError, match="no name in common"):
        _index(data | {"skeleton": str(path)})
    with pytest.raises(ValueError, match=r"joint_names: 'Head' -> 'Kopf'"):
        _index(data | {"skeleton": str(path), "joint_names": {"Head": "Kopf"}})


def test_several_animals_and_videos_of_a_deeplabcut_project(tmp_path):
    for v in ("one", "two"):
        folder = tmp_path / "labeled-data" / v
        formats.write_pictures(folder, ["a.png", "b.png"])
        rows = [
            "scorer,,,me,me,me,me,me,me,me,me",
            "individuals,,,m1,m1,m1,m1,m2,m2,m2,m2",
            "bodyparts,,,nose,nose,tail,tail,nose,nose,tail,tail",
            "coords,,,x,y,x,y,x,y,x,y",
            f"labeled-data,{v},a.png,1,2,30,40,5,6,50,60",
            f"labeled-data,{v},b.png,1,2,30,40,,,,",
        ]
        (folder / "CollectedData_me.csv").write_text("\n".join(rows))
    index = _index({"name": "dlc", "annotations": str(tmp_path)})
    assert len(index.persons) == 6
    assert index.skipped["unlabelled"] == 2
    assert [p.image_id for p in index.persons] == [0, 0, 1, 2, 2, 3]
    assert index.persons[1].keypoints.tolist() == [[5.5, 6.5], [50.5, 60.5]]
    assert index.persons[1].at == "CollectedData_me.csv row 0 m2"


def test_unlikely_points_are_unlabelled(tmp_path):
    formats.write_pictures(tmp_path, ["a.png"])
    rows = [
        "scorer,m,m,m,m,m,m,m,m,m",
        "bodyparts,a,a,a,b,b,b,c,c,c",
        "coords,x,y,likelihood,x,y,likelihood,x,y,likelihood",
        "a.png,1,2,0.9,3,4,0.2,9,9,1",
    ]
    (tmp_path / "x.csv").write_text("\n".join(rows))
    data = {"name": "dlc", "annotations": str(tmp_path / "x.csv")}
    index = _index(data | {"images": str(tmp_path)})
    assert index.persons[0].labelled.tolist() == [True, False, True]


def test_predictions_for_a_video_are_no_labels(tmp_path):
    rows = ["scorer,m,m", "bodyparts,a,a", "coords,x,y", "0,1,2", "1,1,2"]
    (tmp_path / "x.csv").write_text("\n".join(rows))
    with pytest.raises(ValueError, match="use the files under"):
        _index({"name": "dlc", "annotations": str(tmp_path / "x.csv")})


def test_sleap_frames_need_their_video(tmp_path):
    import sleap_io as sio

    skeleton = sio.Skeleton([sio.Node("a"), sio.Node("b")])
    video = sio.Video(filename="mouse.mp4", open_backend=False)
    instance = sio.Instance.from_numpy(np.ones((2, 2)), skeleton=skeleton)
    frame = sio.LabeledFrame(video=video, frame_idx=3, instances=[instance])
    labels = sio.Labels([frame], videos=[video], skeletons=[skeleton])
    labels.save(str(tmp_path / "x.slp"))
    with pytest.raises(ValueError, match=r"frame 3: no mouse\.mp4; put it below"):
        _index({"name": "sleap", "annotations": str(tmp_path / "x.slp")})


def test_predicted_sleap_instances_stand_back_behind_those_by_hand(tmp_path):
    import sleap_io as sio

    formats.write_pictures(tmp_path, ["a.png"])
    skeleton = sio.Skeleton([sio.Node("a"), sio.Node("b")])
    video = sio.Video(filename=[str(tmp_path / "a.png")])
    points = np.array([[1.0, 2.0], [30.0, 40.0]])
    by_hand = sio.Instance.from_numpy(points, skeleton=skeleton)
    predicted = sio.PredictedInstance.from_numpy(
        points + 1, skeleton=skeleton, point_scores=np.ones(2), score=1.0
    )
    frame = sio.LabeledFrame(video=video, frame_idx=0, instances=[predicted, by_hand])
    labels = sio.Labels([frame], videos=[video], skeletons=[skeleton])
    labels.save(str(tmp_path / "x.slp"))
    index = _index({"name": "sleap", "annotations": str(tmp_path / "x.slp")})
    assert [p.keypoints.tolist() for p in index.persons] == [[[1.5, 2.5], [30.5, 40.5]]]
    assert index.skipped["predicted"] == 1


def test_a_missing_package_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sleap_io", None)
    (tmp_path / "x.slp").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"sleap-io.*pip install"):
        _index({"name": "sleap", "annotations": str(tmp_path / "x.slp")})


def test_things_without_keypoints_are_passed_over(tmp_path):
    """A file of many categories, of which one has keypoints."""
    xy, files = formats.points(MPII_16), formats.names()
    formats.write_pictures(tmp_path, files)
    gone = formats.hidden(MPII_16)
    data = formats.write_coco(tmp_path, MPII_16, xy, gone, files)
    path = Path(data["annotations"])
    record = json.loads(path.read_text())
    record["categories"].append({"id": 2, "name": "ball"})
    record["annotations"] += [
        {"id": 50, "image_id": 0, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"id": 51, "image_id": 0, "category_id": 1, "iscrowd": 1},
        # A second person in the first picture.
        record["annotations"][1] | {"id": 52, "image_id": 0},
    ]
    path.write_text(json.dumps(record))
    index = _index(data)
    assert len(index.persons) == COUNT + 1
    assert index.skipped == {"crowd": 1, "unlabelled": 1, "too few joints": 0}
    assert [p.sample_id for p in index.persons if p.image_id == 0] == [0, 52]


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("left_hip", "LHip"),
        ("hip.L", "left hip"),
        ("Left Hind Paw", "hind_paw_l"),
        ("leftHand", "hand_left"),
        ("HeadTop", "head"),
        ("nose", "Nose"),
    ],
)
def test_names_that_mean_the_same(here, there):
    skeleton = read_skeleton(json.dumps({"joints": ["other", there]}))
    assert match_joints([here], skeleton).tolist() == [-1, 0]
    assert match_joints([here, "other"], skeleton).tolist() == [1, 0]


def test_left_is_not_right():
    skeleton = read_skeleton(json.dumps({"joints": ["LHip", "RHip"]}))
    assert match_joints(["right_hip", "left_hip"], skeleton).tolist() == [1, 0]
    with pytest.raises(ValueError, match="both the skeleton's 'LHip'"):
        match_joints(["left_hip", "hip_l"], skeleton)


@pytest.mark.parametrize("skeleton", BUILT_IN.values(), ids=BUILT_IN)
def test_a_skeleton_matches_itself(skeleton):
    places = match_joints(skeleton.joints, skeleton)
    assert places.tolist() == list(range(skeleton.num_joints))


def test_other_labels_and_other_joints_are_prepared_apart(tmp_path):
    xy, files = formats.points(MPII_16), formats.names()
    formats.write_pictures(tmp_path, files)
    data = formats.write_mpii_json(tmp_path, xy, formats.hidden(MPII_16), files)
    data |= {"data_dir": str(tmp_path / "prepared")}
    digests = [
        LabelledPictures(read_settings(data | change)).digest
        for change in (
            {},
            {"skeleton": "h36m_17"},
            {"skeleton": "h36m_17", "joint_names": {"UpperNeck": "Spine"}},
            {"skeleton": json.dumps({"joints": ["RAnkle", "RKnee", "RHip"]})},
        )
    ]
    assert len(set(digests)) == len(digests)


def test_a_problem_is_one_short_line(tmp_path):
    found: list[Problem] = []
    path = tmp_path / "mpii.json"
    path.write_text(json.dumps([{"image": "a.png", "joints": list(range(5000))}]))
    settings = read_settings({"name": "mpii", "annotations": str(path)})
    read_index(settings, "train", report=found.append)
    assert len(str(found[0])) < 700
    assert "\n" not in str(found[0])


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files(tmp_path, compressed):
    """Numbers, text, cells and structs; what claims more than fits is refused."""
    cells = np.empty(2, object)
    cells[:] = [{"a": "ä", "b": 7}, {"a": "", "b": np.arange(2)}]
    given = {"n": np.arange(24).reshape(2, 3, 4), "text": "Grüße", "cells": cells}
    path = tmp_path / "x.mat"
    savemat(path, given, do_compression=compressed)
    source = Source(path, tmp_path, "train", "landmarks", 1, raise_problem)
    np.testing.assert_array_equal(mat_file.read_mat(source, "n"), given["n"])
    assert mat_file.text(mat_file.read_mat(source, "text")) == "Grüße"
    found = mat_file.as_list(mat_file.read_mat(source, "cells"))
    assert mat_file.text(mat_file.field(found[0], "a")) == "ä"
    assert mat_file.number(mat_file.field(found[0], "b")) == 7
    assert mat_file.number(mat_file.field(found[1], "b")) is None
    with pytest.raises(ValueError, match=r"holds \['cells', 'n', 'text'\]"):
        mat_file.read_mat(source, "m")
    content = path.read_bytes()
    path.write_bytes(content[:-16])
    with pytest.raises(ValueError, match=r"not a \.mat file.*-v7"):
        mat_file.read_mat(source, "cells")


def test_a_crash_of_the_matlab_reader_is_a_message(tmp_path, monkeypatch):
    """As a damaged file can cause it, by memory or by a fault in its code."""
    path = tmp_path / "x.mat"
    savemat(path, {"n": np.arange(3)})
    source = Source(path, tmp_path, "train", "landmarks", 1, raise_problem)
    for program, message in (
        ("import os; os.abort()", "its reader ended by -6"),
        ("raise MemoryError", "MemoryError"),
    ):
        monkeypatch.setattr(mat_file, "_PROGRAM", program)
        with pytest.raises(ValueError, match=message):
            mat_file.read_mat(source, "n")
