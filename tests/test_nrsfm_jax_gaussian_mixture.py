"""The mixture against the single Gaussian, one component and one view at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from nrsfm_jax import gaussian_mixture as gm
from nrsfm_jax import gaussian_shape as gs
from nrsfm_jax.missing import start_features
from nrsfm_jax.views import upright_views
from nrsfm_jax.visibility import Samples

P = 6


@pytest.fixture(scope="module")
def mixture() -> gm.GaussianMixture:
    """Two poses of a body of six joints; the first is twice as frequent."""
    rng = np.random.default_rng(0)
    S = rng.normal(size=(2, P, 3)) * (0.3, 0.5, 0.25)
    S[1] = S[0] + 0.4 * S[1]
    mu = (S - S.mean(1, keepdims=True)).reshape(2, -1)
    centring = np.kron(np.eye(P) - 1 / P, np.eye(3))
    root = 0.03 * centring @ rng.normal(size=(2, 3 * P, 3 * P))
    Sigma = root @ root.swapaxes(1, 2)
    views = upright_views((-10.0, 5.0, 20.0, 35.0), 12)
    fields = mu, Sigma, np.log([2 / 3, 1 / 3]), 0.03, views, 0.0
    return gm.GaussianMixture(*(jnp.asarray(x, jnp.float32) for x in fields))


def sample(mixture, count, seed=1):
    """Landmarks centred over the joints, and true depth centred likewise."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(2, size=count, p=softmax(np.float64(mixture.log_weight)))
    s = np.stack(
        [
            rng.multivariate_normal(
                mixture.mu[k], mixture.Sigma[k], check_valid="ignore"
            )
            for k in kinds
        ]
    )
    R = np.asarray(mixture.views)[rng.integers(len(mixture.views), size=count)]
    S_cam = np.einsum("npa,nab->npb", s.reshape(count, P, 3), R)
    S_cam[..., :2] += rng.normal(size=(count, P, 2)) * float(mixture.sigma)
    S_cam -= S_cam.mean(1, keepdims=True)
    return S_cam[..., :2].astype(np.float32), S_cam[..., 2]


def one_component(mixture, k) -> gs.GaussianShape:
    return gs.GaussianShape(mixture.mu[k], mixture.Sigma[k], *mixture[3:])


SHOWN = [np.ones(P, bool), np.arange(P) != 2, np.isin(np.arange(P), (0, 1, 5))]


@pytest.mark.parametrize("shown", SHOWN)
def test_expected_depth_is_the_mean_over_components_and_views(mixture, shown):
    W = sample(mixture, 25)[0] * shown[:, None]
    labelled = np.tile(shown, (25, 1))
    depths, joints = [], []
    for k in range(2):
        shape = one_component(mixture, k)
        for view in mixture.views:
            alone = shape._replace(views=view[None])
            z, _, log_p = gs.posterior_depth(alone, W, labelled)
            depths.append(z)
            joints.append(log_p + mixture.log_weight[k] - np.log(len(mixture.views)))
    joint = np.stack(joints).astype(np.float64)
    expected = np.einsum("cn,cnp->np", softmax(joint, axis=0), np.stack(depths))
    z, log_p = gm.expected_depth(mixture, W, labelled, chunk=10)
    np.testing.assert_allclose(z, expected, atol=1e-3)
    np.testing.assert_allclose(log_p, logsumexp(joint, axis=0), atol=1e-2)


@pytest.mark.parametrize("pooling", [0.0, 50.0])
def test_one_component_is_the_single_gaussian(mixture, pooling):
    W, _ = sample(mixture, 60)
    samples = Samples(jnp.asarray(W), None)
    features = start_features(samples)
    shape = one_component(mixture, 0)
    mu, Sigma, _, log_p = gs._em_step(*shape[:4], features, samples)
    one = gm.as_mixture(shape)
    new, _, same = gm._em_step(one, features, samples, jnp.float32(pooling))
    np.testing.assert_allclose(new.mu[0], mu, atol=1e-5)
    np.testing.assert_allclose(new.Sigma[0], Sigma, atol=1e-6)
    np.testing.assert_allclose(new.log_weight, [0.0], atol=1e-6)
    np.testing.assert_allclose(same, log_p, rtol=1e-5)


