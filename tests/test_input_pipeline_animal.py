"""The drawn animal: a skeleton of its own, pictures and files like a user's."""

import json

import numpy as np
import pytest
from PIL import Image

from input_pipeline.checks.validate import validate
from input_pipeline.dataset import open_dataset
from input_pipeline.synthetic.animal import JOINT, JOINTS, SKELETON, draw_animal
from input_pipeline.synthetic.animal_dataset import write_animals

NUM = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("animals")
    write_animals(folder, num_train=NUM, num_val=4, size=48, hidden=0.3)
    return folder


def settings(folder):
    from configs import mocap_images

    data = mocap_images.get_config().data
    data.data_dir = str(folder / "prepared")
    for split, end in (("train", ""), ("val", "_val")):
        data[f"annotations{end}"] = str(folder / f"{split}.json")
        data[f"images{end}"] = str(folder / f"images_{split}")
        data[f"ground_truth{end}"] = str(folder / f"gt3d_{split}.npz")
    return data


def test_the_skeleton_is_a_tree_with_pairs():
    assert SKELETON.num_joints == 23
    assert len(SKELETON.edges) == 22
    assert len({child for _, child in SKELETON.edges}) == 22
    assert len(SKELETON.left_right) == 8
    assert SKELETON.joints[SKELETON.root] == "Withers"


def test_a_sample_depends_on_its_number_alone_and_scales_with_the_picture():
    first, again = (draw_animal(3, split="train", size=40) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    large = draw_animal(3, split="train", size=80)
    np.testing.assert_allclose(large.keypoints, 2 * first.keypoints, rtol=1e-5)
    np.testing.assert_array_equal(large.positions_mm, first.positions_mm)
    other = draw_animal(3, split="val", size=40)
    assert other.subject != first.subject


def test_bones_keep_their_lengths_from_pose_to_pose():
    drawn = [draw_animal(i, split="val", size=16) for i in range(60)]
    bone = JOINT["LShoulder"], JOINT["LElbow"]
    for subject in {s.subject for s in drawn}:
        own = [s.positions_mm for s in drawn if s.subject == subject]
        lengths = [np.linalg.norm(p[bone[0]] - p[bone[1]]) for p in own]
        np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)


def test_left_is_left():
    # left x forward = down in the animal's right-handed frame (x left, y up).
    for i in range(20):
        at = draw_animal(i, split="train", size=16).positions_mm
        left = at[JOINT["LHip"]] - at[JOINT["RHip"]]
        forward = at[JOINT["Loin"]] - at[JOINT["TailBase"]]
        assert np.cross(left, forward)[1] > 0, "y points down in the camera's frame"


def test_pictures_show_the_animal_where_the_landmarks_are():
    for i in range(8):
        sample = draw_animal(i, split="train", size=64)
        assert ((sample.keypoints > 0) & (sample.keypoints < 64)).all()
        inside = sample.keypoints[JOINT["Withers"]].astype(int)
        corner = sample.image[0, 0].astype(int)
        assert np.abs(sample.image[inside[1], inside[0]].astype(int) - corner).max() > 8


def test_the_files_read_as_a_users_own(folder):
    landmarks = open_dataset(settings(folder)).landmarks("train")
    assert landmarks.skeleton.joints == JOINTS
    assert len(landmarks) == NUM
    assert landmarks.labelled.mean() == pytest.approx(0.7, abs=0.05)
    truth = open_dataset(settings(folder)).truth("train").align(landmarks.sample_ids)
    drawn = draw_animal(5, split="train", size=48)
    np.testing.assert_array_equal(truth.positions_mm[5], drawn.positions_mm)
    seen = landmarks.labelled[5]
    np.testing.assert_allclose(
        landmarks.keypoints[5][seen], drawn.keypoints[seen], atol=0.01
    )
    with Image.open(folder / "images_train" / "000005.jpg") as picture:
        difference = np.asarray(picture).astype(int) - drawn.image
    assert np.abs(difference).mean() < 6
    assert not validate(open_dataset(settings(folder))).problems


def test_all_landmarks_are_there_when_none_is_hidden(tmp_path):
    write_animals(tmp_path, num_train=2, num_val=1, size=32, hidden=0.0)
    annotations = json.loads((tmp_path / "train.json").read_text())["annotations"]
    assert [a["num_keypoints"] for a in annotations] == [23, 23]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 1.0}, r"hidden=1.0 must be a share"),
        ({"num_val": 0}, r"0 pictures: both"),
        ({"size": 4}, r"size=4 must be at least 8"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path, change, message):
    wish = {"num_train": 2, "num_val": 1, "size": 32, **change}
    with pytest.raises(ValueError, match=message):
        write_animals(tmp_path, **wish)


def test_a_folder_in_use_is_left_alone(folder):
    with pytest.raises(ValueError, match="holds a data set already"):
        write_animals(folder, num_train=1, num_val=1)
