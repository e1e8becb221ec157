"""Eqs. 8, 12, 13: the projection lands in its set, and is the nearest point of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from losses_samples import (
    degenerate_samples,
    drop_joints,
    on_jax_arrays,
    random_mask,
    random_sample,
    spoil,
)

import losses

project_code = jax.jit(losses.project_code)  # once for each shape


def test_eq13_by_hand():
    # The line x + y = 2, from (3, 1): down along (1, 1) by (1, 1).
    phi = project_code(
        jnp.asarray([3.0, 1.0]), jnp.asarray([[1.0, 1.0]]), jnp.asarray([2.0])
    )
    np.testing.assert_allclose(phi, [2.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("joints", [5, 17, 41])
def test_eq8_the_projection_lands_in_the_subspace(joints):
    sample = random_sample(1, joints=joints)
    phi = project_code(sample.phi, sample.B_z, sample.z_hyp)
    np.testing.assert_allclose(sample.B_z @ phi, sample.z_hyp, atol=5e-6)


def test_projection_is_idempotent():
    sample = random_sample(2)
    once = project_code(sample.phi, sample.B_z, sample.z_hyp)
    twice = project_code(once, sample.B_z, sample.z_hyp)
    np.testing.assert_allclose(twice, once, atol=1e-6)


def test_projection_leaves_the_null_space_alone():
    sample = random_sample(3)
    B_z = np.asarray(sample.B_z, float)
    step = project_code(sample.phi, sample.B_z, sample.z_hyp) - sample.phi
    null_space = np.linalg.svd(B_z)[2][B_z.shape[0] :]
    np.testing.assert_allclose(null_space @ np.asarray(step), 0.0, atol=1e-6)


def test_eq12_no_code_of_the_subspace_is_nearer():
    """Against the least-norm solution of numpy, in float64."""
    sample = random_sample(4)
    phi, B_z, z = (np.asarray(x, float) for x in (sample.phi, sample.B_z, sample.z_hyp))
    expected = phi + np.linalg.lstsq(B_z, z - B_z @ phi, rcond=None)[0]
    actual = project_code(sample.phi, sample.B_z, sample.z_hyp)
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("condition", [1.0, 25.0, 75.0, 500.0])
def test_right_inverse_agrees_with_pinv_in_float64(condition):
    """At the condition numbers of B_z B_z^T that trained dictionaries have."""
    rng = np.random.default_rng(5)
    U, _, Vt = np.linalg.svd(rng.normal(size=(17, 256)), full_matrices=False)
    B_z = (U * np.geomspace(1.0, condition**-0.5, 17)) @ Vt
    expected = np.linalg.pinv(np.asarray(jnp.asarray(B_z, jnp.float32), float))
    actual = losses.right_inverse(jnp.asarray(B_z, jnp.float32))
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < 2e-7 * condition**0.5 + 1e-6


def test_right_inverse_is_what_the_projection_applies():
    sample = random_sample(6)
    mask = jnp.asarray(random_mask(6, 17, 3))
    inverse = losses.right_inverse(sample.B_z, labelled=mask)
    step = inverse @ (sample.z_hyp - sample.B_z @ sample.phi)
    expected = project_code(sample.phi, sample.B_z, sample.z_hyp, labelled=mask)
    np.testing.assert_allclose(sample.phi + step, expected, atol=2e-6)


def test_gradients_of_the_projection():
    sample = random_sample(7, joints=4, atoms=9)
    args = (sample.phi, sample.B_z, sample.z_hyp)
    project = on_jax_arrays(project_code)
    check_grads(project, args, order=1, rtol=1e-2, atol=1e-2, eps=1e-2)


def test_projection_is_linear_in_the_depth():
    """So the Jacobian is the right inverse, at every depth."""
    sample = random_sample(8)
    jacobian = jax.jit(jax.jacobian(project_code, argnums=2))(
        sample.phi, sample.B_z, sample.z_hyp
    )
    np.testing.assert_allclose(
        jacobian, np.linalg.pinv(np.asarray(sample.B_z, float)), atol=2e-6
    )


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_projection_is_homogeneous(scale):
    sample = random_sample(9)
    plain = project_code(sample.phi, sample.B_z, sample.z_hyp)
    scaled = project_code(sample.phi, sample.B_z * scale, sample.z_hyp * scale)
    np.testing.assert_allclose(scaled, plain, atol=3e-6)


@pytest.mark.parametrize("name", list(degenerate_samples()))
def test_degenerate_dictionaries_give_finite_values_and_gradients(name):
    sample = degenerate_samples()[name]
    value, pullback = jax.vjp(project_code, sample.phi, sample.B_z, sample.z_hyp)
    for x in (value, *pullback(jnp.ones_like(value))):
        assert jnp.isfinite(x).all()


@pytest.mark.parametrize("name", ["equal joints", "zero row", "centred"])
def test_an_impossible_depth_is_replaced_by_the_nearest_possible(name):
    sample = degenerate_samples()[name]
    B_z, z = np.asarray(sample.B_z, float), np.asarray(sample.z_hyp, float)
    nearest = B_z @ np.linalg.pinv(B_z, rcond=1e-5) @ z
    phi = project_code(sample.phi, sample.B_z, sample.z_hyp)
    np.testing.assert_allclose(sample.B_z @ phi, nearest, atol=2e-3)


@pytest.mark.parametrize("missing", [1, 4, 16])
def test_a_mask_equals_a_skeleton_without_the_joints(missing):
    sample, mask = random_sample(10), random_mask(10, 17, missing)
    fewer = drop_joints(sample, mask)
    expected = project_code(fewer.phi, fewer.B_z, fewer.z_hyp)
    for value in (0.0, float("nan")):
        actual = project_code(
            sample.phi,
            sample.B_z,
            spoil(sample, mask, value).z_hyp,
            labelled=jnp.asarray(mask),
        )
        np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_no_labelled_joint_leaves_the_code_alone():
    sample, mask = random_sample(11), jnp.zeros(17, bool)

    def total(phi, B_z, z_hyp):
        return jnp.sum(project_code(phi, B_z, z_hyp, labelled=mask))

    args = (sample.phi, sample.B_z, sample.z_hyp)
    np.testing.assert_array_equal(project_code(*args, labelled=mask), sample.phi)
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*args)
    assert gradients[0].tolist() == [1.0] * 256
    assert not np.any(gradients[1])
    assert not np.any(gradients[2])


def test_matching_the_mean_by_hand():
    z, ref = jnp.asarray([1.0, 2.0, 6.0]), jnp.asarray([10.0, 12.0, 14.0])
    assert losses.match_depth_mean(z, ref).tolist() == [10.0, 11.0, 15.0]
    labelled = jnp.asarray([True, True, False])
    assert losses.match_depth_mean(z, ref, labelled).tolist() == [10.5, 11.5, 15.5]
    nobody = jnp.zeros(3, bool)
    assert losses.match_depth_mean(z, ref, nobody).tolist() == z.tolist()
