"""The exact EM of samples with missing landmarks, against dense formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import multivariate_normal

from nrsfm_jax import exact_em
from nrsfm_jax import gaussian_mixture as gm
from nrsfm_jax import view_likelihood as vl
from nrsfm_jax.views import upright_views
from nrsfm_jax.visibility import Samples, choose_samples

P = 6
ALL = 10_000  # more pairs than there are


@pytest.fixture(scope="module")
def mixture() -> gm.GaussianMixture:
    """Two poses of a body of six joints, seen from 24 views."""
    rng = np.random.default_rng(0)
    S = rng.normal(size=(2, P, 3)) * (0.3, 0.5, 0.25)
    mu = (S - S.mean(1, keepdims=True)).reshape(2, -1)
    centring = np.kron(np.eye(P) - 1 / P, np.eye(3))
    root = 0.05 * centring @ rng.normal(size=(2, 3 * P, 3 * P))
    Sigma = root @ root.swapaxes(1, 2)
    views = upright_views((0.0, 20.0), 12)
    fields = mu, Sigma, np.log([2 / 3, 1 / 3]), 0.04, views, 0.0
    return gm.GaussianMixture(*(jnp.asarray(x, jnp.float32) for x in fields))


def samples_of(mixture, count, *, missing, seed=1) -> Samples:
    """Pictures with a share of the landmarks removed, at least one left."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(2, size=count)
    mu, Sigma = (
        np.asarray(mixture.mu, np.float64),
        np.asarray(mixture.Sigma, np.float64),
    )
    noise = np.linalg.cholesky(Sigma + 1e-9 * np.eye(3 * P))
    s = mu[kinds] + np.einsum(
        "nab,nb->na", noise[kinds], rng.normal(size=(count, 3 * P))
    )
    R = np.asarray(mixture.views)[rng.integers(len(mixture.views), size=count)]
    W = np.einsum("npa,nai->npi", s.reshape(count, P, 3), R[:, :, :2])
    W += rng.normal(size=W.shape) * float(mixture.sigma)
    shown = rng.random((count, P)) >= missing
    shown[np.arange(count), rng.integers(P, size=count)] = True
    return Samples(np.where(shown[..., None], W, 0).astype(np.float32), shown)


def exact_sums(mixture, samples, *, kept=ALL):
    terms = gm._all_terms(mixture)
    sums = exact_em.no_sums(terms)
    for group in exact_em.groups_of(samples):
        pairs = exact_em.likeliest_pairs(terms, group, kept=kept)
        sums = exact_em.add_sums(sums, terms, group, pairs)
    return sums, terms


def dense_pairs(mixture):
    """A_g mu_k, C_kg and log prior of every pair, straight from the model."""
    for k, log_weight in enumerate(np.asarray(mixture.log_weight)):
        for R in np.asarray(mixture.views, np.float64):
            A = np.kron(np.eye(P), R[:, :2].T)
            C = A @ np.asarray(mixture.Sigma[k], np.float64) @ A.T
            C += float(mixture.sigma) ** 2 * np.eye(2 * P)
            C += vl.SHIFT_VARIANCE * np.tile(np.eye(2), (P, P))
            yield (
                A @ np.asarray(mixture.mu[k], np.float64),
                C,
                log_weight - np.log(len(mixture.views)),
            )


