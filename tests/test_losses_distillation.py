"""Eqs. 9, 14, 15: values by hand, convexity, invariances, masks and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from losses_samples import (
    degenerate_samples,
    drop_joints,
    on_jax_arrays,
    random_camera,
    random_mask,
    random_sample,
    spoil,
    unit_dictionary,
)

import losses

# Compiled once for each shape, for all tests.
distillation_loss, prepared_loss = (
    jax.jit(functools.partial(loss, code_l1_weight=0.3))
    for loss in (
        losses.distillation_loss,
        losses.prepared_distillation_loss,
    )
)
loss_and_gradient = jax.jit(jax.value_and_grad(distillation_loss))
prepared_and_gradient = jax.jit(jax.value_and_grad(prepared_loss))
prepare = jax.jit(losses.prepare)


def test_eq9_by_hand():
    B_xy = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    phi, w = jnp.asarray([4.0, -5.0]), jnp.asarray([1.0, -1.0])
    # ||(3, -4)|| + .5 (4 + 5)
    assert losses.code_cost(phi, B_xy, w, code_l1_weight=0.5) == pytest.approx(9.5)


def test_eq14_by_hand():
    # phi_proj = (2, 0): depth x + y = 2; image row x seen at 5, once and again.
    cost = distillation_loss(
        jnp.asarray([2.0]),
        jnp.asarray([3.0, 1.0]),
        jnp.asarray([[1.0, 0.0], [0.0, 1.0]]),
        jnp.asarray([[1.0, 1.0]]),
        jnp.asarray([5.0, 4.0]),
        code_l1_weight=0.3,
    )
    assert cost == pytest.approx(5.0 + 0.3 * 2.0, rel=1e-6)


def test_the_terms_of_eq15_by_hand():
    pred_xy = jnp.asarray([[0.0, 1.0], [2.0, 3.0]])
    keypoints = jnp.asarray([[0.5, 0.0], [2.0, 5.0]])
    assert losses.keypoint_l1_loss(pred_xy, keypoints) == pytest.approx(3.5)
    labelled = jnp.asarray([True, False])
    assert losses.keypoint_l1_loss(pred_xy, keypoints, labelled=labelled) == 1.5


def test_the_loss_is_the_cost_of_the_projected_code():
    sample = random_sample(1)
    phi = losses.project_code(sample.phi, sample.B_z, sample.z_hyp)
    cost = losses.code_cost(phi, sample.B_xy, sample.w, code_l1_weight=0.3)
    assert distillation_loss(*sample) == pytest.approx(float(cost), rel=1e-6)


def test_eq14_against_pinv_in_float64():
    sample = random_sample(2)
    z, phi, B_xy, B_z, w = (np.asarray(x, float) for x in sample)
    projected = phi + np.linalg.pinv(B_z) @ (z - B_z @ phi)
    expected = np.linalg.norm(B_xy @ projected - w) + 0.3 * np.abs(projected).sum()
    assert distillation_loss(*sample) == pytest.approx(expected, rel=2e-6)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 9), st.integers(0, 999), st.floats(0.0, 1.0), st.floats(0.01, 9))
def test_eq14_is_convex_in_the_depth(seed, direction, share, size):
    """On random chords: L(a x + (1 - a) y) <= a L(x) + (1 - a) L(y)."""
    sample = random_sample(seed)
    loss = functools.partial(_loss_of_depth(), sample[1:])
    chord = np.random.default_rng(direction).normal(size=(2, 17)) * size
    x, y = (sample.z_hyp + jnp.asarray(end, jnp.float32) for end in chord)
    above = share * loss(x) + (1.0 - share) * loss(y)
    assert loss(share * x + (1.0 - share) * y) <= above * (1 + 1e-5)


@functools.cache
def _loss_of_depth():
    return lambda rest, z: distillation_loss(z, *rest)


def test_the_loss_is_least_in_a_neighbourhood_only_where_it_is_flat():
    """Eq. 14 at the teacher's depth is the teacher's own cost."""
    sample = random_sample(3)
    loss = distillation_loss(sample.B_z @ sample.phi, *sample[1:])
    own = losses.code_cost(sample.phi, sample.B_xy, sample.w, code_l1_weight=0.3)
    assert loss == pytest.approx(float(own), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e3])
def test_the_loss_is_homogeneous_in_the_unit(scale):
    z, phi, B_xy, B_z, w = random_sample(4)
    plain = distillation_loss(z, phi, B_xy, B_z, w)
    scaled = distillation_loss(scale * z, scale * phi, B_xy, B_z, scale * w)
    assert scaled == pytest.approx(scale * float(plain), rel=3e-6)


def _views(seed, joints=6):
    rng = np.random.default_rng(seed)
    D, M = unit_dictionary(rng, joints, 64), random_camera(rng)
    phi = jnp.asarray(np.maximum(rng.normal(size=64), 0), jnp.float32)
    W, z = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((joints, 2), joints))
    return D, M, phi, W, z


@pytest.mark.parametrize("degrees", [17.0, -60.0, 180.0])
def test_turning_the_picture_in_its_plane_changes_nothing(degrees):
    """Camera and landmarks turn together; depth, loss and gradient do not."""
    D, M, phi, W, z = _views(5)
    angle = jnp.deg2rad(degrees)
    turn = jnp.asarray(
        [[jnp.cos(angle), jnp.sin(angle)], [-jnp.sin(angle), jnp.cos(angle)]]
    )
    loss = loss_and_gradient
    plain = loss(z, phi, *losses.split_dictionary(D, M), W.ravel())
    turned = loss(z, phi, *losses.split_dictionary(D, M @ turn), (W @ turn).ravel())
    assert turned[0] == pytest.approx(float(plain[0]), rel=1e-5)
    np.testing.assert_allclose(turned[1], plain[1], atol=2e-5)


def test_a_mirrored_picture_permutes_the_depth():
    """Left and right change names and x its sign; the loss and z follow."""
    D, M, phi, W, z = _views(6)
    swap = jnp.asarray([0, 2, 1, 4, 3, 5])
    flip = jnp.asarray([-1.0, 1.0])
    B_xy, B_z = losses.split_dictionary(D, M)
    mirrored_xy = (B_xy.reshape(6, 2, 64) * flip[None, :, None])[swap].reshape(12, 64)
    mirrored_w = (W * flip[None])[swap].ravel()
    plain = distillation_loss(z, phi, B_xy, B_z, W.ravel())
    mirrored = distillation_loss(z[swap], phi, mirrored_xy, B_z[swap], mirrored_w)
    assert mirrored == pytest.approx(float(plain), rel=1e-6)


NAN = float("nan")


@pytest.mark.parametrize(("missing", "value"), [(1, 0.0), (5, NAN), (16, NAN)])
def test_a_mask_equals_a_skeleton_without_the_joints(missing, value):
    sample, mask = random_sample(7), random_mask(7, 17, missing)
    loss = loss_and_gradient
    expected, gradient = loss(*drop_joints(sample, mask))
    actual, masked = loss(*spoil(sample, mask, value), labelled=jnp.asarray(mask))
    assert actual == pytest.approx(float(expected), rel=3e-6)
    np.testing.assert_allclose(masked[mask], gradient, atol=1e-5)
    assert not np.any(masked[~mask])


@functools.cache
def _every_gradient():
    return jax.jit(jax.value_and_grad(distillation_loss, argnums=(0, 1, 2, 3, 4)))


@pytest.mark.parametrize("name", list(degenerate_samples()))
def test_degenerate_samples_give_finite_values_and_gradients(name):
    sample = degenerate_samples()[name]
    every = _every_gradient()
    value, gradients = every(*sample)
    for x in (value, *gradients):
        assert jnp.isfinite(x).all()


def test_no_labelled_joint_costs_the_code_alone():
    sample, mask = random_sample(8), jnp.zeros(17, bool)
    loss = loss_and_gradient
    value, gradient = loss(*spoil(sample, np.asarray(mask), jnp.nan), labelled=mask)
    assert value == pytest.approx(0.3 * float(jnp.abs(sample.phi).sum()), rel=1e-6)
    assert not np.any(gradient)


def test_gradients_of_the_loss():
    sample = random_sample(9, joints=4, atoms=9)
    loss = on_jax_arrays(distillation_loss)
    sample = sample._replace(phi=sample.phi + 0.5)  # away from the kinks of |phi|
    check_grads(loss, sample, order=1, rtol=1e-2, atol=1e-2, eps=3e-3)


def _prepared(sample, labelled=None):
    return prepare(*sample[1:], labelled)


@pytest.mark.parametrize("missing", [0, 3, 16, 17])
def test_the_prepared_loss_is_eq14_with_matched_means(missing):
    sample, mask = random_sample(10), jnp.asarray(random_mask(10, 17, missing))

    def direct(z_hyp):
        matched = losses.match_depth_mean(z_hyp, sample.B_z @ sample.phi, mask)
        return distillation_loss(matched, *sample[1:], labelled=mask)

    prepared = _prepared(sample, mask)
    expected, gradient = jax.jit(jax.value_and_grad(direct))(sample.z_hyp)
    loss = prepared_and_gradient
    actual, fast = loss(sample.z_hyp, prepared)
    assert actual == pytest.approx(float(expected), rel=3e-6)
    np.testing.assert_allclose(fast, gradient, atol=1e-5)
    moved, _ = loss(sample.z_hyp + 3.0, prepared)
    assert moved == pytest.approx(float(actual), rel=1e-5)


@pytest.mark.parametrize("name", list(degenerate_samples()))
def test_the_prepared_loss_is_finite_for_degenerate_samples(name):
    sample = degenerate_samples()[name]
    loss = prepared_and_gradient
    for value in loss(sample.z_hyp, _prepared(sample)):
        assert jnp.isfinite(value).all()


def test_batches_under_jit_equal_single_samples():
    samples = [random_sample(seed) for seed in range(3)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *samples)
    masks = jnp.asarray(np.stack([random_mask(s, 17, s) for s in range(3)]))
    prepared = jax.jit(jax.vmap(losses.prepare))(*batch[1:], masks)
    loss = jax.jit(jax.vmap(prepared_loss))(batch.z_hyp, prepared)
    for i, sample in enumerate(samples):
        one = prepared_loss(sample.z_hyp, _prepared(sample, masks[i]))
        assert loss[i] == pytest.approx(float(one), rel=1e-5)


def test_the_baseline_by_hand():
    pred, teacher = jnp.asarray([1.0, 2.0, 6.0]), jnp.asarray([0.0, 0.0, 3.0])
    # Centred: (-2, -1, 3) against (-1, -1, 2).
    assert losses.depth_l1_loss(pred, teacher, weight=3.0) == pytest.approx(6.0)
    labelled = jnp.asarray([True, True, False])
    assert losses.depth_l1_loss(pred, teacher, labelled=labelled) == pytest.approx(1.0)


def test_the_gradient_norm_is_the_mean_over_random_edits():
    sample, key = random_sample(11), jax.random.key(0)
    prepared = _prepared(sample)

    def measured(loss):
        def norm(prepared):
            return losses.depth_gradient_norm(
                lambda z: loss(z, prepared),
                prepared.depth,
                key,
                sigma=0.2,
                num_edits=64,
            )

        return jax.jit(norm)(prepared)

    baseline = measured(lambda z, p: losses.depth_l1_loss(z, p.depth))
    # +-1 in 17 joints, less the square of their mean, 1 in expectation.
    assert baseline == pytest.approx(np.sqrt(17 - 1), rel=0.02)
    distilled = measured(prepared_loss)
    edits = 0.2 * jax.random.normal(key, (64, 17))
    gradients = jax.jit(jax.vmap(jax.grad(prepared_loss), (0, None)))(
        prepared.depth[None] + edits, prepared
    )
    expected = np.linalg.norm(gradients, axis=1).mean()
    assert distilled == pytest.approx(expected, rel=1e-5)
