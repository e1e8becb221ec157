"""The TFDS builders: what is stored, where, and that 3D stays out of it."""

import numpy as np
import pytest
from tiny_data import coco_record, write_coco, write_motion

from input_pipeline.ground_truth import read_ground_truth
from input_pipeline.landmarks import read_landmarks
from input_pipeline.pipeline import image_batches
from input_pipeline.settings import DataSettings, data_settings
from input_pipeline.sources.prepared import ensure_prepared, locate
from input_pipeline.synthetic.sample import render_sample
from input_pipeline.tensorflow_setup import load_tfds

SMALL = {"name": "mannequin", "num_train": 5, "num_val": 3, "render_size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return SMALL | {"data_dir": str(tmp_path_factory.mktemp("prepared"))}


def _stored(data, split):
    folder = ensure_prepared(data_settings(data)).folder
    return load_tfds().builder_from_directory(str(folder)).as_data_source(split)


def test_mannequin_rows_are_its_samples(data):
    landmarks, truth = read_landmarks(data, "val"), read_ground_truth(data, "val")
    assert truth is not None
    for index in range(3):
        sample = render_sample(index, split="val", seed=0, size=32)
        np.testing.assert_allclose(
            landmarks.keypoints[index], sample.keypoints, rtol=1e-6
        )
        np.testing.assert_allclose(
            truth.positions_mm[index], sample.positions_mm, rtol=1e-6
        )
        assert truth.action[index] == sample.action
        assert truth.subject[index] == sample.subject
    np.testing.assert_array_equal(truth.sample_ids, landmarks.sample_ids)


def test_mannequin_pictures_are_those_of_the_renderer(data):
    """Up to what JPEG of quality 95 loses."""
    for index, stored in enumerate(_stored(data, "train")):
        drawn = render_sample(index, split="train", seed=0, size=32)
        difference = np.abs(stored["image"].astype(float) - drawn.image)
        assert difference.mean() < 3
        assert stored["row"] == stored["sample_id"] == index


def test_what_training_reads_holds_no_3d(data):
    features = set(_stored(data, "train")[0])
    assert features == {
        *("image", "keypoints", "labelled", "box", "sample_id", "row", "name")
    }
    prepared = ensure_prepared(data_settings(data))
    with np.load(prepared.landmarks_file("train")) as table:
        assert all(table[key].shape[-1:] != (3,) for key in table.files)


def test_mannequin_batches(data):
    (batch,) = image_batches(
        data, "val", batch_size=4, image_size=16, seed=0, train=False
    )
    assert batch["weight"].tolist() == [1, 1, 1, 0]
    assert batch["image"].std() > 5


@pytest.mark.parametrize(
    "change",
    [
        {"num_train": 6},
        {"render_size": 33},
        {"seed": 1},
        {"elevation_deg": (0.0, 5.0)},
    ],
)
def test_other_settings_have_another_folder(data, change):
    first, other = data_settings(data), data_settings(data | change)
    assert locate(first).folder != locate(other).folder


def test_cropping_does_not_prepare_again(data):
    first = locate(data_settings(data))
    assert first == locate(data_settings(data | {"padding": 2.0}))


def test_mannequin_in_captured_poses(tmp_path):
    data = SMALL | {
        "data_dir": str(tmp_path / "prepared"),
        "mocap_file": write_motion(tmp_path / "motion.npz"),
    }
    truth = read_ground_truth(data, "train")
    assert truth is not None
    assert set(truth.action) <= {"action 0", "action 1", "action 2"}
    with pytest.raises(ValueError, match="num_train = 500"):
        read_landmarks(data | {"num_train": 500}, "train")


def test_progress_counts_every_picture(tmp_path):
    data = write_coco(tmp_path, coco_record(7)) | {"num_val": 0}
    done: list[int] = []
    ensure_prepared(data_settings(data), done.append)
    assert done == list(range(1, 8))
    ensure_prepared(data_settings(data), done.append)
    assert len(done) == 7


def test_interrupted_preparation_starts_over(tmp_path):
    data = data_settings(write_coco(tmp_path, coco_record(7)) | {"num_val": 0})

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_prepared(data, stop)
    assert not locate(data).folder.exists()
    assert len(read_landmarks(data, "train")) == 7


def test_landmarks_only_data_has_no_store():
    with pytest.raises(ValueError, match="landmarks only"):
        locate(DataSettings(name="mocap"))
