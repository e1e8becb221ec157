"""Eqs. 10, 11: the solver against cvxpy and Clarabel, its certificate and gradient."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses_samples import (
    Sample,
    degenerate_samples,
    drop_joints,
    random_mask,
    random_sample,
    spoil,
)

import losses

BATCH = 4


@functools.cache  # one program for all tests
def _program():
    def solve(sample, code_l1_weight, labelled):
        return losses.min_code_cost(
            *sample,
            code_l1_weight=code_l1_weight,
            labelled=labelled,
            tolerance=3e-5,
            max_steps=10_000,
        )

    every = jax.value_and_grad(solve, has_aux=True)
    return jax.jit(jax.vmap(every, in_axes=(0, None, 0)))


def _solve(*samples, code_l1_weight=0.3, labelled=None):
    """Costs, gaps and gradients of up to four samples."""
    count = len(samples)
    stacked = _stack([*samples, *[samples[-1]] * (BATCH - count)])
    labelled = np.ones(17, bool) if labelled is None else labelled
    masks = jnp.asarray(np.tile(labelled, (BATCH, 1)))
    (cost, gap), gradient = _program()(stacked, jnp.float32(code_l1_weight), masks)
    return jax.tree.map(lambda x: np.asarray(x[:count]), (cost, gap, gradient))


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


@pytest.mark.parametrize("code_l1_weight", [0.1, 0.3, 1.0])
def test_eq10_agrees_with_clarabel(code_l1_weight):
    samples = [random_sample(seed) for seed in range(BATCH)]
    cost, gap, _ = _solve(*samples, code_l1_weight=code_l1_weight)
    expected = [_independent(sample, code_l1_weight) for sample in samples]
    np.testing.assert_allclose(cost, expected, rtol=1e-4)
    assert (gap >= 0).all()
    assert (cost - gap <= np.asarray(expected) * (1 + 2e-6)).all()


def test_eq10_by_hand():
    # One joint, depth x + y = 2, image row blind: cost .5 (|x| + |y|) + ||w||.
    zero = jax.tree.map(jnp.zeros_like, random_sample(0))
    sample = zero._replace(
        z_hyp=zero.z_hyp.at[0].set(2.0),
        phi=zero.phi.at[:2].set(jnp.asarray([5.0, -3.0])),
        B_z=zero.B_z.at[0, :2].set(1.0),
        w=zero.w.at[:2].set(jnp.asarray([3.0, 4.0])),
    )
    labelled = np.arange(17) == 0
    cost, gap, _ = _solve(sample, code_l1_weight=0.5, labelled=labelled)
    assert cost[0] == pytest.approx(6.0, rel=1e-4)
    assert gap[0] <= 1e-4 * cost[0]


def test_eq14_bounds_eq10_from_above():
    samples = [random_sample(seed) for seed in range(BATCH)]
    cost, gap, _ = _solve(*samples)
    loss = functools.partial(losses.distillation_loss, code_l1_weight=0.3)
    bound = jax.jit(jax.vmap(loss))(*_stack(samples))
    assert (bound >= cost - gap).all()
    assert (bound > cost).any()


def test_the_start_does_not_matter():
    sample = random_sample(1)
    cost, gap, _ = _solve(sample, sample._replace(phi=jnp.ones_like(sample.phi)))
    assert abs(cost[0] - cost[1]) <= gap.max() + 1e-6 * cost[0]


def test_eq10_is_convex_in_the_depth():
    sample = random_sample(2)
    middle = sample._replace(z_hyp=0.5 * (sample.z_hyp + sample.z_hyp[::-1]))
    ends = sample._replace(z_hyp=sample.z_hyp[::-1])
    cost, gap, _ = _solve(sample, middle, ends)
    assert cost[1] - gap[1] <= 0.5 * (cost[0] + cost[2])


def test_the_gradient_is_the_slope_of_the_minimum():
    """The envelope theorem, against differences of Clarabel's minima."""
    sample = random_sample(3)
    _, gap, gradient = _solve(sample)
    assert np.isfinite(gap).all()
    assert not np.any(gradient.phi)
    rng = np.random.default_rng(0)
    for name in ("z_hyp", "w", "B_xy", "B_z"):
        slope = getattr(gradient, name)[0]
        edit = rng.normal(size=slope.shape)
        edit = np.float32(edit * 1e-2 / np.linalg.norm(edit))
        above, below = (
            _independent(sample._replace(**{name: getattr(sample, name) + sign * edit}))
            for sign in (1.0, -1.0)
        )
        assert np.sum(slope * edit) == pytest.approx((above - below) / 2, abs=1e-4)


def test_degenerate_samples_give_finite_values_and_gradients():
    samples = list(degenerate_samples().values())
    for some in (samples[:BATCH], samples[BATCH:]):
        for x in jax.tree.leaves(_solve(*some)):
            assert np.isfinite(x).all()


@pytest.mark.parametrize("missing", [3, 16])
def test_a_mask_equals_a_skeleton_without_the_joints(missing):
    sample, mask = random_sample(6), random_mask(6, 17, missing)
    cost, gap, gradient = _solve(spoil(sample, mask, float("nan")), labelled=mask)
    assert gap[0] <= 1e-4 * cost[0]
    assert cost[0] == pytest.approx(_independent(drop_joints(sample, mask)), rel=1e-4)
    assert isinstance(gradient, Sample)
    assert not np.any(gradient.z_hyp[0][~mask])


def test_no_labelled_joint_costs_nothing():
    cost, gap, _ = _solve(random_sample(7), labelled=np.zeros(17, bool))
    assert (float(cost[0]), float(gap[0])) == (0.0, 0.0)
