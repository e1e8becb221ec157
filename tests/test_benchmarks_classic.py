"""The classic sequences: the metric, a whole row, and main.py's own path."""

import json

import numpy as np
import pytest

from benchmarks import classic, nrsfm
from benchmarks.common import parse_args
from input_pipeline.dataset import open_dataset
from input_pipeline.landmarks import read_landmarks
from losses.metrics import dai_error
from nrsfm_jax import train


def turning_body(frames=120, points=8, seed=0):
    """A body with one way to bend; the camera turns five degrees a frame."""
    rng = np.random.default_rng(seed)
    mean, bend = rng.normal(size=(2, points, 3)) * (1.0, 1.5, 0.8)
    body = mean + 0.3 * rng.normal(size=(frames, 1, 1)) * bend
    yaw = np.deg2rad(5.0) * np.arange(frames)
    c, s, o = np.cos(yaw), np.sin(yaw), np.zeros(frames)
    turn = np.array([[c, o, -s], [o, o + 1, o], [s, o, c]]).transpose(2, 0, 1)
    return body @ turn


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "data.npz"
    bones = np.stack([np.arange(7), np.arange(1, 8)], 1)
    X = turning_body().transpose(0, 2, 1)
    np.savez(path, drink_X=X, drink_bones=bones)
    return classic.sequence_config(path, "drink")


def test_error_by_hand():
    """Four points of a square of side 2, each moved by 0.1 in turn outwards in z."""
    truth = np.array([[[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]], float)
    pose = truth + np.array([0, 0, 0.1])  # a shift of all is no error
    assert dai_error(pose, truth) < 1e-9
    # sigma = (1 + 1 + 0) / 3; saddle: no rotation helps, each point is off by 0.1.
    saddle = truth + np.array([1, -1, -1, 1])[None, :, None] * (0, 0, 0.1)
    assert dai_error(saddle, truth) == pytest.approx(0.1 / (2 / 3), rel=1e-6)


def test_one_orthogonal_matrix_for_all_frames():
    truth = turning_body()
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    assert dai_error(truth @ Q, truth) < 1e-6
    halves = truth * np.where(np.arange(len(truth)) < 60, 1, -1)[:, None, None]
    assert dai_error(halves, truth) > 0.5


def test_frames_are_centred_and_share_one_scale(config):
    marks = read_landmarks(config.data, "train")
    W, _ = marks.centred
    assert W.shape == (120, 8, 2)
    assert np.ptp(marks.half_side) == 0
    np.testing.assert_allclose(W.mean(1), 0, atol=1e-6)
    assert np.abs(W).max() == pytest.approx(1 / config.data.padding)
    truth = turning_body()
    truth -= truth.mean(1, keepdims=True)
    np.testing.assert_allclose(W * marks.half_side[0], truth[..., :2], atol=1e-5)
    assert len(read_landmarks(config.data, "val")) == 120


def test_an_unknown_sequence_is_named(config):
    config.data.sequence = "yoga"
    with pytest.raises(ValueError, match=r"no sequence 'yoga'.*\['drink'\]"):
        read_landmarks(config.data, "train")


@pytest.mark.slow
def test_em_recovers_a_body_that_turns(config):
    assert classic.solve("EM", config) < 0.2 * classic.solve("z = 0", config)


@pytest.mark.slow
def test_the_command_of_main_writes_the_error(config, tmp_path):
    config.teacher.steps = 40
    config.teacher.batch_size = 32
    train.train_and_evaluate(config, tmp_path / "run", open_dataset(config.data))
    results = json.loads((tmp_path / "run/teacher/results.json").read_text())
    assert 0 < results["train"]["dai_error"] < 2


def test_a_worker_keeps_its_result_under_the_protocol(config, tmp_path, monkeypatch):
    flags = [f"--data={config.data.mocap_file}", "--sequence=drink", "--worker=z = 0"]
    runs = tmp_path / "runs.jsonl"
    command = ["nrsfm.py", "--dataset=classic", *flags, f"--runs={runs}"]
    monkeypatch.setattr("sys.argv", command)
    classic.work(parse_args("", nrsfm.add_flags))
    record = json.loads(runs.read_text())
    assert record["method"] == "z = 0"
    assert record["protocol"]["sequence"] == "drink"
    assert record["metrics"]["error"] == pytest.approx(classic.solve("z = 0", config))
