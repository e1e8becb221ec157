"""The EM of samples with missing landmarks, against dense formulas in float64."""

import em_bodies as bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from nrsfm_jax.em import fit, gaussians, missing

pair_terms = jax.jit(gaussians.pair_terms)
P = bodies.P
ALL = 10_000  # more pairs than there are


@pytest.fixture(scope="module")
def mixture() -> gaussians.GaussianMixture:
    return bodies.two_poses()


def exact_sums(mixture, samples, *, kept=ALL):
    every = np.arange(len(mixture.mu) * len(mixture.views))
    terms = missing.terms_in_use(mixture, [every])
    sums = missing.no_sums(mixture)
    for group, gaps in missing.groups_of(samples):
        pairs = missing.likeliest(terms, group, gaps=gaps, kept=kept)
        sums = missing.add_sums(sums, mixture, terms, group, pairs, gaps=gaps)
    return missing.all_sums(sums, mixture, terms)


def conditionals(mixture, W, labelled):
    """log p(w, c), E[e] and the covariance of all coordinates, of all pairs."""
    o = np.repeat(labelled, 2)
    joint = bodies.log_joint(mixture, W[None], labelled[None])[0]
    errors, spreads = [], []
    for pair in bodies.pairs(mixture):
        gain = pair.C[:, o] @ np.linalg.inv(pair.C[np.ix_(o, o)])
        errors.append(gain @ (W.astype(float).ravel() - pair.mean)[o])
        spreads.append(pair.C - gain @ pair.C[o])
    return joint, np.array(errors), np.array(spreads)


@pytest.mark.parametrize("gaps", [2, 4])
def test_condition_matches_conditional_gaussians(mixture, gaps):
    """Also where room is kept for more missing joints than there are."""
    labelled = ~np.isin(np.arange(P), (1, 4))
    W = bodies.with_gaps(bodies.sample(mixture, 1)[0], labelled[None])[0]
    joint, errors, spreads = conditionals(mixture, W, labelled)
    w = jnp.asarray(W).ravel()
    terms = pair_terms(mixture)
    given = missing.condition(terms, w, jnp.asarray(labelled), gaps=gaps)
    near = joint > joint.max() - 30
    np.testing.assert_allclose(given.log_joint[near], joint[near], atol=5e-3)
    np.testing.assert_allclose(given.error, errors, atol=5e-3)
    full = np.zeros((len(joint), 2 * P, 2 * P))
    index = np.asarray(given.index)
    full[:, index[:, None], index[None]] = given.spread
    np.testing.assert_allclose(full, spreads, atol=1e-3)


def test_completing_is_exact_for_one_pair(mixture):
    """Then the missing coordinates do not depend on the pair."""
    one = bodies.component(mixture, 0)._replace(
        views=mixture.views[:1], log_view_weight=jnp.zeros(1)
    )
    samples = bodies.incomplete(mixture, 70)
    w = np.asarray(samples.W).reshape(70, -1)
    terms = pair_terms(one)
    features, entropy = missing.complete(
        jnp.asarray(w), jnp.asarray(samples.labelled), jnp.ones((70, 1)), terms, gaps=4
    )
    bound = gaussians.log_joints(features, terms)[:, 0] + entropy
    a, b = np.triu_indices(2 * P)
    for i, (W, mask) in enumerate(zip(samples.W, samples.labelled, strict=True)):
        joint, errors, spreads = conditionals(one, W, mask)
        expected = errors[0] + next(bodies.pairs(one)).mean
        np.testing.assert_allclose(features[i, : 2 * P], expected, atol=2e-3)
        second = (np.outer(expected, expected) + spreads[0])[a, b]
        np.testing.assert_allclose(features[i, 2 * P :], second, atol=2e-3)
        np.testing.assert_allclose(bound[i], joint[0], atol=2e-2)


def test_exact_sums_match_conditional_gaussians(mixture):
    samples = bodies.incomplete(mixture, 7, gaps=(0, 1, 3))
    K, G = len(mixture.mu), len(mixture.views)
    N, first, second, log_p = np.zeros((K, G)), 0, 0, 0
    for W, labelled in zip(samples.W, samples.labelled, strict=True):
        joint, errors, spreads = conditionals(mixture, W, labelled)
        r = softmax(joint)
        log_p += np.logaddexp.reduce(joint)
        N += r.reshape(K, G)
        y, S = [], []
        for pair, error, spread in zip(
            bodies.pairs(mixture), errors, spreads, strict=True
        ):
            back = pair.A.T @ np.linalg.inv(pair.C)
            y.append(back @ error)
            S.append(np.outer(y[-1], y[-1]) + back @ spread @ back.T - back @ pair.A)
        first = first + np.einsum(
            "kg,kgd->kd", r.reshape(K, G), np.reshape(y, (K, G, -1))
        )
        S = np.reshape(S, (K, G, 3 * P, 3 * P))
        second = second + np.einsum("kg,kgde->kde", r.reshape(K, G), S)
    sums = exact_sums(mixture, samples)
    np.testing.assert_allclose(sums.N, N.sum(1), atol=2e-3)
    scale = np.abs(first).max(), np.abs(second).max()
    np.testing.assert_allclose(sums.first, first, atol=2e-3 * scale[0])
    np.testing.assert_allclose(sums.second, second, atol=2e-3 * scale[1])
    np.testing.assert_allclose(sums.log_p, log_p, atol=0.05)


def test_without_gaps_it_is_the_em_of_complete_samples(mixture):
    samples = bodies.incomplete(mixture, 100, gaps=(0,))
    ours = fit._maximise(mixture, exact_sums(mixture, samples), jnp.float32(20))
    samples, centre = fit._about_centre(samples)
    features = gaussians.features_of(jnp.asarray(samples.W).reshape(100, -1))
    step = jax.jit(fit.em_step)
    theirs, _ = step(mixture, samples, centre, features, jnp.float32(20))
    np.testing.assert_allclose(ours.mu, theirs.mu, atol=2e-4)
    np.testing.assert_allclose(ours.Sigma, theirs.Sigma, atol=1e-4)
    np.testing.assert_allclose(ours.log_weight, theirs.log_weight, atol=1e-3)
    np.testing.assert_allclose(ours.log_likelihood, theirs.log_likelihood, atol=1e-2)


def test_likelihood_of_the_labelled_landmarks_never_falls(mixture):
    samples = bodies.incomplete(mixture, 100)
    state, trace = mixture._replace(Sigma=3 * mixture.Sigma), []
    for _ in range(8):
        sums = exact_sums(state, samples)
        trace.append(float(sums.log_p) / 100)
        state = fit._maximise(state, sums, jnp.float32(0))
    # Weights and covariances are held off zero: a rise by less than that may fail.
    assert np.diff(trace).min() > -1e-3
    assert trace[-1] > trace[0] + 0.5


def test_few_pairs_explain_a_sample(mixture):
    samples = bodies.incomplete(mixture, 100)
    every = exact_sums(mixture, samples)
    few = exact_sums(mixture, samples, kept=8)
    assert 0 <= (every.log_p - few.log_p) / 100 < 0.2
    np.testing.assert_allclose(few.N.sum(), 100, rtol=1e-5)


def test_padding_of_a_chunk_counts_nothing(mixture):
    samples = bodies.incomplete(mixture, 70)
    groups = missing.groups_of(samples)
    assert sum(group.weight.sum() for group, _ in groups) == 70
    assert all((~group.labelled).sum(2).max() <= gaps for group, gaps in groups)
