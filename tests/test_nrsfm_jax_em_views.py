"""The grids of views."""

import numpy as np
import pytest

from nrsfm_jax.em.views import ViewPrior, rotation_views, upright_views


@pytest.mark.parametrize(
    "views", [upright_views((-10.0, 0.0, 30.0), 24), rotation_views(300)]
)
def test_views_are_rotations(views):
    products = np.einsum("gab,gcb->gac", views, views)
    np.testing.assert_allclose(
        products, np.tile(np.eye(3), (len(views), 1, 1)), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.det(views.astype(np.float64)), 1, atol=1e-6)


def test_elevation_sign_by_hand():
    """From 30 degrees above, the head is nearer than the feet."""
    R = upright_views((30.0,), 4)
    head = np.array([0.0, 1.0, 0.0], np.float32) @ R
    np.testing.assert_allclose(
        head, np.tile([0, -np.sqrt(0.75), -0.5], (4, 1)), atol=1e-6
    )
    # The body's z faces the camera at yaw 0, and appears low in the picture.
    np.testing.assert_allclose(R[0, 2], [0, 0.5, -np.sqrt(0.75)], atol=1e-6)
    np.testing.assert_allclose(R[1, 2], [1, 0, 0], atol=1e-6)


def test_rotation_views_are_spread_evenly():
    """The mean of a uniform set of rotations is 0, and no gap is wide."""
    views = rotation_views(400).astype(np.float64)
    assert np.abs(views.mean(0)).max() < 0.02
    rng = np.random.default_rng(0)
    others = np.linalg.qr(rng.normal(size=(500, 3, 3)))[0]
    others *= np.linalg.det(others)[:, None, None]
    cosine = (np.einsum("nab,gab->ng", others, views).max(1) - 1) / 2
    assert np.rad2deg(np.arccos(cosine)).max() < 35


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="num_yaws=0"):
        upright_views((0.0,), 0)
    with pytest.raises(ValueError, match=r"elevations_deg=\(\)"):
        upright_views((), 4)
    with pytest.raises(ValueError, match="num_views=0"):
        rotation_views(0)


def test_each_size_has_all_the_views():
    for elevations in (None, (60.0, 90.0)):
        once = ViewPrior("one", elevations, 6).grid()
        sized = ViewPrior("two", elevations, 6, (1.0, 1.5)).grid()
        np.testing.assert_allclose(sized, np.concatenate([once, 1.5 * once]), rtol=1e-6)
