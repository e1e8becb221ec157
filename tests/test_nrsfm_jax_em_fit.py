"""The fit: signs of depth, mirror images, missing landmarks, and what is refused."""

import functools
from typing import Any

import em_bodies as bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nrsfm_jax import em
from nrsfm_jax.em import fit
from nrsfm_jax.em.gaussians import mirrored

P, COUNT = bodies.P, 600
VIEWS = em.ViewPrior("test", (-10.0, 20.0, 35.0), 8)
# The same sizes everywhere, so that few programs are compiled.
gaussian = functools.partial(
    em.fit_gaussian, num_samples=COUNT, last_sigma=0.03, level_steps=40, prior=VIEWS
)


@pytest.fixture(scope="module")
def mixture():
    return bodies.two_poses(sigma=0.03, spread=0.03)


@pytest.fixture(scope="module")
def single(mixture):
    return bodies.component(mixture, 0)._replace(Sigma=1.5 * mixture.Sigma[:1])


@pytest.fixture(scope="module")
def seen(single):
    """Landmarks and depth of bodies of one kind."""
    return bodies.sample(single, COUNT)


@pytest.fixture(scope="module")
def fitted(seen):
    return gaussian(seen[0], key=jax.random.key(0))


def flips(pose, z):
    return np.mean(np.sum(pose[..., 2] * z, axis=1) < 0)


def depth_error(pose, z, where: Any = ...):
    return np.mean(np.abs(pose[..., 2] - z)[where])


def test_recovers_true_depth_not_its_mirror_image(single, seen, fitted):
    """The camera looks down on average, and that alone decides the sign."""
    W, z = seen
    ours, log_p = em.expected_pose(fitted, W)
    known, _ = em.expected_pose(single, W)
    assert flips(ours, z) < flips(known, z) + 0.03
    assert depth_error(ours, z) < 1.15 * depth_error(known, z)
    np.testing.assert_allclose(fitted.log_likelihood, log_p.mean(), atol=1e-2)
    _, wrong = em.expected_pose(mirrored(single), W)
    assert fitted.log_likelihood > wrong.mean()


def test_a_refit_turns_a_mirrored_start(seen, fitted):
    again = em.refit(mirrored(fitted), bodies.complete(seen[0]), steps=40)
    assert flips(em.expected_pose(again, seen[0])[0], seen[1]) < 0.1
    assert abs(again.log_likelihood - fitted.log_likelihood) < 0.1


def test_the_noise_falls_to_its_last_level(single, seen):
    """One step at a given noise is the first step of falling noise."""
    samples = bodies.complete(seen[0])
    run = functools.partial(em.run_em, samples=samples)
    loud = single._replace(sigma=jnp.float32(0.15))
    one = run(loud, steps=1)
    falling = run(single, steps=1, first_sigma=0.15)
    np.testing.assert_allclose(falling.mu, one.mu, atol=1e-5)
    two = run(run(loud, steps=1)._replace(sigma=single.sigma), steps=1)
    falling = run(single, steps=2, first_sigma=0.15)
    np.testing.assert_allclose(falling.mu, two.mu, atol=1e-5)
    np.testing.assert_allclose(falling.sigma, single.sigma)


def test_incomplete_samples_are_left_out_where_complete_ones_suffice(seen):
    """Fitting with incomplete rows present equals dropping these rows."""
    W = np.concatenate([seen[0], seen[0][:200]])
    labelled = np.ones((len(W), P), bool)
    labelled[COUNT:, 1] = False
    options = {"key": jax.random.key(3), "level_steps": 3, "grid_steps": 3}
    full = gaussian(W, labelled, **options)
    dropped = gaussian(W[:COUNT], **options)
    np.testing.assert_array_equal(full.mu, dropped.mu)
    np.testing.assert_array_equal(full.Sigma, dropped.Sigma)


def test_fit_without_any_complete_sample(single, seen):
    """Each sample lacks one joint; its depth is predicted nevertheless."""
    labelled = np.ones((COUNT, P), bool)
    labelled[np.arange(COUNT), np.arange(COUNT) % P] = False
    W, z = bodies.with_gaps(seen[0], labelled), seen[1]
    fitted = gaussian(W, labelled, key=jax.random.key(0))
    ours, _ = em.expected_pose(fitted, W, labelled)
    known, _ = em.expected_pose(single, W, labelled)
    assert flips(ours, z) < flips(known, z) + 0.05
    for joints in (labelled, ~labelled):
        assert depth_error(ours, z, joints) < 1.2 * depth_error(known, z, joints)


