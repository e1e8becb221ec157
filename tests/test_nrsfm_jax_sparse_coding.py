"""Sparse coding against the proximal map, the ISTA descent and a convex solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from nrsfm_jax import sparse_coding


def test_shrink_is_the_proximal_map():
    x = jnp.array([1.5, 0.3, -2.0, 0.0])
    threshold = jnp.array([0.5, 0.4, 0.1, -0.2])
    grid = jnp.linspace(0, 3, 3001)
    cost = 0.5 * (grid[:, None] - x[None, :]) ** 2 + threshold[None, :] * grid[:, None]
    best = grid[jnp.argmin(cost, axis=0)]
    np.testing.assert_allclose(sparse_coding.shrink(x, threshold), best, atol=1.5e-3)


def test_shrink_acts_on_the_last_axis():
    x = jnp.arange(6.0).reshape(2, 3)
    shrunk = sparse_coding.shrink(x, jnp.array([0.0, 1.0, 10.0]))
    np.testing.assert_array_equal(shrunk, [[0, 0, 0], [3, 3, 0]])


def _problem(seed=0, size=8, atoms=20):
    keys = jax.random.split(jax.random.key(seed), 2)
    D = jax.random.normal(keys[0], (size, atoms))
    x = jax.random.normal(keys[1], (size,))
    step = jnp.asarray(1 / np.linalg.norm(D, 2) ** 2, jnp.float32)
    return D, x, step


def _cost(D, x, phi, penalty):
    return 0.5 * jnp.sum((x - D @ phi) ** 2) + penalty * jnp.sum(phi)


def test_ista_never_raises_the_cost_and_meets_the_optimality_conditions():
    D, x, step = _problem()
    penalty = 0.3
    threshold = jnp.full(20, penalty) * step

    def body(phi, _):
        phi = sparse_coding.ista_step(phi, D.T @ (x - D @ phi), threshold, step=step)
        return phi, _cost(D, x, phi, penalty)

    phi, costs = jax.lax.scan(body, jnp.zeros(20), None, length=3000)
    assert np.all(np.diff(costs) < 1e-5)
    slope = np.asarray(D.T @ (D @ phi - x)) + penalty
    assert slope.min() > -1e-3
    np.testing.assert_allclose(slope[np.asarray(phi) > 1e-3], 0, atol=1e-3)


def test_one_step_from_zero_is_the_feed_forward_layer():
    D, x, _ = _problem()
    threshold = jnp.linspace(-0.2, 0.4, 20)
    from_zero = sparse_coding.ista_step(
        jnp.zeros(20), D.T @ x, threshold, step=jnp.float32(1)
    )
    layer = sparse_coding.encode(x, [D], [threshold], [jnp.float32(0.1)])
    np.testing.assert_allclose(from_zero, layer, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer, np.maximum(D.T @ x - threshold, 0), atol=1e-5)


def test_encode_by_hand_through_two_layers():
    D_2, D_3 = jnp.array([[1.0, -1.0], [2.0, 0.0]]), jnp.array([[3.0], [1.0]])
    thresholds = [jnp.array([1.0, 0.0]), jnp.array([-1.0])]
    steps = [jnp.float32(1), jnp.float32(1)]
    # D_2' (1, 2) = (5, -1) -> relu(5 - 1, -1 - 0) = (4, 0); D_3' = 12 -> 12 + 1.
    code = sparse_coding.encode(jnp.array([1.0, 2.0]), [D_2, D_3], thresholds, steps)
    np.testing.assert_allclose(code, [13.0])


def test_decode_by_hand_uses_the_same_dictionaries_in_reverse():
    D_2, D_3 = jnp.array([[1.0, -1.0], [2.0, 0.0]]), jnp.array([[3.0], [1.0]])
    thresholds = [jnp.array([0.5, 30.0]), jnp.array([0.0, 3.0])]
    # D_3 (2) = (6, 2) -> (6, 0); D_2 (6, 0) = (6, 12) -> (5.5, 0).
    code = sparse_coding.decode(jnp.array([2.0]), [D_2, D_3], thresholds)
    np.testing.assert_allclose(code, [5.5, 0.0])


def test_more_ista_steps_lower_the_residual_of_a_layer():
    D, x, step = _problem(seed=3)
    zero = [jnp.zeros(20)]

    def residual(count):
        code = sparse_coding.encode(x, [D * 0.05], zero, [step * 400], ista_steps=count)
        return float(jnp.linalg.norm(x - 0.05 * D @ code))

    assert residual(50) < residual(5) < residual(1)


@pytest.mark.parametrize("ista_steps", [1, 3])
def test_gradients_of_encode_and_decode(ista_steps):
    D, x, step = _problem(seed=1)
    D_2 = jax.random.normal(jax.random.key(9), (20, 6)) * 0.3

    def through(*arrays):
        x, D, step = map(jnp.asarray, arrays)
        deep = sparse_coding.encode(
            x,
            [D, D_2],
            [jnp.full(20, 0.05), jnp.full(6, -0.1)],
            [step, jnp.float32(0.1)],
            ista_steps=ista_steps,
        )
        return sparse_coding.decode(deep, [D, D_2], [jnp.zeros(8), jnp.zeros(20)])

    check_grads(through, (x, 0.3 * D, step), order=1, modes=["rev"], eps=1e-3, rtol=0.1)
