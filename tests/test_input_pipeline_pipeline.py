"""Batches: the seed, resuming, hosts, padding, landmarks on their pictures."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_data import coco_record, write_coco

from input_pipeline.dataset import Dataset, open_dataset

AUGMENT = {
    "scale": 0.25,
    "rotation_deg": 60.0,
    "rotation_prob": 0.6,
    "flip_prob": 0.5,
    "colour": 0.2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    """13 pictures with a bright dot at the first landmark."""
    folder = tmp_path_factory.mktemp("coco")
    made = write_coco(folder, coco_record(13)) | {"num_val": 0, "padding": 2.0}
    return open_dataset(made)


def _batches(data, count, **changes):
    options = {
        "batch_size": 4,
        "image_size": 24,
        "seed": 5,
        "train": True,
        "augment": AUGMENT,
        "num_threads": 2,
    }
    batches = data.pictures("train", **(options | changes))
    return list(itertools.islice(batches, count))


def _assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_shapes_and_types(data):
    (batch,) = _batches(data, 1)
    found = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert found == {
        "image": ((4, 24, 24, 3), "uint8"),
        "keypoints": ((4, 6, 2), "float32"),
        "labelled": ((4, 6), "bool"),
        "row": ((4,), "int32"),
        "flip": ((4,), "bool"),
        "scale": ((4,), "float32"),
        "weight": ((4,), "float32"),
    }


def test_the_seed_decides_everything_and_a_run_resumes_exactly(data):
    whole = _batches(data, 5)
    for one, two in zip(whole, _batches(data, 5, num_threads=1), strict=True):
        _assert_same(one, two)
    for one, two in zip(whole[3:], _batches(data, 2, start_step=3), strict=True):
        _assert_same(one, two)
    other = _batches(data, 5, seed=6)
    assert any((a["row"] != b["row"]).any() for a, b in zip(whole, other, strict=True))


def test_hosts_together_see_what_one_sees(data):
    (whole,) = _batches(data, 1, batch_size=4, start_step=4)
    parts = [
        _batches(data, 1, batch_size=2, start_step=4, shard_index=i, shard_count=2)[0]
        for i in range(2)
    ]
    joined = {key: np.concatenate([p[key] for p in parts]) for key in whole}
    _assert_same(whole, joined)


def test_evaluation_is_one_padded_pass_in_row_order(data):
    batches = _batches(data, None, train=False, augment=None)
    rows = np.concatenate([b["row"] for b in batches])
    weight = np.concatenate([b["weight"] for b in batches])
    assert rows[weight == 1].tolist() == list(range(13))
    assert weight.tolist() == [1.0] * 13 + [0.0] * 3
    keypoints = np.concatenate([b["keypoints"] for b in batches])[:13]
    np.testing.assert_allclose(keypoints, data.landmarks("train").patch, atol=1e-6)
    assert all((b["scale"] == 1).all() and not b["flip"].any() for b in batches)


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_landmarks_lie_on_the_picture(data, augment):
    """The dot is found at the landmark, through files, decoding and warping."""
    assert data.skeleton.flip_permutation[0] == 0
    size = 96
    near = 0
    for batch in _batches(data, 6, image_size=size, augment=augment):
        for image, keypoints in zip(batch["image"], batch["keypoints"], strict=True):
            if np.abs(keypoints[0]).max() > 0.7:
                continue
            found = _dot(image.astype(float), keypoints[0])
            assert np.abs(found - keypoints[0]).max() * size / 2 < 0.1
            near += 1
    assert near > 8


def _dot(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Centre of light of the dot, away from the grey outside the picture."""
    grid = (np.arange(len(image)) + 0.5) * 2 / len(image) - 1
    x, y = np.meshgrid(grid, grid)
    weight = image.mean(-1) * (np.hypot(x - near[0], y - near[1]) < 0.12)
    weight[weight < 6] = 0
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize(
    "changes", [{"batch_size": 0}, {"start_step": -1}, {"shard_index": 1}]
)
def test_numbers_are_checked_at_the_call(data, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        _batches(data, 1, **changes)


def test_nothing_is_printed_and_the_process_ends(data):
    """No chatter, and an iterator that is still open does not hold up the exit."""
    fields = {"name": "coco", "num_val": 0} | {
        name: getattr(data.settings, name)
        for name in ("annotations", "images", "data_dir")
    }
    code = (
        "from input_pipeline.dataset import open_dataset\n"
        f"data = open_dataset({fields!r})\n"
        "same = dict(batch_size=4, image_size=16, seed=0)\n"
        "endless = data.pictures('train', train=True, **same)\n"
        "next(endless)\n"
        "batches = data.pictures('train', train=False, **same)\n"
        "print(sum(len(b['row']) for b in batches))\n"
    )
    environment = dict(os.environ)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        check=True,
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "16\n"
    assert done.stderr == ""
