"""The metric of the classic sequences, and a whole row on a body that turns."""

import numpy as np
import pytest

from benchmarks import classic


def turning_body(frames=120, points=8, seed=0):
    """A body with one way to bend; the camera turns five degrees a frame."""
    rng = np.random.default_rng(seed)
    mean, bend = rng.normal(size=(2, points, 3)) * (1.0, 1.5, 0.8)
    body = mean + 0.3 * rng.normal(size=(frames, 1, 1)) * bend
    yaw = np.deg2rad(5.0) * np.arange(frames)
    c, s, o = np.cos(yaw), np.sin(yaw), np.zeros(frames)
    turn = np.array([[c, o, -s], [o, o + 1, o], [s, o, c]]).transpose(2, 0, 1)
    return body @ turn


def test_error_by_hand():
    """Four points of a square of side 2, each moved by 0.1 in turn outwards in z."""
    truth = np.array([[[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]], float)
    pose = truth + np.array([0, 0, 0.1])  # a shift of all is no error
    assert classic.dai_error(pose, truth) < 1e-9
    # sigma = (1 + 1 + 0) / 3; saddle: no rotation helps, each point is off by 0.1.
    saddle = truth + np.array([1, -1, -1, 1])[None, :, None] * (0, 0, 0.1)
    assert classic.dai_error(saddle, truth) == pytest.approx(0.1 / (2 / 3), rel=1e-6)


def test_one_orthogonal_matrix_for_all_frames():
    truth = turning_body()
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    assert classic.dai_error(truth @ Q, truth) < 1e-6
    halves = truth * np.where(np.arange(len(truth)) < 60, 1, -1)[:, None, None]
    assert classic.dai_error(halves, truth) > 0.5


def test_sequences_are_read_centred_and_scaled(tmp_path):
    X = np.random.default_rng(0).normal(size=(5, 3, 7)) + 4
    np.savez(tmp_path / "data.npz", drink_X=X)
    read = classic.read_sequence(tmp_path / "data.npz", "drink")
    assert read.shape == (5, 7, 3)
    np.testing.assert_allclose(read.mean(1), 0, atol=1e-6)
    assert np.abs(read[..., :2]).max() == pytest.approx(1)
    with pytest.raises(ValueError, match="yoga_X"):
        classic.read_sequence(tmp_path / "data.npz", "yoga")


def test_em_recovers_a_body_that_turns(tmp_path):
    X = turning_body().transpose(0, 2, 1)
    np.savez(tmp_path / "data.npz", drink_X=X)
    truth = classic.read_sequence(tmp_path / "data.npz", "drink")
    pose = classic.em(truth[..., :2].copy(), 0)
    np.testing.assert_array_equal(pose[..., :2], truth[..., :2])
    flat = classic.with_depth(truth[..., :2], np.zeros(truth.shape[:2]))
    assert classic.dai_error(pose, truth) < 0.2 * classic.dai_error(flat, truth)