def test_sums_match_conditional_gaussians(mixture):
    samples = samples_of(mixture, 7, missing=0.4)
    pairs = list(dense_pairs(mixture))
    N = np.zeros(len(pairs))
    first = np.zeros((len(pairs), 2 * P))
    second = np.zeros((len(pairs), 2 * P, 2 * P))
    log_p = 0.0
    for W, shown in zip(np.asarray(samples.W, np.float64), samples.shown, strict=True):
        o = np.repeat(shown, 2)
        w, joint, errors, spreads = W.reshape(-1), [], [], []
        for mean, C, prior in pairs:
            pdf = multivariate_normal(mean[o], C[np.ix_(o, o)])
            joint.append(prior + pdf.logpdf(w[o]))
            gain = C[:, o] @ np.linalg.inv(C[np.ix_(o, o)])
            errors.append(gain @ (w - mean)[o])
            spreads.append(C - gain @ C[o])
        r = softmax(joint)
        log_p += np.logaddexp.reduce(joint)
        N += r
        first += r[:, None] * errors
        outer = np.einsum("ca,cb->cab", errors, errors)
        second += r[:, None, None] * (outer + spreads)
    sums, _ = exact_sums(mixture, samples)
    np.testing.assert_allclose(sums.N, N, atol=2e-3)
    np.testing.assert_allclose(sums.first, first, atol=1e-3)
    np.testing.assert_allclose(sums.second, second, atol=1e-3)
    np.testing.assert_allclose(sums.log_p, log_p, atol=0.05)


def test_without_gaps_it_is_the_em_of_complete_samples(mixture):
    samples = samples_of(mixture, 100, missing=0.0)
    sums, terms = exact_sums(mixture, samples)
    ours = gm._exact_maximised(mixture, terms, sums, jnp.float32(20))
    features = vl.features_of(jnp.asarray(samples.W).reshape(100, -1))
    complete = samples._replace(W=jnp.asarray(samples.W), labelled=None)
    theirs, _, log_p = gm._em_step(mixture, features, complete, jnp.float32(20))
    np.testing.assert_allclose(ours.mu, theirs.mu, atol=2e-4)
    np.testing.assert_allclose(ours.Sigma, theirs.Sigma, atol=1e-4)
    np.testing.assert_allclose(ours.log_weight, theirs.log_weight, atol=1e-3)
    np.testing.assert_allclose(sums.log_p / 100, log_p, atol=1e-2)


def test_likelihood_of_the_visible_landmarks_never_falls(mixture):
    samples = samples_of(mixture, 200, missing=0.3)
    assert (~samples.shown).any()
    state, trace = mixture._replace(Sigma=3 * mixture.Sigma), []
    for _ in range(10):
        sums, terms = exact_sums(state, samples)
        trace.append(float(sums.log_p) / 200)
        state = gm._exact_maximised(state, terms, sums, jnp.float32(0))
    # Weights and covariances are held off zero: a rise by less than that may fail.
    assert np.diff(trace).min() > -1e-3
    assert trace[-1] > trace[0] + 0.5


def test_few_pairs_explain_a_sample(mixture):
    samples = samples_of(mixture, 50, missing=0.2)
    every, _ = exact_sums(mixture, samples)
    few, _ = exact_sums(mixture, samples, kept=8)
    assert 0 <= (every.log_p - few.log_p) / 50 < 0.2
    np.testing.assert_allclose(few.N.sum(), 50, rtol=1e-5)


def test_padding_of_a_chunk_counts_nothing(mixture):
    samples = samples_of(mixture, 70, missing=0.2)
    groups = exact_em.groups_of(samples)
    assert sum(group.weight.sum() for group in groups) == 70
    assert all((~group.labelled).sum(2).max() <= group.gaps for group in groups)


def test_samples_that_miss_fewest_are_chosen():
    shown = np.ones((90, P), bool)
    shown[30:, 0] = np.arange(60) % 2 == 0
    shown[60:, 1] = False
    W = np.zeros((90, P, 2), np.float32)
    samples = choose_samples(W, shown, key=jax.random.key(0), num_samples=50)
    assert np.sort((~samples.shown).sum(1)).tolist() == [0] * 45 + [1] * 5


def test_a_joint_of_few_samples_is_not_lost():
    """Only samples that miss two others show joint 0."""
    shown = np.ones((100, P), bool)
    shown[:60, 0] = False
    shown[60:, 1:3] = False
    W = np.zeros((100, P, 2), np.float32)
    samples = choose_samples(W, shown, key=jax.random.key(0), num_samples=50)
    assert 10 < samples.shown[:, 0].sum() < 30
