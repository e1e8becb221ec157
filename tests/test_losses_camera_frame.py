"""Eqs. 5-7: the rotation of a camera, the rotated dictionary and its two parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses_samples import random_camera, unit_dictionary

import losses


def test_rotation_of_the_camera_that_looks_along_z():
    assert losses.rotation_from_camera(jnp.eye(3, 2)).tolist() == np.eye(3).tolist()


def test_eq5_third_axis_is_the_cross_product():
    M = jnp.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    R = losses.rotation_from_camera(M)
    assert R[:, 2].tolist() == [1.0, 0.0, 0.0]


def test_rotation_is_proper_for_random_cameras():
    rng = np.random.default_rng(0)
    for _ in range(20):
        R = np.asarray(losses.rotation_from_camera(random_camera(rng)), float)
        np.testing.assert_allclose(R.T @ R, np.eye(3), atol=1e-6)
        assert np.linalg.det(R) == pytest.approx(1.0, abs=1e-6)


def test_eq6_rotates_the_points_of_every_atom():
    rng = np.random.default_rng(1)
    D = unit_dictionary(rng, joints=5, atoms=7)
    R = losses.rotation_from_camera(random_camera(rng))
    B = losses.rotate_dictionary(D, R)
    for k in range(7):
        expected = np.asarray(D[:, k]).reshape(5, 3) @ np.asarray(R)
        np.testing.assert_allclose(B[:, k].reshape(5, 3), expected, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(B, axis=0), np.ones(7), atol=1e-6)


def test_eq7_projects_the_shape_of_a_code():
    rng = np.random.default_rng(2)
    D, M = unit_dictionary(rng, joints=17, atoms=64), random_camera(rng)
    phi = jnp.asarray(rng.normal(size=64), jnp.float32)
    B_xy, B_z = losses.split_dictionary(D, M)
    S = (D @ phi).reshape(17, 3)
    np.testing.assert_allclose(B_xy @ phi, (S @ M).ravel(), atol=1e-5)
    depth = S @ losses.rotation_from_camera(M)[:, 2]
    np.testing.assert_allclose(B_z @ phi, depth, atol=1e-5)


def test_split_of_a_batch_of_cameras():
    rng = np.random.default_rng(3)
    D = unit_dictionary(rng, joints=4, atoms=6)
    M = jnp.stack([random_camera(rng) for _ in range(3)])
    B_xy, B_z = jax.jit(jax.vmap(losses.split_dictionary, (None, 0)))(D, M)
    assert (B_xy.shape, B_z.shape) == ((3, 8, 6), (3, 4, 6))
    np.testing.assert_allclose(B_z[1], losses.split_dictionary(D, M[1])[1], atol=1e-6)


def test_rows_that_are_no_triples_are_refused():
    with pytest.raises(ValueError, match=r"D has shape \(4, 2\); one sample"):
        losses.split_dictionary(jnp.ones((4, 2)), jnp.eye(3, 2))
