"""Batches: order, resuming, sharding, padding, landmarks on their pictures."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_data import coco_record, write_coco, write_motion

from input_pipeline.crops import patch_pixel_centres
from input_pipeline.landmarks import read_landmarks
from input_pipeline.pipeline import Plan, image_batches

AUGMENT = {
    "scale": 0.25,
    "rotation_deg": 60.0,
    "rotation_prob": 0.6,
    "flip_prob": 0.5,
    "colour": 0.2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """13 pictures with a bright dot at the first landmark."""
    folder = tmp_path_factory.mktemp("coco")
    return write_coco(folder, coco_record(13)) | {"num_val": 0, "padding": 2.0}


def _batches(data, count, **changes):
    options = {
        "batch_size": 4,
        "image_size": 48,
        "seed": 5,
        "train": True,
        "augment": AUGMENT,
        "num_threads": 2,
    }
    batches = image_batches(data, "train", **(options | changes))
    return list(itertools.islice(batches, count))


def _assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_shapes_and_types(data):
    (batch,) = _batches(data, 1)
    found = {key: (value.shape, value.dtype.name) for key, value in batch.items()}
    assert found == {
        "image": ((4, 48, 48, 3), "uint8"),
        "keypoints": ((4, 6, 2), "float32"),
        "labelled": ((4, 6), "bool"),
        "row": ((4,), "int32"),
        "flip": ((4,), "bool"),
        "scale": ((4,), "float32"),
        "weight": ((4,), "float32"),
    }


def test_every_epoch_sees_every_row_once(data):
    rows = np.concatenate([b["row"] for b in _batches(data, 13)])
    epochs = rows.reshape(4, 13)
    assert (np.sort(epochs, axis=1) == np.arange(13)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_seed_decides_everything(data):
    first, again = _batches(data, 3), _batches(data, 3, num_threads=1)
    for one, two in zip(first, again, strict=True):
        _assert_same(one, two)
    other = _batches(data, 3, seed=6)
    assert any((a["row"] != b["row"]).any() for a, b in zip(first, other, strict=True))


def test_start_step_resumes_exactly(data):
    whole = _batches(data, 9)
    for one, two in zip(whole[6:], _batches(data, 3, start_step=6), strict=True):
        _assert_same(one, two)


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
    landmarks = read_landmarks(data, "train")
    keypoints = np.concatenate([b["keypoints"] for b in batches])[:13]
    np.testing.assert_allclose(keypoints, landmarks.patch, atol=1e-6)
    assert all((b["scale"] == 1).all() and not b["flip"].any() for b in batches)


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_landmarks_lie_on_the_picture(data, augment):
    """The dot is found at the landmark, through files, decoding and warping."""
    permutation = read_landmarks(data, "train").skeleton.flip_permutation
    assert permutation[0] == 0
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
    grid = patch_pixel_centres(len(image)).astype(float)
    x, y = np.meshgrid(grid, grid)
    weight = image.mean(-1) * (np.hypot(x - near[0], y - near[1]) < 0.12)
    weight[weight < 6] = 0
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def test_too_few_samples_for_a_batch(data):
    with pytest.raises(ValueError, match="train has 13 samples, fewer than a batch"):
        _batches(data, 1, batch_size=14)


def test_landmarks_only_data_has_no_pictures(tmp_path):
    data = {"name": "mocap", "mocap_file": write_motion(tmp_path / "m.npz")}
    with pytest.raises(ValueError, match="name=mannequin"):
        image_batches(data, "train", batch_size=2, image_size=8, seed=0, train=True)


@pytest.mark.parametrize(
    "changes", [{"batch_size": 0}, {"start_step": -1}, {"shard_index": 1}]
)
def test_numbers_are_checked_at_the_call(data, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        _batches(data, 1, **changes)


def test_damaged_store_is_one_clear_error(tmp_path):
    data = write_coco(tmp_path, coco_record(4)) | {"num_val": 0}
    read_landmarks(data, "train")
    (file,) = Path(str(data["data_dir"])).rglob("*.array_record*")
    content = bytearray(file.read_bytes())
    start = content.index(b"IDAT")
    content[start + 8 : start + 40] = bytes(32)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read.*delete the folder"):
        _batches(data, 4, augment=None)


def test_plan_is_a_partition():
    """Three hosts, two steps: 12 counters, each once."""
    plans = [Plan(100, 2, True, 0, i, 3) for i in range(3)]
    counters = [plan.counters(step) for step in range(2) for plan in plans]
    assert np.concatenate(counters).tolist() == list(range(12))


def test_nothing_is_printed_and_the_process_ends(data):
    """No chatter, and an iterator that is still open does not hold up the exit."""
    code = (
        "from input_pipeline.pipeline import image_batches\n"
        f"endless = image_batches({data!r}, 'train', batch_size=4, image_size=16, "
        "seed=0, train=True)\n"
        "next(endless)\n"
        f"batches = image_batches({data!r}, 'train', batch_size=4, image_size=16, "
        "seed=0, train=False)\n"
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
        timeout=120,
    )
    assert done.stdout == "16\n"
    assert done.stderr == ""
