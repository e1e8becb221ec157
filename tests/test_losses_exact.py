"""Eqs. 10, 11: the solver against cvxpy and Clarabel, its certificate and gradient."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses_samples import (
    degenerate_samples,
    drop_joints,
    random_mask,
    random_sample,
    spoil,
)

import losses

min_code_cost = functools.partial(losses.min_code_cost, code_l1_weight=0.3)


@functools.cache
def _batched(code_l1_weight=0.3):
    one = functools.partial(losses.min_code_cost, code_l1_weight=code_l1_weight)
    return jax.jit(jax.vmap(one))


def _stack(samples):
    return jax.tree.map(lambda *x: jnp.stack(x), *samples)


def _independent(sample, code_l1_weight=0.3):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cvxpy as cp
    z, _, B_xy, B_z, w = (np.asarray(x, float) for x in sample)
    phi = cp.Variable(B_z.shape[1])
    cost = cp.norm(B_xy @ phi - w, 2) + code_l1_weight * cp.norm(phi, 1)
    problem = cp.Problem(cp.Minimize(cost), [B_z @ phi == z])
    problem.solve(solver=cp.CLARABEL)
    return problem.value


@pytest.mark.parametrize("joints", [5, 17, 41])
def test_eq10_agrees_with_clarabel(joints):
    samples = [random_sample(seed, joints=joints) for seed in range(4)]
    cost, gap = _batched()(*_stack(samples))
    expected = [_independent(sample) for sample in samples]
    np.testing.assert_allclose(cost, expected, rtol=1e-4)
    assert (gap >= 0).all()
    assert (cost - gap <= np.asarray(expected) * (1 + 2e-6)).all()


@pytest.mark.parametrize("code_l1_weight", [0.1, 1.0])
def test_eq10_agrees_with_clarabel_at_other_weights(code_l1_weight):
    samples = [random_sample(seed) for seed in (20, 21)]
    cost, _ = _batched(code_l1_weight)(*_stack(samples))
    expected = [_independent(sample, code_l1_weight) for sample in samples]
    np.testing.assert_allclose(cost, expected, rtol=1e-4)


def test_eq10_by_hand():
    # One joint, depth x + y = 2, image row blind: cost .5 (|x| + |y|) + ||w||.
    blind = jnp.zeros((2, 2))
    cost, gap = losses.min_code_cost(
        *(jnp.asarray([2.0]), jnp.asarray([5.0, -3.0]), blind),
        *(jnp.asarray([[1.0, 1.0]]), jnp.asarray([3.0, 4.0])),
        code_l1_weight=0.5,
    )
    assert cost == pytest.approx(6.0, rel=1e-4)
    assert gap <= 1e-4 * cost


def test_eq14_bounds_eq10_from_above():
    samples = _stack([random_sample(seed) for seed in range(8)])
    cost, gap = _batched()(*samples)
    bound = jax.vmap(functools.partial(losses.distillation_loss, code_l1_weight=0.3))(
        *samples
    )
    assert (bound >= cost - gap).all()
    assert (bound > cost).any()


def test_the_start_does_not_matter():
    sample = random_sample(1)
    other = sample._replace(phi=jnp.ones_like(sample.phi))
    cost, gap = _batched()(*_stack([sample, other]))
    assert abs(cost[0] - cost[1]) <= gap.max()


def test_eq10_is_convex_in_the_depth():
    sample = random_sample(2)
    middle = sample._replace(z_hyp=0.5 * (sample.z_hyp + sample.z_hyp[::-1]))
    ends = sample._replace(z_hyp=sample.z_hyp[::-1])
    cost, gap = _batched()(*_stack([sample, middle, ends]))
    assert cost[1] - gap[1] <= 0.5 * (cost[0] + cost[2])


def test_the_gradient_is_the_slope_of_the_minimum():
    """The envelope theorem, against differences of Clarabel's minima."""
    sample = random_sample(3, joints=5, atoms=40)
    gradient, gap = jax.grad(min_code_cost, has_aux=True)(*sample)
    assert jnp.isfinite(gap)
    for joint in range(5):
        edit = jnp.zeros(5).at[joint].set(1e-3)
        above, below = (
            _independent(sample._replace(z_hyp=sample.z_hyp + sign * edit))
            for sign in (1.0, -1.0)
        )
        slope = (above - below) / 2e-3
        assert gradient[joint] == pytest.approx(slope, abs=5e-3)


def test_gradients_in_the_landmarks_and_the_dictionary():
    sample = random_sample(4, joints=5, atoms=40)
    value = functools.partial(min_code_cost, tolerance=1e-6)
    gradients = jax.grad(lambda *a: value(*a)[0], argnums=(1, 2, 3, 4))(*sample)
    assert not np.any(gradients[0])
    rng = np.random.default_rng(0)
    for i, gradient in enumerate(gradients[1:], start=2):
        edit = jnp.asarray(rng.normal(size=gradient.shape), jnp.float32)
        edit = edit * (1e-3 / jnp.linalg.norm(edit))
        above, below = (
            _independent((*sample[:i], sample[i] + sign * edit, *sample[i + 1 :]))
            for sign in (1.0, -1.0)
        )
        assert jnp.sum(gradient * edit) == pytest.approx((above - below) / 2, abs=2e-5)


@pytest.mark.parametrize("name", list(degenerate_samples()))
def test_degenerate_samples_give_finite_values_and_gradients(name):
    solve = functools.partial(min_code_cost, max_steps=500)
    every = jax.value_and_grad(solve, argnums=(0, 2, 3, 4), has_aux=True)
    (cost, gap), gradients = every(*degenerate_samples()[name])
    for x in (cost, gap, *gradients):
        assert jnp.isfinite(x).all()


@pytest.mark.parametrize("missing", [3, 16])
def test_a_mask_equals_a_skeleton_without_the_joints(missing):
    sample, mask = random_sample(6), random_mask(6, 17, missing)
    cost, gap = min_code_cost(
        *spoil(sample, mask, float("nan")), labelled=jnp.asarray(mask)
    )
    assert gap <= 1e-4 * cost
    assert cost == pytest.approx(_independent(drop_joints(sample, mask)), rel=1e-4)


def test_no_labelled_joint_costs_nothing():
    cost, gap = min_code_cost(*random_sample(7), labelled=jnp.zeros(17, bool))
    assert (float(cost), float(gap)) == (0.0, 0.0)
