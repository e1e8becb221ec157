"""The factorisations on bodies that they describe exactly."""

import numpy as np
import pytest

from benchmarks import factorisation


@pytest.fixture(scope="module")
def cameras():
    rng = np.random.default_rng(0)
    return factorisation.polar(rng.normal(size=(200, 3, 2)))


def relative_error(pose, truth):
    """After the better of the two signs of depth."""
    size = np.linalg.norm(truth)
    signs = [1, 1, 1], [1, 1, -1]
    return min(np.linalg.norm(pose * sign - truth) for sign in signs) / size


def test_rigid_body_is_recovered(cameras):
    rng = np.random.default_rng(1)
    S = rng.normal(size=(10, 3))
    S -= S.mean(0)
    truth = factorisation.camera_frame(S, cameras)
    S_hat, M = factorisation.rigid(truth[..., :2])
    np.testing.assert_allclose(
        M.transpose(0, 2, 1) @ M, np.tile(np.eye(2), (200, 1, 1)), atol=1e-9
    )
    assert relative_error(factorisation.camera_frame(S_hat, M), truth) < 1e-4


def test_body_of_two_directions_is_recovered_better_than_as_a_rigid_one(cameras):
    rng = np.random.default_rng(2)
    mean, *directions = rng.normal(size=(3, 10, 3))
    z = 0.25 * rng.normal(size=(200, 2))
    S = mean + np.einsum("nk,kpa->npa", z, np.stack(directions))
    S -= S.mean(1, keepdims=True)
    truth = factorisation.camera_frame(S, cameras)
    W = truth[..., :2]
    rigid = relative_error(factorisation.camera_frame(*factorisation.rigid(W)), truth)
    S_hat, M = factorisation.low_rank(W, rank=2)
    low_rank = relative_error(factorisation.camera_frame(S_hat, M), truth)
    assert low_rank < 0.5 * rigid


def test_camera_frame_by_hand():
    M = np.array([[[0, 0], [0, -1], [1, 0]]], float)  # m1 = z, m2 = -y, m1 x m2 = x
    pose = factorisation.camera_frame(np.array([[1.0, 2.0, 3.0]]), M)
    np.testing.assert_allclose(pose, [[[3, -2, 1]]])
