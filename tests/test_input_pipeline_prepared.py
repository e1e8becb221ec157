"""Prepared pictures: what is stored, where, what makes it another, what is damage."""

import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_data import changed, coco_record, write_coco, write_motion

from input_pipeline import decoding, pipeline
from input_pipeline.dataset import Dataset, open_dataset
from input_pipeline.sources.labelled_pictures import LabelledPictures
from input_pipeline.sources.mannequin import Mannequin
from input_pipeline.sources.prepared import Prepared
from input_pipeline.sources.records import Record
from input_pipeline.synthetic.sample import render_sample
from input_pipeline.tensorflow_setup import load_tfds

SMALL = {"name": "mannequin", "num_train": 5, "num_val": 3, "render_size": 32}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("prepared")
    return open_dataset(SMALL | {"data_dir": str(folder)})


def _prepared(data: Dataset) -> Prepared:
    assert isinstance(data.source, Prepared)
    return data.source


def _stored(data: Dataset, split: str):
    builder = load_tfds().builder_from_directory(str(_prepared(data).folder))
    return builder.as_data_source(split)


def test_mannequin_rows_are_its_samples(drawn):
    landmarks, truth = drawn.landmarks("val"), drawn.truth("val")
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


def test_mannequin_pictures_are_those_of_the_renderer(drawn):
    """Up to what JPEG of quality 95 loses."""
    for index, stored in enumerate(_stored(drawn, "train")):
        picture = render_sample(index, split="train", seed=0, size=32).image
        assert np.abs(stored["image"].astype(float) - picture).mean() < 3
        assert stored["row"] == stored["sample_id"] == index


def test_what_training_reads_holds_no_3d(drawn):
    features = set(_stored(drawn, "train")[0])
    assert features == {
        *("image", "keypoints", "labelled", "box", "sample_id", "row", "name")
    }
    with np.load(_prepared(drawn).folder / "landmarks_train.npz") as table:
        assert all(table[key].shape[-1:] != (3,) for key in table.files)


@pytest.mark.parametrize(
    "change",
    [
        {"num_train": 6},
        {"render_size": 33},
        {"seed": 1},
        {"elevation_deg": (0.0, 5.0)},
    ],
)
def test_other_settings_have_another_folder(drawn, change):
    other = open_dataset(SMALL | change)
    assert _prepared(other).config != _prepared(drawn).config


def test_cropping_does_not_prepare_again_but_is_another_data_set(drawn):
    other = open_dataset(SMALL | {"data_dir": drawn.settings.data_dir, "padding": 2.0})
    assert _prepared(other).folder == _prepared(drawn).folder
    assert other.identity != drawn.identity


def test_mannequin_in_captured_poses(tmp_path):
    data = SMALL | {
        "data_dir": str(tmp_path / "prepared"),
        "mocap_file": write_motion(tmp_path / "motion.npz"),
    }
    truth = open_dataset(data).truth("train")
    assert truth is not None
    assert set(truth.action) <= {"action 0", "action 1", "action 2"}
    with pytest.raises(ValueError, match="num_train = 500"):
        open_dataset(data | {"num_train": 500}).landmarks("train")


# --- preparing ---------------------------------------------------------------------


def _labels(folder: Path, count: int = 7, **data) -> Dataset:
    return open_dataset(write_coco(folder, coco_record(count)) | {"num_val": 0} | data)


def test_interrupted_preparation_starts_over(tmp_path):
    class Interrupted(LabelledPictures):
        def records(self, split: str) -> Iterator[Record]:
            yield from itertools.islice(super().records(split), 3)
            raise KeyboardInterrupt

    data = _labels(tmp_path)
    interrupted = Prepared(Interrupted(data.settings))
    with pytest.raises(KeyboardInterrupt):
        _ = interrupted.folder
    assert not interrupted.planned.exists()
    assert len(data.landmarks("train")) == 7
    # What is left of a folder is not taken for data.
    (interrupted.planned / "dataset_info.json").unlink()
    (interrupted.planned / "landmarks_train.npz").write_bytes(b"half")
    assert len(_labels(tmp_path).landmarks("train")) == 7


# --- identity ----------------------------------------------------------------------


def test_identity_is_that_of_the_contents(tmp_path):
    """Another place, another spelling, other ground truth: the same data set."""
    folder = tmp_path / "one"
    data = _labels(folder)
    shutil.copytree(folder, tmp_path / "two")
    moved = _labels(tmp_path / "two", data_dir=data.settings.data_dir)
    relative = os.path.relpath(data.settings.annotations)
    spelled = open_dataset(
        {
            "name": "coco",
            "num_val": 0,
            "annotations": relative,
            "images": str(folder / "images_train" / ".." / "images_train"),
            "data_dir": data.settings.data_dir,
        }
    )
    judged = _labels(folder, ground_truth=str(tmp_path / "truth.npz"))
    configs = {_prepared(d).config for d in (data, moved, spelled, judged)}
    assert len(configs) == 1
    for other in (moved, spelled, judged):
        for mine in ("keypoints", "labelled", "centre", "half_side"):
            np.testing.assert_array_equal(
                getattr(other.landmarks("train"), mine),
                getattr(data.landmarks("train"), mine),
            )


