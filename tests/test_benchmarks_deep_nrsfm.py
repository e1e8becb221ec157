"""Deep-NRSfM: its formulas, and that it learns a body that turns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import deep_nrsfm

RUNS_LONG = True

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
