"""The peer draws what we draw."""

from pathlib import Path

import numpy as np
import pytest
from tiny_data import coco_record, write_coco

from benchmarks import pipeline_speed
from benchmarks.pipeline_speed_peer import Pictures
from input_pipeline import augment
from input_pipeline.landmarks import read_landmarks

STILL = dict.fromkeys(pipeline_speed.augmentation(), 0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    return write_coco(folder, coco_record(8)) | {"num_val": 0, "padding": 2.0}


def _peer(data, size, **changes):
    landmarks = read_landmarks(data, "train")
    options = {
        "files": [
            str(Path(data["images"]) / name) for name in pipeline_speed.file_names(data)
        ],
        "patch": landmarks.patch,
        "labelled": landmarks.labelled,
        "centre": landmarks.centre,
        "half_side": landmarks.half_side,
        "permutation": landmarks.skeleton.flip_permutation,
        "size": size,
        "augment": STILL,
        "smooth": False,
    }
    return Pictures(**(options | changes))


def test_the_peer_draws_our_patch(data):
    landmarks = read_landmarks(data, "train")
    for row in range(4):
        theirs = _peer(data, 96)[row]
        encoded = Path(_peer(data, 96).files[row]).read_bytes()
        centre, half_side = landmarks.centre[row], float(landmarks.half_side[row])
        ours = augment.draw_patch(encoded, centre, half_side, np.eye(2), np.ones(3), 96)
        assert np.abs(ours.astype(int) - theirs["image"]).max() <= 2
        np.testing.assert_allclose(theirs["keypoints"], landmarks.patch[row], atol=1e-6)


def test_the_peers_augmentation_is_ours_in_kind(data):
    peer = _peer(data, 32, augment=pipeline_speed.augmentation(), smooth=True)
    samples = [peer[row % 8] for row in range(64)]
    scales = np.array([s["scale"] for s in samples])
    assert 0.75 <= scales.min() < 0.85 < 1.15 < scales.max() <= 1.25
    assert 10 < sum(s["flip"] for s in samples) < 54


def test_both_are_measured(data, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(pipeline_speed, "BATCH", 2)
    rows = pipeline_speed.case_rows("tiny", data, 16, threads=1, rounds=1, count=2)
    assert {row.method for row in rows} >= {"ours", "DataLoader"}
    assert all(row.value > 0 for row in rows)
