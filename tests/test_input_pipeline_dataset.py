"""A data set resolved once: its landmarks, its pictures, its fields as JSON."""

import json

import numpy as np
import pytest
from tiny_data import coco_record, write_coco

from configs import default
from input_pipeline.dataset import Dataset, open_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    record = coco_record(20)
    return open_dataset(write_coco(tmp_path_factory.mktemp("toy"), record))


def test_landmarks_are_read_once(data):
    assert data.landmarks("train") is data.landmarks("train")
    assert len(data.landmarks("train")) == 18
    assert len(data.landmarks("val")) == 2
    assert len(data.landmarks("extra")) == 0
    assert data.skeleton == data.landmarks("val").skeleton
    assert data.truth("val") is None
    assert data.has_pictures


def test_chosen_rows_alone_are_loaded(data):
    """In the order in which they are asked for; the last batch is padded."""
    shared = {"batch_size": 2, "image_size": 16, "seed": 0, "train": False}
    whole = np.concatenate([b["image"] for b in data.pictures("train", **shared)])
    some = list(data.pictures("train", rows=(7, 2, 11), **shared))
    assert [b["row"].tolist() for b in some] == [[7, 2], [11, 11]]
    assert [b["weight"].tolist() for b in some] == [[1, 1], [1, 0]]
    np.testing.assert_array_equal(some[0]["image"], whole[[7, 2]])
    np.testing.assert_array_equal(
        some[0]["keypoints"], data.landmarks("train").patch[[7, 2]]
    )


def test_dictionaries_are_given_as_json_text_or_file(tmp_path):
    """What the shell can set, in the form that the messages show."""
    names, more = {"paw": "LPaw"}, {"more": {"name": "coco", "annotations": "a.json"}}
    file = tmp_path / "more.json"
    file.write_text(json.dumps(more))
    config = default.get_config()
    config.data.name = "coco"
    config.data.joint_names = json.dumps(names)
    config.data.extra_sources = str(file)
    settings = open_dataset(config.data).settings
    assert settings.joint_names == (("paw", "LPaw"),)
    assert settings.extra_sources[0][1].annotations == "a.json"
    for field, text in (
        *((field, "[1]") for field in ("joint_names", "extra_sources")),
        ("joint_names", '{"a": '),
        ("extra_sources", str(tmp_path / "gone.json")),
    ):
        with pytest.raises(ValueError, match=rf"{field} = .* JSON object in quotes"):
            open_dataset({"name": "coco", field: text})