def test_likelihood_never_falls_without_pooling(mixture):
    W, _ = sample(mixture, 400)
    samples = Samples(jnp.asarray(W), None)
    features = start_features(samples)
    state, trace = mixture._replace(Sigma=3 * mixture.Sigma), []
    step = jax.jit(gm._em_step)
    for _ in range(15):
        state, _, log_p = step(state, features, samples, jnp.float32(0))
        trace.append(float(log_p))
    # The weights are smoothed by one sample each: a rise by less than that may fail.
    assert np.diff(trace).min() > -1e-3
    assert trace[-1] > trace[0] + 1


@pytest.mark.parametrize("missing", [False, True])
def test_two_components_beat_one_on_two_poses(mixture, missing):
    W, z = sample(mixture, 1200)
    shown = np.ones((1200, P), bool)
    if missing:
        shown[np.arange(1200), np.arange(1200) % P] = False
        W = np.where(shown[..., None], W, 0)
        W = (W - W.sum(1, keepdims=True) / (P - 1)) * shown[..., None]
    shape = one_component(mixture, 0)._replace(
        Sigma=mixture.Sigma.mean(0)
        + 0.5 * jnp.outer(*[mixture.mu[1] - mixture.mu[0]] * 2)
    )
    fit = gm.fit_gaussian_mixture(
        shape, W, key=jax.random.key(0), labelled=shown, components=3, iterations=30
    )
    single = gm.as_mixture(shape)
    ours, log_p = gm.expected_depth(fit, W, shown)
    broad, before = gm.expected_depth(single, W, shown)
    known, best = gm.expected_depth(mixture, W, shown)
    if missing:  # the fit scores itself by a lower bound
        assert log_p.mean() - 0.5 < fit.log_likelihood < log_p.mean()
    else:
        np.testing.assert_allclose(fit.log_likelihood, log_p.mean(), rtol=1e-3)
    assert log_p.mean() > before.mean() + 0.5 * (best.mean() - before.mean())
    errors = [np.abs(guess - z)[shown].mean() for guess in (known, ours, broad)]
    assert errors == sorted(errors)


def test_one_component_is_returned_as_it_is(mixture):
    W, _ = sample(mixture, 40)
    shape = one_component(mixture, 0)
    fit = gm.fit_gaussian_mixture(
        shape, W, key=jax.random.key(0), components=1, iterations=0
    )
    np.testing.assert_array_equal(fit.mu[0], shape.mu)


def test_no_component_is_refused(mixture):
    W, _ = sample(mixture, 10)
    shape = one_component(mixture, 0)
    with pytest.raises(ValueError, match="components=0"):
        gm.fit_gaussian_mixture(shape, W, key=jax.random.key(0), components=0)


def test_a_fit_that_is_not_finite_says_so(mixture, monkeypatch):
    W, _ = sample(mixture, 40)
    broken = gs.GaussianShape(
        mixture.mu[0], jnp.full_like(mixture.Sigma[0], jnp.nan), *mixture[3:]
    )
    monkeypatch.setattr(gm, "fit_gaussian_shape", lambda *_, **__: broken)
    with pytest.raises(ValueError, match=r"40 samples of 6 landmarks.*not finite"):
        gm.fit_shapes(W, key=jax.random.key(0), components=2)


def test_mirror_images_that_cannot_be_explained_are_left_out(mixture, monkeypatch):
    W, _ = sample(mixture, 40)
    broken = mixture._replace(Sigma=jnp.full_like(mixture.Sigma, jnp.nan))
    monkeypatch.setattr(
        gm, "fit_gaussian_shape", lambda *_, **__: one_component(mixture, 0)
    )
    monkeypatch.setattr(
        gm,
        "fit_gaussian_mixture",
        lambda *_, mirror=None, **__: mixture if mirror is None else broken,
    )
    fitted = gm.fit_shapes(W, key=jax.random.key(0), mirror=np.arange(P))
    assert fitted is mixture
