"""The views' prior as config; objects that turn in any way."""

import jax
import numpy as np
import pytest

from configs import default
from nrsfm_jax import teacher, train
from nrsfm_jax.first_pose import em_options
from nrsfm_jax.gaussian_mixture import expected_depth, fit_shapes
from nrsfm_jax.loss import Objective
from nrsfm_jax.views import rotation_views


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


@pytest.mark.slow
@pytest.mark.parametrize("components", [1, 3])
def test_a_body_that_tumbles_has_one_sign_of_depth(components):
    X = tumbling_body(1500)
    shape = fit_shapes(
        X[..., :2],
        key=jax.random.key(0),
        components=components,
        num_samples=1500,
        last_sigma=0.02,
        views=rotation_views(400),
    )
    z, _ = expected_depth(shape, X[..., :2], chunk=500)
    flip = np.mean(np.sum(z * X[..., 2], axis=1) < 0)
    assert min(flip, 1 - flip) < 0.05  # which of the two signs is left to chance
    z = z if flip < 0.5 else -z
    assert np.abs(z - X[..., 2]).mean() < 0.2 * np.abs(X[..., 2]).mean()


@pytest.mark.slow
def test_the_teacher_of_a_body_that_tumbles_has_one_sign_of_depth():
    X = tumbling_body(1000)
    rough = X[..., 2] + 0.3 * X[..., 2].std() * np.random.default_rng(0).normal(
        size=X.shape[:2]
    )
    labelled = np.ones(X.shape[:2], bool)
    fitted = train.fit(
        X[..., :2],
        labelled,
        key=jax.random.key(0),
        dictionary_sizes=(64, 32, 16),
        em_depth=rough.astype(np.float32),
        objective=Objective(steps=800),
    )
    record = teacher.from_params(fitted.params, skeleton={}, config={})
    pose = record.reconstruct(X[..., :2], labelled, np.arange(1000)).poses(
        record.dictionary
    )
    assert np.mean(np.sum(pose[..., 2] * X[..., 2], axis=1) < 0) < 0.05


def test_views_are_config():
    em = default.get_config().teacher.em
    upright = em_options(em)
    assert upright["elevations_deg"] == tuple(em.elevations_deg)
    assert "views" not in upright
    em.views, em.num_rotations = "free", 30
    free = em_options(em)
    np.testing.assert_array_equal(free["views"], rotation_views(30))
    assert "elevations_deg" not in free
    em.views = "sideways"
    with pytest.raises(ValueError, match="'sideways'"):
        em_options(em)
