"""The EM's posterior of depth: closed forms, sums by hand, missing landmarks."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from nrsfm_jax.gaussian_mixture import GaussianMixture, expected_depth
from nrsfm_jax.posterior import depth_posterior
from nrsfm_jax.view_likelihood import SHIFT_VARIANCE
from nrsfm_jax.views import rotation_views

P = 6
CENTRING = np.eye(P) - 1 / P


def made_up_mixture(components, views, seed=0):
    rng = np.random.default_rng(seed)
    centring = np.kron(CENTRING, np.eye(3))
    mu = 0.5 * rng.normal(size=(components, 3 * P)) @ centring
    A = 0.2 * rng.normal(size=(components, 3 * P, 3 * P))
    Sigma = centring @ (A @ A.swapaxes(1, 2)) @ centring
    weight = rng.random(components) + 0.5
    R = np.eye(3)[None] if views == 1 else np.asarray(rotation_views(views))
    arrays = mu, Sigma, np.log(weight / weight.sum()), 0.05, R, 0.0
    return GaussianMixture(*(jnp.asarray(x, jnp.float32) for x in arrays))


def drawn(mixture, count, seed=1):
    """Landmarks of shapes drawn from it, centred."""
    rng = np.random.default_rng(seed)
    mu, Sigma, log_weight, sigma, views, _ = (np.asarray(x, float) for x in mixture)
    k = rng.choice(len(mu), count, p=np.exp(log_weight) / np.exp(log_weight).sum())
    g = rng.integers(0, len(views), count)
    s = np.stack([rng.multivariate_normal(mu[i], Sigma[i]) for i in k])
    seen = s.reshape(count, P, 3) @ views[g]
    W = seen[..., :2] + sigma * rng.normal(size=(count, P, 2))
    W -= W.mean(1, keepdims=True)
    return W.astype(np.float32), seen[..., 2] - seen[..., 2].mean(1, keepdims=True)


def by_hand(mixture, W, labelled):
    """Mean and covariance by conditioning the joint normal of every pair."""
    mu, Sigma, log_weight, sigma, views, _ = (np.asarray(x, float) for x in mixture)
    rows = np.repeat(labelled, 2)
    parts = []
    for k, g in itertools.product(range(len(mu)), range(len(views))):
        turn = np.kron(np.eye(P), views[g].T)
        mean = (turn @ mu[k]).reshape(P, 3)
        C = (turn @ Sigma[k] @ turn.T).reshape(P, 3, P, 3)
        ww = C[:, :2, :, :2].reshape(2 * P, 2 * P) + sigma**2 * np.eye(2 * P)
        ww = ww + SHIFT_VARIANCE * np.tile(np.eye(2), (P, P))
        ww, zw = ww[np.ix_(rows, rows)], C[:, 2, :, :2].reshape(P, -1)[:, rows]
        w, expected = W.ravel()[rows], mean[:, :2].ravel()[rows]
        gain = zw @ np.linalg.inv(ww)
        z = CENTRING @ (mean[:, 2] + gain @ (w - expected))
        V = CENTRING @ (C[:, 2, :, 2] - gain @ zw.T) @ CENTRING
        log_p = multivariate_normal.logpdf(w, expected, ww) + log_weight[k]
        parts.append((log_p, z, V))
    log_p = np.array([p[0] for p in parts])
    r = np.exp(log_p - log_p.max())
    r /= r.sum()
    z, V = (np.stack([p[i] for p in parts]) for i in (1, 2))
    mean = r @ z
    covariance = np.einsum("c,cpq->pq", r, V)
    return mean, covariance + np.einsum("c,cp,cq->pq", r, z - mean, z - mean)


@pytest.mark.parametrize("hidden", [0, 1, 2])
def test_the_moments_are_those_of_the_mixture(hidden):
    mixture = made_up_mixture(2, 12)
    W, _ = drawn(mixture, 6)
    labelled = np.ones((6, P), bool)
    for i, row in enumerate(labelled):
        row[[i % P, (i + 2) % P][:hidden]] = False
    count = labelled.sum(1)[:, None, None]
    W = W - (W * labelled[..., None]).sum(1, keepdims=True) / count
    W = np.where(labelled[..., None], W, 0).astype(np.float32)
    mean, covariance = depth_posterior(mixture, W, labelled)
    for i in range(6):
        m, C = by_hand(mixture, W[i], labelled[i])
        np.testing.assert_allclose(mean[i], m, atol=2e-3)
        np.testing.assert_allclose(covariance[i], C, atol=2e-3)


def test_the_mean_is_the_expected_depth():
    mixture = made_up_mixture(2, 16)
    W, _ = drawn(mixture, 40)
    mean, covariance = depth_posterior(mixture, W, chunk=16)
    np.testing.assert_allclose(mean, expected_depth(mixture, W)[0], atol=5e-3)
    np.testing.assert_array_equal(covariance, covariance.swapaxes(1, 2))
    assert np.linalg.eigvalsh(covariance).min() > -1e-4
    np.testing.assert_allclose(covariance.sum(2), 0, atol=1e-4)


def test_the_covariance_is_that_of_the_error():
    mixture = made_up_mixture(2, 12)
    W, z = drawn(mixture, 1500)
    mean, covariance = depth_posterior(mixture, W)
    error = z - mean
    # In P - 1 directions, the mean depth being unknown: 1 each on average.
    C = covariance + 1e-4 * np.eye(P)
    distance = np.einsum("np,npq,nq->n", error, np.linalg.inv(C), error)
    assert 0.9 < distance.mean() / (P - 1) < 1.1
    predicted = np.trace(covariance, axis1=1, axis2=2).mean()
    np.testing.assert_allclose((error**2).sum(1).mean(), predicted, rtol=0.1)
