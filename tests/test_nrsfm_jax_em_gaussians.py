"""Likelihoods and one step of the EM, against dense formulas in float64."""

import functools

import em_bodies as bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from nrsfm_jax.em import fit, gaussians
from nrsfm_jax.em.samples import most_gaps
from nrsfm_jax.em.views import upright_views

P = bodies.P
step = jax.jit(fit.em_step, static_argnames="gaps")


@pytest.fixture(scope="module")
def mixture() -> gaussians.GaussianMixture:
    return bodies.two_poses()


def one_step(mixture, W, *, pooling=0.0):
    """The next mixture and the log-likelihood of the present one."""
    samples, centre = fit._about_centre(bodies.complete(jnp.asarray(W)))
    features = gaussians.features_of(jnp.asarray(samples.W).reshape(len(W), -1))
    new, _ = step(mixture, samples, centre, features, jnp.float32(pooling))
    return new, new.log_likelihood


def test_sweep_inverts_solves_and_gives_the_determinant():
    """Condition 1e4, as C has with little noise."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(3, 34, 34)))[0]
    A = (Q * np.geomspace(1e-4, 1, 34)) @ Q.swapaxes(1, 2)
    x = rng.normal(size=(3, 34))
    b = np.einsum("gab,gb->ga", A, x)
    T = np.zeros((35, 35, 3), np.float32)
    T[:34, :34], T[:34, 34] = np.moveaxis(A, 0, -1), b.T
    T[34, :34], T[34, 34] = b.T, 7.0
    swept, log_det = gaussians.sweep(jnp.asarray(T), pivots=34)
    swept = np.moveaxis(np.asarray(swept), -1, 0)
    np.testing.assert_allclose(
        swept[:, :34, :34] @ A, np.tile(np.eye(34), (3, 1, 1)), atol=5e-3
    )
    np.testing.assert_allclose(swept[:, :34, 34], x, atol=5e-3)
    square = np.einsum("ga,gab,gb->g", x, A, x)
    np.testing.assert_allclose(swept[:, 34, 34], 7 - square, rtol=1e-4)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(A)[1], atol=5e-3)


@pytest.mark.parametrize("centre", [0.0, 0.2])
def test_log_joints_match_scipy(mixture, centre):
    W, _ = bodies.sample(mixture, 40)
    w = W.reshape(40, -1) - np.float32(centre)
    terms = gaussians.pair_terms(mixture, jnp.full(2 * P, centre))
    ours = gaussians.log_joints(gaussians.features_of(jnp.asarray(w)), terms)
    theirs = bodies.log_joint(mixture, W, np.ones((40, P), bool))
    near = theirs > theirs.max(1, keepdims=True) - 30
    np.testing.assert_allclose(np.asarray(ours)[near], theirs[near], atol=5e-3)
    np.testing.assert_allclose(
        jax.nn.softmax(ours, axis=1), softmax(theirs, axis=1), atol=3e-3
    )


@pytest.mark.parametrize("sigma", [0.002, 0.001])
def test_little_noise_leaves_the_likelihood_exact(sigma):
    """Squares of large numbers cancelled here: .3 and .6 nats were lost."""
    rng = np.random.default_rng(0)
    S = rng.normal(size=(17, 3)) * (0.15, 0.45, 0.12) + (0, 0.4, 0)
    S = S - S.mean(0)
    root = np.kron(np.eye(17) - 1 / 17, np.eye(3)) @ rng.normal(size=(51, 51))
    root = root * 0.15 * np.exp(-np.arange(51) / 5)
    views = upright_views((0.0, 20.0), 12)
    Sigma = (root @ root.T)[None]
    body = bodies.mixture_of(S.reshape(1, -1), Sigma, [1.0], sigma, views)
    W, _ = bodies.sample(body, 100)
    _, log_p = one_step(body, W)
    exact = bodies.log_evidence(body, W)
    assert abs(float(log_p) - exact.mean()) < 0.05
    # Samples far from the centre of their coordinates lose what is bounded here.
    samples, centre = fit._about_centre(bodies.complete(jnp.asarray(W)))
    joint = gaussians.log_joints(
        gaussians.features_of(jnp.asarray(samples.W).reshape(100, -1)),
        gaussians.pair_terms(body, centre),
    )
    each = np.asarray(jax.nn.logsumexp(joint, axis=1))
    assert np.abs(each - exact).mean() < 0.05


@pytest.mark.parametrize("pooling", [0.0, 50.0])
def test_em_step_matches_textbook_formulas(mixture, pooling):
    """Responsibilities and second moments per sample, as they are written."""
    W, _ = bodies.sample(mixture, 20)
    start = mixture._replace(mu=mixture.mu + 0.02, Sigma=1.5 * mixture.Sigma)
    joint = bodies.log_joint(start, W, np.ones((20, P), bool))
    r = softmax(joint, axis=1)
    every = list(bodies.pairs(start))
    means, covariances, counts = [], [], []
    for k in range(2):
        own = [c for c in range(len(every)) if c // len(bodies.VIEWS) == k]
        N, first = r[:, own].sum(), np.zeros(3 * P)
        second = np.zeros((3 * P, 3 * P))
        for c in own:
            p = every[c]
            K = p.Sigma @ p.A.T @ np.linalg.inv(p.C)
            s = p.mu + (W.reshape(20, -1) - p.mean) @ K.T
            first += r[:, c] @ s / N
            outer = np.einsum("n,na,nb->ab", r[:, c], s, s)
            second += (outer + r[:, c].sum() * (p.Sigma - K @ p.A @ p.Sigma)) / N
        means.append(first)
        covariances.append(second - np.outer(first, first))
        counts.append(N)
    N, Sigma = np.array(counts), np.array(covariances)
    share = (N / (N + pooling))[:, None, None]
    Sigma = share * Sigma + (1 - share) * np.einsum("k,kab->ab", N / 20, Sigma)
    new, log_p = one_step(start, W, pooling=pooling)
    np.testing.assert_allclose(new.mu, means, atol=2e-4)
    np.testing.assert_allclose(new.Sigma, Sigma, atol=2e-4)
    np.testing.assert_allclose(new.log_weight, np.log((N + 1) / 22), atol=1e-4)
    np.testing.assert_allclose(log_p, np.logaddexp.reduce(joint, axis=1).mean(), 1e-3)


def test_the_weight_of_a_view_counts(mixture):
    """All the weight on one view is the mixture of that view alone."""
    W, _ = bodies.sample(mixture, 20)
    only = jnp.where(jnp.arange(len(bodies.VIEWS)) == 3, 0.0, -1e4)
    new, log_p = one_step(mixture._replace(log_view_weight=only), W)
    alone = mixture._replace(views=mixture.views[3:4], log_view_weight=jnp.zeros(1))
    expected, same = one_step(alone, W)
    np.testing.assert_allclose(new.mu, expected.mu, atol=1e-4)
    np.testing.assert_allclose(log_p, same, rtol=1e-5)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("components", [1, 2])
def test_likelihood_never_falls_without_pooling(mixture, missing, components):
    truth = mixture if components == 2 else bodies.component(mixture, 0)
    samples = bodies.incomplete(truth, 300)
    if not missing:
        samples = bodies.complete(bodies.sample(truth, 300)[0])
    samples, centre = fit._about_centre(samples)
    features = gaussians.features_of(jnp.asarray(samples.W).reshape(300, -1))
    run = functools.partial(step, gaps=most_gaps(samples.labelled))
    state, trace = truth._replace(Sigma=3 * truth.Sigma), []
    for _ in range(12):
        state, features = run(state, samples, centre, features, jnp.float32(0))
        trace.append(float(state.log_likelihood))
    # The weights are smoothed by one sample each: a rise by less than that may fail.
    # The first value of incomplete samples is no bound: it is that of a guess.
    assert np.diff(trace[missing:]).min() > -1e-3
    assert trace[-1] > trace[0] + 0.5


def test_the_mirror_image_negates_z_and_returns(mixture):
    image = gaussians.mirrored(mixture)
    np.testing.assert_array_equal(image.mu[:, 2::3], -mixture.mu[:, 2::3])
    np.testing.assert_array_equal(image.mu[:, 1::3], mixture.mu[:, 1::3])
    assert np.linalg.eigvalsh(image.Sigma).min() > -1e-6
    again = gaussians.mirrored(image)
    np.testing.assert_array_equal(again.Sigma, mixture.Sigma)
