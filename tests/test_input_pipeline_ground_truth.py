"""3D ground truth: order, keys, and the ways in which a file may not fit."""

import numpy as np
import pytest
from tiny_data import JOINTS, changed, coco_record, write_coco, write_motion

from input_pipeline.dataset import open_dataset
from input_pipeline.ground_truth import GroundTruth

COUNT = 5


@pytest.fixture
def data(tmp_path):
    return write_coco(tmp_path, coco_record(COUNT)) | {"num_val": 0}


def _write(tmp_path, **arrays) -> str:
    """Poses whose number i has every coordinate equal to i, in reverse order."""
    rows = np.arange(COUNT)[::-1]
    positions = np.broadcast_to(rows[:, None, None] * 1.0, (COUNT, len(JOINTS), 3))
    defaults = {
        "image_id": 100 + rows,
        "positions_mm": positions,
        "action": np.array([f"action {i}" for i in rows]),
        "subject": rows,
        "joint_names": np.array(JOINTS),
    }
    path = tmp_path / "truth.npz"
    kept = {k: v for k, v in (defaults | arrays).items() if v is not None}
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **kept)
    return str(path)


def _read(data, path) -> GroundTruth:
    truth = open_dataset(data | {"ground_truth": path}).truth("train")
    assert truth is not None
    return truth


def test_rows_follow_the_landmarks(data, tmp_path):
    truth = _read(data, _write(tmp_path))
    assert truth.sample_ids.tolist() == list(range(500, 505))
    np.testing.assert_array_equal(truth.positions_mm[:, 0, 0], np.arange(5.0))
    assert truth.action.tolist()[2] == "action 2"
    assert truth.subject.tolist() == [0, 1, 2, 3, 4]
    assert truth.positions_mm.dtype == np.float32


def test_annotation_ids_and_only_the_needed_arrays(data, tmp_path):
    ids = 500 + np.arange(COUNT)[::-1]
    path = _write(tmp_path, sample_ids=ids, image_id=None, action=None, subject=None)
    truth = _read(data, path)
    np.testing.assert_array_equal(truth.positions_mm[:, 0, 0], np.arange(5.0))
    assert truth.action.tolist() == [""] * 5
    assert truth.subject.tolist() == [-1] * 5


def test_no_file_is_no_truth(data):
    assert open_dataset(data).truth("train") is None


def test_align_reorders_and_repeats():
    truth = GroundTruth(
        np.array([7, 3, 5]),
        np.arange(9.0, dtype=np.float32).reshape(3, 1, 3),
        np.array(["a", "b", "c"]),
        np.array([1, 2, 3]),
    )
    chosen = truth.align(np.array([3, 7, 3]))
    assert chosen.action.tolist() == ["b", "a", "b"]
    with pytest.raises(ValueError, match=r"1 of 2 samples.*row 1 \(sample id 6\)"):
        truth.align(np.array([5, 6]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"positions_mm": None}, r"needs positions_mm"),
        ({"image_id": None}, r"sample_ids or image_id"),
        ({"image_id": np.arange(5)}, r"no 3D ground truth for 5 of 5"),
        ({"image_id": np.arange(3)}, r"ids for 5 poses"),
        ({"positions_mm": np.zeros((5, 4, 3))}, r"needs \(N, 6, 3\)"),
        (
            {"positions_mm": np.full((5, 6, 3), np.nan)},
            r"positions_mm\[0\]: not finite",
        ),
        ({"joint_names": np.array(JOINTS[::-1])}, r"joint_names .* differ"),
    ],
)
def test_files_that_do_not_fit(data, tmp_path, arrays, message):
    path = _write(tmp_path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        _read(data, path)
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize("content", [None, b"", b"not an npz"])
def test_missing_and_damaged_file(data, tmp_path, content):
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz: (missing file|not a readable)"):
        _read(data, str(path))


def test_image_ids_need_one_person_a_picture(tmp_path):
    record = coco_record(COUNT)
    record["annotations"].append(changed(record, 0, id=900)["annotations"][0])
    data = write_coco(tmp_path, record) | {"num_val": 0}
    with pytest.raises(ValueError, match="image 100 shows several persons"):
        _read(data, _write(tmp_path))


def test_mocap_projects_to_its_landmarks(tmp_path):
    """Weak perspective: the patch is the camera frame's x, y up to a similarity."""
    path = write_motion(tmp_path / "motion.npz")
    data = {"name": "mocap", "mocap_file": path, "num_train": 10, "num_val": 5}
    landmarks, truth = (
        open_dataset(data).landmarks("val"),
        open_dataset(data).truth("val"),
    )
    assert truth is not None
    np.testing.assert_array_equal(truth.sample_ids, landmarks.sample_ids)
    xy = truth.positions_mm[..., :2]
    W, _ = landmarks.centred
    xy = xy - xy.mean(axis=1, keepdims=True)
    ratio = (W * xy).sum((1, 2)) / (xy**2).sum((1, 2))
    np.testing.assert_allclose(W, ratio[:, None, None] * xy, atol=1e-5)


def test_mocap_heads_are_up_and_depth_is_away(tmp_path):
    """y grows downwards. Seen from above, the head is nearer than the feet."""
    path = write_motion(tmp_path / "motion.npz")
    data = {
        "name": "mocap",
        "mocap_file": path,
        "num_train": 10,
        "elevation_deg": (30.0, 30.0),
        "num_val": 5,
    }
    truth = open_dataset(data).truth("train")
    assert truth is not None
    head, ankle = truth.positions_mm[:, 10], truth.positions_mm[:, 3]
    assert (head[:, 1] < ankle[:, 1]).all()
    assert (head[:, 2] < ankle[:, 2]).mean() > 0.9


def test_mh_mocap(shared_data, tmp_path):
    """Truth and landmarks of one row show the same person."""
    folder = shared_data / "mh_mocap"
    data = {
        "name": "coco",
        "data_dir": str(tmp_path),
        "annotations": str(folder / "person_keypoints_val.json"),
        "images": str(folder / "images_val"),
        "ground_truth": str(folder / "gt3d_val.npz"),
        "num_val": 0,
    }
    truth, landmarks = (
        open_dataset(data).truth("train"),
        open_dataset(data).landmarks("train"),
    )
    assert truth is not None
    xy = truth.positions_mm[..., :2] - truth.positions_mm[..., :2].mean(1)[:, None]
    W, _ = landmarks.centred
    cosine = (W * xy).sum((1, 2)) / np.sqrt((W**2).sum((1, 2)) * (xy**2).sum((1, 2)))
    assert cosine.min() > 0.99
