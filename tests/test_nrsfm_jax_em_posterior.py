"""What the EM says of one sample: sums by hand, missing landmarks, little noise."""

import em_bodies as bodies
import numpy as np
import pytest

from nrsfm_jax.em import expected_pose, pose_or_flat, posterior_of
from nrsfm_jax.em.posterior import log_evidence
from nrsfm_jax.em.views import rotation_views

P = bodies.P
LABELLED = [np.arange(P) >= count for count in (0, 1, 2)]


@pytest.fixture(scope="module")
def mixture():
    return bodies.two_poses()


@pytest.fixture(scope="module")
def broad():
    """One whose pictures leave much open."""
    rng = np.random.default_rng(0)
    centring = np.kron(bodies.CENTRING, np.eye(3))
    mu = 0.5 * rng.normal(size=(2, 3 * P)) @ centring
    A = 0.2 * centring @ rng.normal(size=(2, 3 * P, 3 * P))
    return bodies.mixture_of(
        mu, A @ A.swapaxes(1, 2), [0.6, 0.4], 0.05, rotation_views(12)
    )


def by_hand(mixture, W, labelled):
    """Pose, covariance of z, log p and mirrored share from every pair."""
    rows, xy, z, V = np.repeat(labelled, 2), [], [], []
    for p in bodies.pairs(mixture):
        A_z = np.kron(np.eye(P), p.R[:, 2:].T)
        inverse = np.linalg.inv(p.C[np.ix_(rows, rows)])
        gain = (A_z @ p.Sigma @ p.A.T)[:, rows] @ inverse
        error = (np.asarray(W, float).ravel() - p.mean)[rows]
        xy.append(p.mean + p.C[:, rows] @ inverse @ error)
        z.append(bodies.CENTRING @ (A_z @ p.mu + gain @ error))
        left = A_z @ p.Sigma @ A_z.T - gain @ (p.A @ p.Sigma @ A_z.T)[rows]
        V.append(bodies.CENTRING @ left @ bodies.CENTRING)
    joint = bodies.log_joint(mixture, W[None], labelled[None])[0]
    log_p = np.logaddexp.reduce(joint)
    r, z = np.exp(joint - log_p), np.array(z)
    mean = r @ z
    covariance = np.einsum("c,cpq->pq", r, np.array(V))
    covariance += np.einsum("c,cp,cq->pq", r, z - mean, z - mean)
    pose = np.column_stack([(r @ np.array(xy)).reshape(P, 2), mean])
    return pose, covariance, log_p, r @ (z @ mean < 0)


@pytest.mark.parametrize("labelled", LABELLED)
def test_the_moments_are_those_of_the_mixture(broad, labelled):
    mask = np.tile(labelled, (6, 1))
    W = bodies.with_gaps(bodies.sample(broad, 6)[0], mask)
    found = posterior_of(broad, W, mask)
    np.testing.assert_array_equal(found.pose[mask][:, :2], W[mask])
    for i in range(6):
        pose, covariance, log_p, mirrored = by_hand(broad, W[i], labelled)
        np.testing.assert_allclose(found.pose[i], pose, atol=2e-3)
        np.testing.assert_allclose(found.covariance[i], covariance, atol=2e-3)
        np.testing.assert_allclose(found.log_p[i], log_p, atol=1e-2)
        np.testing.assert_allclose(found.mirrored[i], mirrored, atol=2e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_the_value_at_a_missing_joint_has_no_influence(mixture, value):
    mask = np.tile(LABELLED[2], (10, 1))
    W = bodies.with_gaps(bodies.sample(mixture, 10)[0], mask)
    noise = np.where(mask[..., None], W, np.float32(value))
    for clean, other in zip(
        posterior_of(mixture, W, mask), posterior_of(mixture, noise, mask), strict=True
    ):
        assert np.isfinite(clean).all()
        np.testing.assert_array_equal(clean, other)


@pytest.mark.parametrize("gaps", [(0,), (1, 2)])
def test_the_evidence_alone_is_that_of_the_posterior(broad, gaps):
    samples = bodies.incomplete(broad, 20, gaps=gaps)
    found = posterior_of(broad, *samples).log_p
    np.testing.assert_allclose(log_evidence(broad, *samples), found, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.002, 0.001])
def test_the_evidence_is_exact_with_little_noise(sigma):
    narrow = bodies.two_poses(sigma=sigma)
    W, _ = bodies.sample(narrow, 100)
    W = W + np.float32(0.5)  # far from the origin: what cancels is large
    _, log_p = expected_pose(narrow, W)
    assert np.abs(log_p - bodies.log_evidence(narrow, W)).max() < 0.05


def test_the_mean_over_the_labelled_joints_does_not_matter(mixture):
    """The free shift absorbs it, whichever joints it was taken over."""
    mask = np.tile(LABELLED[1], (50, 1))
    W = np.where(mask[..., None], bodies.sample(mixture, 50)[0], 0)
    pose, _ = expected_pose(mixture, W, mask)
    moved, _ = expected_pose(mixture, bodies.with_gaps(W, mask), mask)
    np.testing.assert_allclose(pose[..., 2], moved[..., 2], atol=2e-2)


def test_the_covariance_is_that_of_the_error(broad):
    W, z = bodies.sample(broad, 1500)
    found = posterior_of(broad, W)
    error = z - found.pose[..., 2]
    C = found.covariance
    np.testing.assert_array_equal(C, C.swapaxes(1, 2))
    np.testing.assert_allclose(C.sum(2), 0, atol=1e-4)
    # In P - 1 directions, the mean depth being unknown: 1 each on average.
    inverse = np.linalg.inv(C + 1e-4 * np.eye(P))
    distance = np.einsum("np,npq,nq->n", error, inverse, error)
    assert 0.9 < distance.mean() / (P - 1) < 1.1
    predicted = np.trace(C, axis1=1, axis2=2).mean()
    np.testing.assert_allclose((error**2).sum(1).mean(), predicted, rtol=0.1)


def test_chunks_and_order_change_nothing(mixture):
    samples = bodies.incomplete(mixture, 60, gaps=(0, 2))
    whole = posterior_of(mixture, samples.W, samples.labelled)
    order = np.random.default_rng(0).permutation(60)
    parts = posterior_of(
        mixture, samples.W[order], np.asarray(samples.labelled)[order], chunk=16
    )
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(np.asarray(a)[order], b, atol=2e-5)


def test_without_shapes_a_pose_is_flat(mixture):
    W, _ = bodies.sample(mixture, 5)
    flat = pose_or_flat(None, W, np.ones((5, P), bool))
    np.testing.assert_array_equal(flat[..., :2], W)
    assert not flat[..., 2].any()
    none = pose_or_flat(mixture, W[:0], np.ones((0, P), bool))
    assert none.shape == (0, P, 3)


def test_a_landmark_that_is_not_finite_is_named(mixture):
    W = bodies.sample(mixture, 5)[0]
    W[3, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"W\[3\]"):
        expected_pose(mixture, W)