@pytest.mark.parametrize("missing", [False, True])
def test_two_components_beat_one_on_two_poses(mixture, missing):
    W, z = bodies.sample(mixture, COUNT)
    labelled = np.ones((COUNT, P), bool)
    if missing:
        labelled[np.arange(COUNT), np.arange(COUNT) % P] = False
        W = bodies.with_gaps(W, labelled)
    apart = mixture.mu[1] - mixture.mu[0]
    broad = bodies.component(mixture, 0)._replace(
        Sigma=mixture.Sigma.mean(0)[None] + 0.5 * jnp.outer(apart, apart)[None]
    )
    ours = em.fit_mixture(
        broad, W, labelled, key=jax.random.key(0), components=3, num_samples=COUNT
    )
    poses, log_p = zip(
        *(em.expected_pose(m, W, labelled) for m in (mixture, ours, broad)),
        strict=True,
    )
    best, mine, before = (x.mean() for x in log_p)
    assert mine > before + 0.5 * (best - before)
    errors = [depth_error(pose, z, labelled) for pose in poses]
    assert errors == sorted(errors)
    # Of incomplete samples the fit counts its likeliest pairs alone.
    assert mine - 0.5 < ours.log_likelihood < mine + 1e-2


def test_one_component_is_returned_as_it_is(single, seen):
    kept = em.fit_mixture(
        single, seen[0], key=jax.random.key(0), components=1, steps=0, num_samples=COUNT
    )
    np.testing.assert_array_equal(kept.mu, single.mu)
    np.testing.assert_array_equal(kept.Sigma, single.Sigma)


def test_the_value_at_a_missing_joint_does_not_change_the_fit(mixture):
    samples = bodies.incomplete(mixture, 100, gaps=(2,))
    rubbish = np.resize(np.array([np.nan, 7.0], np.float32), samples.W.shape)
    noise = np.where(samples.labelled[..., None], samples.W, rubbish)
    clean, other = (
        em.fit_mixture(
            gaussian(
                W, samples.labelled, key=jax.random.key(1), level_steps=5, grid_steps=5
            ),
            W,
            samples.labelled,
            key=jax.random.key(2),
            components=2,
            num_samples=COUNT,
            steps=5,
        )
        for W in (samples.W, noise)
    )
    for a, b in zip(clean, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_component_is_refused(single, seen):
    with pytest.raises(ValueError, match="components=0"):
        em.fit_mixture(single, seen[0], key=jax.random.key(0), components=0)


def test_samples_without_landmarks_are_refused(seen):
    labelled = np.zeros((5, P), bool)
    with pytest.raises(ValueError, match="have a landmark"):
        gaussian(seen[0][:5], labelled, key=jax.random.key(0))


def test_the_likeliest_is_never_one_that_is_not_a_number(single):
    scores = (np.nan, -3.0, -2.0)
    fits = [single._replace(log_likelihood=jnp.float32(x)) for x in scores]
    assert fit.likeliest(fits).log_likelihood == -2


def tumbling_body(count, *, points=10, bend=0.25, seed=0):
    """A body with three ways to bend, seen in uniformly random rotations."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(points, 3)) * (0.5, 0.4, 0.3)
    ways = rng.normal(size=(3, points, 3)) * bend / np.sqrt(3)
    S = mean + np.einsum("nk,kpa->npa", rng.normal(size=(count, 3)), ways)
    R, upper = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    R = R * np.sign(np.einsum("naa->na", upper))[:, None]
    R[:, :, 2] *= np.linalg.det(R)[:, None]
    X = S @ R
    X -= X.mean(1, keepdims=True)
    return (X / np.abs(X[..., :2]).max()).astype(np.float32)


def test_a_body_that_tumbles_has_one_sign_of_depth():
    X = tumbling_body(800)
    any_rotation = em.ViewPrior("test", None, 300)
    options = {"key": jax.random.key(0), "num_samples": 800}
    single = em.fit_gaussian(X[..., :2], prior=any_rotation, last_sigma=0.02, **options)
    shapes = em.fit_mixture(single, X[..., :2], components=2, **options)
    pose, _ = em.expected_pose(shapes, X[..., :2], chunk=500)
    flip = flips(pose, X[..., 2])
    assert min(flip, 1 - flip) < 0.05  # which of the two signs is left to chance
    z = X[..., 2] if flip < 0.5 else -X[..., 2]
    assert depth_error(pose, z) < 0.2 * np.abs(z).mean()
