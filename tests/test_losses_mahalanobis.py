"""The posterior's loss: Eq. 10 with a quadratic regulariser, means, missing joints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import losses

P = 7


def made_up(seed):
    rng = np.random.default_rng(seed)
    A = 0.2 * rng.normal(size=(P, P))
    m, z = 0.3 * rng.normal(size=(2, P))
    return m.astype(np.float32), (A @ A.T).astype(np.float32), z.astype(np.float32)


def loss(z, m, C, labelled=None, noise=0.05):
    labelled = None if labelled is None else jnp.asarray(labelled)
    record = losses.prepare_posterior(
        jnp.asarray(m), jnp.asarray(C), labelled, noise=noise
    )
    return float(losses.posterior_depth_loss(jnp.asarray(z), record))


def test_it_is_the_least_cost_of_a_shape_with_this_depth():
    """Eq. 10 for a Gaussian shape, by brute minimisation over the whole shape."""
    rng = np.random.default_rng(0)
    d, sigma = 3 * P, 0.1
    A = 0.3 * rng.normal(size=(d, d))
    Sigma, mu = A @ A.T, 0.5 * rng.normal(size=d)
    w = rng.normal(size=2 * P)
    is_z = np.arange(d) % 3 == 2
    to_xy, to_z = np.eye(d)[~is_z], np.eye(d)[is_z]
    # cost(s) = ||s_xy - w||^2 / sigma^2 + (s - mu)' Sigma^-1 (s - mu), quadratic in s.
    H = to_xy.T @ to_xy / sigma**2 + np.linalg.inv(Sigma)
    b = to_xy.T @ w / sigma**2 + np.linalg.solve(Sigma, mu)
    s = np.linalg.solve(H, b)

    def least_cost(z):
        system = np.block([[H, to_z.T], [to_z, np.zeros((P, P))]])
        at = np.linalg.solve(system, np.concatenate([b, z]))[:d]
        return (at - s) @ H @ (at - s)

    # The posterior of the depth, conditioned in the usual way.
    gain = to_z @ Sigma @ to_xy.T
    gain = gain @ np.linalg.inv(to_xy @ Sigma @ to_xy.T + sigma**2 * np.eye(2 * P))
    C = to_z @ Sigma @ to_z.T - gain @ to_xy @ Sigma @ to_z.T
    z = to_z @ s + 0.2 * rng.normal(size=P)
    z += (to_z @ s).mean() - z.mean()
    # Least over the unknown shift along the line of sight: a parabola in it.
    shifts = np.array([-1.0, 0.0, 1.0])
    parabola = np.polyfit(shifts, [least_cost(z + t) for t in shifts], 2)
    least = np.polyval(parabola, -parabola[1] / (2 * parabola[0]))
    # Where C is certain of the mean depth as well, it has no part in the distance.
    found = loss(z, to_z @ s, C, noise=1e-3)
    centring = np.eye(P) - 1 / P
    expected = (z - to_z @ s) @ np.linalg.pinv(centring @ C @ centring)
    expected = expected @ (z - to_z @ s)
    assert found**2 == pytest.approx(expected, rel=0.02)
    assert expected == pytest.approx(least, rel=1e-6)


def test_a_common_shift_and_missing_joints_do_not_count():
    m, C, z = made_up(1)
    labelled = np.arange(P) != 2
    value = loss(z, m, C, labelled)
    other = z + 3.0
    other[2] = np.nan
    assert loss(other, m, C, labelled) == pytest.approx(value, rel=1e-4)
    rows = np.flatnonzero(labelled)
    alone = loss(z[rows], m[rows], C[np.ix_(rows, rows)])
    assert value == pytest.approx(alone, rel=1e-4)


def test_it_is_flat_along_what_the_landmarks_leave_open():
    m = np.zeros(P, np.float32)
    along = np.linspace(-1, 1, P).astype(np.float32)
    across = np.where(np.arange(P) % 2, 1, -1).astype(np.float32)
    across -= across.mean() + along * (across @ along) / (along @ along)
    C = np.outer(along, along)
    assert loss(0.5 * along, m, C, noise=0.01) == pytest.approx(0.5, rel=1e-3)
    expected = 0.5 * np.linalg.norm(across) / 0.01
    assert loss(0.5 * across, m, C, noise=0.01) == pytest.approx(expected, rel=1e-3)


def test_gradients_also_at_the_mean():
    m, C, z = made_up(2)
    record = losses.prepare_posterior(jnp.asarray(m), jnp.asarray(C), noise=0.05)

    def value(z):
        return losses.posterior_depth_loss(jnp.asarray(z), record)

    check_grads(value, (jnp.asarray(z),), 1, modes=("rev",), atol=2e-2, rtol=2e-2)
    np.testing.assert_array_equal(jax.grad(value)(jnp.asarray(m)), 0)


@pytest.mark.parametrize("spoiled", ["depth", "label", "covariance", "indefinite"])
def test_what_has_no_distance_is_not_near(spoiled):
    m, C, z = made_up(0)
    if spoiled == "indefinite":
        C = -C
    else:
        {"depth": z, "label": m, "covariance": C}[spoiled].flat[0] = np.nan
    assert np.isnan(loss(z, m, C))
