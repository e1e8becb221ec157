"""Labels for students: bones sharpen the depth, and a sparse code has it."""

import jax.numpy as jnp
import numpy as np
import pytest

from nrsfm_jax.lifting.labels import code_of, labels_of, mean_depth
from nrsfm_jax.teacher import Reconstruction

N, P, K = 200, 7, 60
EDGES = ((0, 1), (1, 2), (0, 3), (3, 4), (0, 5), (5, 6))
LENGTHS = np.array([0.3, 0.35, 0.3, 0.35, 0.4, 0.2], np.float32)
ERROR = 0.1  # of the depth by the EM, and of that by the network


@pytest.fixture(scope="module")
def dictionary():
    D = np.random.default_rng(1).normal(size=(3 * P, K)).astype(np.float32)
    return D / np.linalg.norm(D, axis=0)


@pytest.fixture(scope="module")
def bodies():
    """(N, P, 3) of one skeleton at several sizes."""
    rng = np.random.default_rng(0)
    way = rng.normal(size=(N, len(EDGES), 3))
    way /= np.linalg.norm(way, axis=2, keepdims=True)
    pose = np.zeros((N, P, 3))
    for b, (a, c) in enumerate(EDGES):
        pose[:, c] = pose[:, a] + LENGTHS[b] * way[:, b]
    pose *= rng.uniform(0.8, 1.2, size=(N, 1, 1))
    return (pose - pose.mean(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def given(bodies, dictionary):
    """The EM's depth, and a network's cameras and codes; each with its own errors."""
    em, network = ERROR * np.random.default_rng(2).normal(size=(2, N, P))
    seen = bodies + network[..., None] * np.array([0, 0, 1])
    code = seen.reshape(N, -1) @ np.linalg.pinv(dictionary).T
    said = Reconstruction(
        sample_ids=np.arange(N),
        camera=np.tile(np.eye(3, 2, dtype=np.float32), (N, 1, 1)),
        code=code.astype(np.float32),
        residual=np.zeros(N, np.float32),
        W=bodies[..., :2],
        labelled=np.ones((N, P), bool),
    )
    return (bodies[..., 2] + em).astype(np.float32), said


def distance(z, bodies):
    return np.abs(z - z.mean(axis=1, keepdims=True) - bodies[..., 2]).mean()


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_label_is_nearer_than_em_network_and_their_mean(
    bodies, given, dictionary, noise
):
    """Also where the landmarks are those of a detector, off by some per cent."""
    em, said = given
    m = mean_depth(em, said, dictionary)
    assert distance(m, bodies) < 0.8 * distance(em, bodies)
    W = bodies[..., :2] + noise * np.random.default_rng(3).normal(size=(N, P, 2))
    pose = np.concatenate([W, m[..., None]], axis=-1).astype(np.float32)
    covariance = np.tile(np.eye(P, dtype=np.float32) * (ERROR / 3) ** 2, (N, 1, 1))
    how = (covariance, said, dictionary, LENGTHS)
    found = labels_of(pose, *how, edges=EDGES)
    assert distance(found["depth"], bodies) < 0.85 * distance(m, bodies)
    np.testing.assert_allclose(found["depth"].mean(axis=1), 0, atol=1e-6)


def test_without_bones_the_label_is_the_mean(bodies, given, dictionary):
    em, said = given
    m = mean_depth(em, said, dictionary)
    pose = np.concatenate([bodies[..., :2], m[..., None]], axis=-1)
    covariance = np.tile(np.eye(P, dtype=np.float32), (N, 1, 1))
    none = np.zeros(0, np.float32)
    found = labels_of(pose, covariance, said, dictionary, none, edges=())
    np.testing.assert_array_equal(found["depth"], m)


def test_a_code_of_a_pose_is_sparse_and_has_its_depth(dictionary):
    rng = np.random.default_rng(0)
    R = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    R[:, 2] = np.cross(R[:, 0], R[:, 1])
    own = np.maximum(rng.normal(size=K) - 1, 0).astype(np.float32)
    moved = own + 0.2 * (rng.random(K) < 0.1)
    before, pose = ((dictionary @ x).reshape(P, 3) @ R for x in (own, moved))
    arrays = (own, pose.astype(np.float32), R[:, :2].astype(np.float32), dictionary)
    code = np.asarray(code_of(*map(jnp.asarray, arrays)))
    again = (dictionary @ code).reshape(P, 3) @ R
    assert np.abs(again - pose).max() < 0.2 * np.abs(before - pose).max()
    assert (code >= 0).all()
    assert (code > 1e-4).sum() < K / 2
