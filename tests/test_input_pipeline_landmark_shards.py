"""Landmark shards: what is written is read, by the row and whole, and checked."""

import json

import numpy as np
import pytest
from tiny_data import write_motion

from input_pipeline import landmark_shards
from input_pipeline.checks.validate import validate
from input_pipeline.landmark_shards import LandmarkWriter, ShardedArray, open_split
from input_pipeline.landmarks import read_landmarks
from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import Skeleton

TOY = Skeleton("toy", ("a", "b", "c"), ((0, 1), (1, 2)))


def _samples(count, seed=0):
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(0, 100, (count, 3, 2)).astype(np.float32)
    labelled = rng.random((count, 3)) < 0.8
    labelled[:, :2] = True
    return keypoints, labelled, np.arange(count) * 7


@pytest.fixture
def folder(tmp_path):
    with LandmarkWriter(tmp_path / "marks", TOY, shard_size=8) as writer:
        keypoints, labelled, ids = _samples(21)
        for part in (slice(0, 5), slice(5, 20), slice(20, 21)):
            writer.add("train", keypoints[part], labelled[part], ids[part])
        writer.add("val", *_samples(4, seed=1))
    return tmp_path / "marks"


def test_pieces_of_any_size_become_even_shards(folder):
    names = sorted(path.name for path in folder.iterdir())
    train = [f"train-{i:05d}-of-00003.npy" for i in range(3)]
    assert names == ["landmarks.json", *train, "val-00000-of-00001.npy"]
    split = open_split(folder, "train")
    assert split.records.counts == (8, 8, 5)
    assert split.skeleton == TOY
    np.testing.assert_array_equal(split.labelled, _samples(21)[1].sum(0))


def test_the_landmarks_are_those_that_were_written(folder):
    keypoints, labelled, ids = _samples(21)
    marks = open_split(folder, "train").landmarks()
    np.testing.assert_array_equal(marks.sample_ids, ids)
    np.testing.assert_array_equal(marks.labelled, labelled)
    np.testing.assert_allclose(
        marks.keypoints, np.where(labelled[..., None], keypoints, 0), atol=1e-4
    )
    by_config = read_landmarks({"name": "landmarks", "landmarks": str(folder)}, "val")
    assert len(by_config) == 4


def test_rows_by_index_and_by_range_are_those_of_the_files(folder):
    records = open_split(folder, "train").records
    whole = np.concatenate([np.load(path) for path in records.files])
    np.testing.assert_array_equal(records.rows(slice(None)), whole)
    np.testing.assert_array_equal(records.rows(slice(6, 17)), whole[6:17])
    assert len(records.rows(slice(9, 9))) == 0
    index = np.array([[20, 0, 7], [8, 8, 15]])
    np.testing.assert_array_equal(records.rows(index), whole[index])
    with pytest.raises(ValueError, match=r"rows 0\.\.21 of 21"):
        records.rows(np.array([0, 21]))


def test_a_data_set_becomes_a_folder_with_the_same_samples(tmp_path):
    data = DataSettings(
        name="mocap",
        mocap_file=write_motion(tmp_path / "motion.npz"),
        landmarks=str(tmp_path / "marks"),
        num_train=20,
        num_val=6,
    )
    assert "20 train, 6 val samples" in landmark_shards.write_folder(data)
    for split in ("train", "val"):
        given = read_landmarks(data, split)
        records = open_split(data.landmarks, split).records.rows(slice(None))
        np.testing.assert_array_equal(records["sample_id"], given.sample_ids)
        np.testing.assert_array_equal(records["W"], given.centred[0])
        np.testing.assert_array_equal(records["mean"], given.centred[1])
    with pytest.raises(ValueError, match="holds landmarks already"):
        landmark_shards.write_folder(data)
    with pytest.raises(ValueError, match=r"config\.data\.landmarks \(''\)"):
        landmark_shards.write_folder(DataSettings())


def test_what_is_not_finished_is_not_a_folder(tmp_path):
    def half_good():
        keypoints, labelled, ids = _samples(4)
        with LandmarkWriter(tmp_path / "marks", TOY, shard_size=2) as writer:
            writer.add("train", keypoints, labelled, ids)
            keypoints[2, 0, 1] = np.nan
            writer.add("train", keypoints, labelled, ids)

    with pytest.raises(ValueError, match="sample 14: a landmark is not finite"):
        half_good()
    assert list((tmp_path / "marks").iterdir()) == []
    with pytest.raises(ValueError, match=r"landmarks\.json does not exist; write"):
        open_split(tmp_path / "marks", "train")
    keypoints, labelled, ids = _samples(4)
    with LandmarkWriter(tmp_path / "more", TOY) as writer:
        match = r"shape \(4, 2, 2\).*need \(4, 3, 2\)"
        with pytest.raises(ValueError, match=match):
            writer.add("train", keypoints[:, :2], labelled[:, :2], ids)
        writer.add("train", keypoints, labelled, ids)


def test_damaged_folders_are_refused_and_reported(folder):
    shards = open_split(folder, "train").records.files
    shards[1].write_bytes(shards[1].read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"00001-of-00003\.npy ends before its last"):
        open_split(folder, "train").records.rows(slice(None))
    np.save(shards[2], np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match=r"00002-of-00003\.npy: rows of float32"):
        open_split(folder, "train")
    shards[2].unlink()
    with pytest.raises(ValueError, match=r"00002-of-00003\.npy does not exist"):
        open_split(folder, "train")
    report = validate({"name": "landmarks", "landmarks": str(folder)}, batch_size=2)
    assert report.problems[0].kind == "landmark shards"
    index = json.loads((folder / "landmarks.json").read_text())
    index["splits"]["val"]["shards"] = [5]
    (folder / "landmarks.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"hold \[4\] rows .* says \[5\]"):
        open_split(folder, "val")
    (folder / "landmarks.json").write_text('{"format": 9}')
    with pytest.raises(ValueError, match="format is 9"):
        open_split(folder, "val")


def test_arrays_of_one_number_a_row(tmp_path):
    landmark_shards.write_array(
        tmp_path / "x.npy", [np.arange(3), np.arange(2)], (5,), np.float32
    )
    array = ShardedArray([tmp_path / "x.npy"])
    np.testing.assert_array_equal(array.rows(np.array([4, 1])), [1, 1])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), [0, 1, 2, 0, 1])
