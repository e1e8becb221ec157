"""Deep-NRSfM and C3DPO: their formulas, and that they learn a body that turns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import c3dpo, deep_nrsfm

P = 5


@pytest.fixture(scope="module")
def body():
    """(600, P, 3) of a body with one way to bend, seen from all around."""
    rng = np.random.default_rng(0)
    mean, bend = rng.normal(size=(2, P, 3)) * (0.4, 0.5, 0.4)
    X = mean + 0.15 * rng.normal(size=(600, 1, 1)) * bend
    yaw = rng.uniform(0, 2 * np.pi, 600)
    c, s, o = np.cos(yaw), np.sin(yaw), np.zeros(600)
    X = X @ np.array([[c, o, -s], [o, o + 1, o], [s, o, c]]).transpose(2, 0, 1)
    return (X - X.mean(1, keepdims=True)).astype(np.float32)


def test_block_code_by_hand(monkeypatch):
    """One layer of two atoms: every step of the published network, cell by cell."""
    monkeypatch.setattr(deep_nrsfm, "SIZES", (2,))
    params = deep_nrsfm.init(jax.random.key(1), P)
    bias = jnp.array([0.1, -0.2])
    params |= {"encoder": [bias], "decoder": [jnp.full(3 * P, 0.3)]}
    W = np.random.default_rng(2).normal(size=(P, 2)).astype(np.float32)
    D = np.asarray(params["dictionaries"][0]).reshape(P, 3, 2)
    blocks = [np.maximum(D[:, :, k].T @ W + float(bias[k]), 0) for k in range(2)]
    A = sum(float(c) * b for c, b in zip(params["mix"], blocks, strict=True))
    U, _, Vt = np.linalg.svd(A, full_matrices=False)
    cells = np.stack([b.T.ravel() for b in blocks], 1).ravel()  # (2, 3) cells, atoms
    phi = cells @ np.asarray(params["code"])
    s = np.asarray(params["dictionaries"][0]) @ phi + 0.3
    S, M = deep_nrsfm.reconstruct(params, jnp.asarray(W))
    np.testing.assert_allclose(M, U @ Vt, atol=1e-5)
    np.testing.assert_allclose(S, s.reshape(P, 3), atol=1e-5)
    loss = deep_nrsfm.loss(params, jnp.asarray(W)[None], jnp.ones((1, P), bool))
    error = np.linalg.norm(s.reshape(P, 3) @ (U @ Vt) - W) / np.linalg.norm(W)
    np.testing.assert_allclose(loss, error, rtol=1e-5)


def test_published_sizes():
    assert (deep_nrsfm.SIZES[0], deep_nrsfm.SIZES[-1]) == (125, 10)
    assert len(deep_nrsfm.SIZES) == 12


@pytest.mark.slow
def test_deep_nrsfm_fits_the_landmarks(body, monkeypatch):
    monkeypatch.setattr(deep_nrsfm, "SIZES", (24, 12))
    labelled = np.ones(body.shape[:2], bool)
    pose = deep_nrsfm.solve(body[..., :2], labelled, seed=0, steps=600)
    assert np.isfinite(pose).all()
    W = body[..., :2]
    assert np.linalg.norm(pose[..., :2] - W) < 0.4 * np.linalg.norm(W)


@pytest.mark.parametrize("log", [(0.0, 0, 0), (1e-6, 0, 0), (0.3, -1.2, 0.8)])
def test_rotation_is_the_exponential(log):
    x, y, z = log
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    expected = np.asarray(jax.scipy.linalg.expm(jnp.asarray(K, jnp.float32)))
    np.testing.assert_allclose(c3dpo.rotation(jnp.array(log)), expected, atol=1e-6)
    gradient = jax.jacobian(c3dpo.rotation)(jnp.array(log))
    assert np.isfinite(gradient).all()


def test_random_rotations_are_rotations():
    Q = c3dpo.random_rotations(jax.random.key(0), 500)
    unit = np.tile(np.eye(3), (500, 1, 1))
    np.testing.assert_allclose(Q @ Q.mT, unit, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(Q), 1, atol=1e-5)
    assert np.abs(np.asarray(Q).mean(0)).max() < 0.1


def test_huber_by_hand():
    s, d = c3dpo.HUBER, 0.03
    expected = s * (np.sqrt(1 + d**2 / s**2) - 1)
    error = c3dpo.huber(jnp.array([[d, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(error, [expected, 0], atol=1e-7)


@pytest.mark.slow
def test_c3dpo_learns_and_keeps_the_landmarks(body, monkeypatch):
    monkeypatch.setattr(c3dpo, "WIDTH", 32)
    monkeypatch.setattr(c3dpo, "LAYERS", 2)
    W, labelled = body[..., :2], np.ones(body.shape[:2], bool)
    numbers = jnp.arange(600)
    data = jnp.asarray(W), jnp.asarray(labelled), numbers
    start = c3dpo.init(jax.random.key(0), P)
    loss = jax.jit(c3dpo.loss)
    pose = c3dpo.solve(W, labelled, seed=0, steps=300)
    np.testing.assert_array_equal(pose[..., :2], W)
    assert np.isfinite(pose).all()
    trained = deep_nrsfm.train(
        c3dpo.loss,
        start,
        data,
        key=jax.random.key(1),
        optimizer=optax.adam(1e-3),
        steps=300,
        batch=64,
    )
    assert float(loss(trained, *data)) < 0.6 * float(loss(start, *data))