@pytest.mark.parametrize("kind", ["other file", "picture", "label", "padding"])
def test_what_is_another_data_set(tmp_path, kind):
    """Labels and the pictures that they name; nothing that lies beside them."""
    write_coco(tmp_path, coco_record(7), name="val")
    both = {"annotations_val": str(tmp_path / "val.json")}
    both |= {"images_val": str(tmp_path / "images_val")}
    before = _labels(tmp_path, **both)
    identity, change = before.identity, {}
    images = tmp_path / "images_train"
    record = coco_record(7)
    if kind == "other file":
        (images / "999.png").write_bytes(b"new")
        (images / "events.out").write_bytes(b"of a run")
    elif kind == "picture":
        shutil.copy(images / "000.png", images / "003.png")
    elif kind == "label":
        record = changed(record, 2, id=999)
    else:
        change = {"padding": 2.0}
    (tmp_path / "train.json").write_text(json.dumps(record))
    after = open_dataset(
        {"name": "coco", "data_dir": before.settings.data_dir, "num_val": 0}
        | {"annotations": str(tmp_path / "train.json"), "images": str(images)}
        | both
        | change
    )
    assert (after.identity == identity) == (kind == "other file")
    assert before.identity == identity  # what was opened stays what it was


# --- damage ------------------------------------------------------------------------


def _take(data: Dataset) -> list:
    options = {"batch_size": 2, "image_size": 8, "seed": 0, "train": False}
    return list(data.pictures("train", **options))


def test_training_decodes_each_picture_once_while_there_is_memory(drawn, monkeypatch):
    """Five pictures in eight batches of three; two of them, 3,072 bytes each, fit."""
    options = {"batch_size": 3, "image_size": 16, "seed": 0, "train": True}
    times, images, whole = {}, {}, decoding._decode_whole
    for limit in (0, 10_000, 2**20):
        decoded = []

        def counted(encoded, shrink, decoded=decoded):
            decoded.append(shrink)
            return whole(encoded, shrink)

        monkeypatch.setattr(decoding, "_decode_whole", counted)
        monkeypatch.setattr(pipeline, "KEPT_BYTES", limit)
        batches = drawn.pictures("train", num_threads=1, **options)
        images[limit] = [next(batches)["image"] for _ in range(8)]
        batches.close()
        times[limit] = len(decoded)
    assert times[2**20] <= 5 < times[10_000] < times[0]
    for limit in (10_000, 2**20):
        np.testing.assert_array_equal(images[limit], images[0])


def test_threads_take_no_more_memory_than_there_is():
    class Slow(int):
        def __gt__(self, other):
            time.sleep(0.01)  # the others look as well
            return int(self) > other

    memory = decoding.Memory(3)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(memory.take, [Slow(1)] * 8))
    assert sum(taken) == 3


def test_damaged_store_is_one_clear_error(tmp_path):
    data = _labels(tmp_path, 4)
    (file,) = _prepared(data).folder.glob("*.array_record*")
    content = bytearray(file.read_bytes())
    start = content.index(b"IDAT")
    content[start + 8 : start + 40] = bytes(32)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read.*delete the folder") as found:
        _take(data)
    assert str(_prepared(data).folder) in str(found.value)


def test_own_3d_that_is_cut_is_named_with_what_to_delete(drawn):
    file = _prepared(drawn).folder / "ground_truth_val.npz"
    content = file.read_bytes()
    file.write_bytes(content[:99])
    with pytest.raises(ValueError, match=r"truth_val\.npz.*, by deleting /"):
        drawn.truth("val")
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_store_whose_description_is_cut_is_named_too(tmp_path, name):
    data = _labels(tmp_path, 4)
    file = _prepared(data).folder / name
    file.write_bytes(file.read_bytes()[:99])
    with pytest.raises(ValueError, match=r"cannot be read.*delete the folder"):
        _take(data)


@pytest.mark.parametrize(
    "error",
    [MemoryError("no room"), OSError(24, "Too many open files"), ValueError("a bug")],
)
def test_other_errors_keep_their_own_message(tmp_path, monkeypatch, error):
    """Only real damage may advise to delete what was prepared."""
    data = _labels(tmp_path, 4)

    def fail(*_, **__):
        raise error

    drawing = isinstance(error, ValueError)
    place = (pipeline, "draw_patch") if drawing else (pipeline.Drawer, "_pictures")
    monkeypatch.setattr(*place, fail)
    with pytest.raises(type(error)) as found:
        _take(data)
    assert found.value is error


def test_sources_say_what_they_are(drawn):
    assert isinstance(_prepared(drawn).source, Mannequin)
    assert drawn.has_pictures
    assert not open_dataset({"name": "mocap"}).has_pictures
