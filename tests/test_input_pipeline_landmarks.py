"""Landmarks as read: order, visibility, crops, the errors, no TensorFlow for mocap."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_data import JOINTS, changed, coco_record, write_coco, write_motion

from input_pipeline.dataset import open_dataset
from input_pipeline.landmarks import Landmarks, make_landmarks
from input_pipeline.skeleton import H36M_17, Skeleton

TOY = Skeleton("toy", ("a", "b", "c"), ((0, 1), (1, 2)))


@pytest.fixture
def motion_file(tmp_path) -> str:
    return write_motion(tmp_path / "motion.npz")


def _landmarks(keypoints, labelled) -> Landmarks:
    return make_landmarks(
        skeleton=TOY,
        sample_ids=np.arange(len(keypoints)),
        keypoints=np.asarray(keypoints, np.float32),
        labelled=np.asarray(labelled, bool),
        boxes=None,
        names=tuple("xyz"[: len(keypoints)]),
        padding=1.0,
    )


def test_patch_and_centred_by_hand():
    """Box x 0..8, y 0..4: centre (4, 2), half side 4."""
    landmarks = _landmarks([[[0, 0], [8, 4], [7, 7]]], [[True, True, False]])
    np.testing.assert_allclose(landmarks.patch, [[[-1, -0.5], [1, 0.5], [0, 0]]])
    W, mean = landmarks.centred
    np.testing.assert_allclose(mean, [[0, 0]])
    np.testing.assert_allclose(W, landmarks.patch)
    assert W.dtype == mean.dtype == landmarks.patch.dtype == np.float32


def test_centred_has_zero_mean_over_the_labelled_joints():
    rng = np.random.default_rng(0)
    labelled = rng.random((3, 3)) < 0.8
    labelled[:, :2] = True
    landmarks = _landmarks(rng.uniform(0, 9, (3, 3, 2)), labelled)
    W, mean = landmarks.centred
    np.testing.assert_allclose(W.sum(axis=1), 0, atol=1e-5)
    assert not W[~labelled].any()
    np.testing.assert_allclose(
        (W + mean[:, None])[labelled], landmarks.patch[labelled], atol=1e-6
    )


def test_zero_area_names_the_sample():
    with pytest.raises(ValueError, match=r"^y, sample 1: zero-area box .*label"):
        _landmarks([[[0, 0], [8, 4], [7, 7]], [[3, 3]] * 3], [[True] * 3] * 2)


def test_coco_rows_follow_the_annotations(tmp_path):
    record = coco_record(12)
    data = write_coco(tmp_path, record) | {"num_val": 0}
    landmarks = open_dataset(data).landmarks("train")
    assert landmarks.sample_ids.tolist() == list(range(500, 512))
    assert landmarks.names[3] == "003.png"
    assert landmarks.skeleton.joints == tuple(JOINTS)
    assert landmarks.skeleton.left_right == ((2, 3), (4, 5))
    expected = np.reshape(record["annotations"][5]["keypoints"], (-1, 3))[:, :2]
    np.testing.assert_allclose(landmarks.keypoints[5], expected, rtol=1e-6)
    assert np.abs(landmarks.patch).max() == pytest.approx(1 / 1.25, abs=1e-6)


def test_annotation_box(tmp_path):
    record = changed(coco_record(3), 1, bbox=[10, 20, 30, 40])
    data = write_coco(tmp_path, record) | {"box": "annotation", "num_val": 0}
    landmarks = open_dataset(data).landmarks("train")
    np.testing.assert_allclose(landmarks.centre[1], [25, 40])
    assert landmarks.half_side[1] == 25.0


def test_held_out_pictures_keep_their_persons_together(tmp_path):
    record = coco_record(40)
    for i in range(40):
        twin = changed(record, i, id=900 + i)["annotations"][i]
        record["annotations"].append(twin)
    data = write_coco(tmp_path, record) | {"num_val": 3}
    opened = open_dataset(data)
    train, val = opened.landmarks("train"), opened.landmarks("val")
    assert (len(train), len(val)) == (74, 6)
    assert not set(train.names) & set(val.names)


def test_mocap_follows_the_seed_and_splits_by_subject(motion_file):
    data = {"name": "mocap", "mocap_file": motion_file, "num_train": 20, "num_val": 5}
    opened = open_dataset(data)
    train, again = opened.landmarks("train"), opened.landmarks("train")
    np.testing.assert_array_equal(train.keypoints, again.keypoints)
    other = open_dataset(data | {"seed": 1}).landmarks("train")
    assert not np.array_equal(train.sample_ids, other.sample_ids)
    val = open_dataset(data).landmarks("val")
    assert not set(train.sample_ids) & set(val.sample_ids)
    assert len(set(train.sample_ids)) == len(train) == 20
    assert train.skeleton is H36M_17


def test_mocap_names_the_missing_frames(motion_file):
    data = {"name": "mocap", "mocap_file": motion_file, "num_train": 999}
    with pytest.raises(ValueError, match=r"num_train = 999.*only \d+ train frames"):
        open_dataset(data).landmarks("train")


def test_mocap_needs_no_tensorflow(motion_file):
    code = (
        "import sys\n"
        "from input_pipeline.dataset import open_dataset\n"
        f"data = dict(name='mocap', mocap_file={motion_file!r}, num_train=5)\n"
        "data = open_dataset(data)\n"
        "data.landmarks('train'), data.truth('train')\n"
        "assert not {'tensorflow', 'tensorflow_datasets', 'jax'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_mh_mocap(shared_data, tmp_path):
    folder = shared_data / "mh_mocap"
    data = {
        "name": "coco",
        "data_dir": str(tmp_path),
        "annotations": str(folder / "person_keypoints_val.json"),
        "images": str(folder / "images_val"),
        "num_val": 0,
    }
    landmarks = open_dataset(data).landmarks("train")
    assert landmarks.keypoints.shape == (500, 17, 2)
    assert landmarks.labelled.all()
    assert landmarks.skeleton == H36M_17
