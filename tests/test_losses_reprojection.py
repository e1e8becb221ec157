"""Eq. 4: the teacher's loss of one sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import losses

S = jnp.asarray([[1.0, 2.0, 9.0], [0.0, 0.0, 9.0]])
W = jnp.asarray([[1.0, 0.0], [2.0, -1.0]])
PHI = jnp.asarray([0.0, 3.0, 4.0])


def test_eq4_by_hand():
    # Errors (0, 2) and (-2, 1): the norm of all of them, 3, is not squared.
    loss = losses.reprojection_loss(S, jnp.eye(3, 2), W, PHI, sparsity_weight=0.01)
    assert loss == pytest.approx(3.0 + 0.07)


def test_missing_joints_do_not_count():
    labelled = jnp.asarray([True, False])
    spoiled = W.at[1].set(jnp.nan)
    loss = jax.value_and_grad(losses.reprojection_loss)
    value, gradient = loss(
        S, jnp.eye(3, 2), spoiled, PHI, sparsity_weight=0.01, labelled=labelled
    )
    assert value == pytest.approx(2.0 + 0.07)
    np.testing.assert_allclose(gradient, [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


def test_a_perfect_fit_has_a_finite_gradient():
    loss = jax.value_and_grad(losses.reprojection_loss)
    value, gradient = loss(S, jnp.eye(3, 2), S[:, :2], 0.0 * PHI, sparsity_weight=0.01)
    assert value == 0.0
    assert not np.any(gradient)


@pytest.mark.parametrize("spoil", [jnp.nan, jnp.inf])
def test_a_landmark_that_is_not_finite_is_not_a_perfect_fit(spoil):
    W_bad = W.at[1, 0].set(spoil)
    loss = losses.reprojection_loss(S, jnp.eye(3, 2), W_bad, PHI, sparsity_weight=0.01)
    assert not np.isfinite(loss)
