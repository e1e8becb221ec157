"""The learned standard deviations: likelihood, variances of labels, coverage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from losses.scores import score_error_bars
from pose_jax.error_bar import ErrorBar, centred_variance, error_bar_loss

P = 5
ALL = jnp.ones(P, bool)


def arguments(seed, variance=0.0):
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.1, 0.4, (P, 3))
    off, z, expected = 0.2 * rng.normal(size=(P, 2)), *(0.3 * rng.normal(size=(2, P)))
    variance = variance * rng.uniform(0.5, 1.5, P)
    return [jnp.asarray(x, jnp.float32) for x in (spread, off, z, expected, variance)]


loss = jax.jit(error_bar_loss)


@pytest.mark.parametrize("variance", [0.0, 0.04])
def test_it_is_the_likelihood_averaged_over_what_the_truth_may_be(variance):
    """SciPy's Laplace density, over a hundred thousand true depths."""
    spread, off, z, expected, variance = arguments(0, variance)
    labelled = np.array([1, 1, 0, 1, 1], bool)
    known = np.array([1, 0, 1, 1, 1], bool)
    found = loss(spread, off, z, expected, variance, labelled=labelled, known=known)
    off, z, expected, b = (
        np.asarray(x, np.float64) for x in (off, z, expected, spread / np.sqrt(2))
    )
    drawn = np.sqrt(variance) * np.random.default_rng(1).normal(size=(100_000, P))
    error = (z - z[known].mean()) - (expected - expected[known].mean()) + drawn
    across = stats.laplace.logpdf(off, scale=b[:, :2]).sum(axis=1)[labelled].sum()
    along = stats.laplace.logpdf(error, scale=b[:, 2]).mean(axis=0)[known].sum()
    constant = np.log(2) * (2 * labelled.sum() + known.sum())
    assert float(found) == pytest.approx(-across - along - constant, rel=0.01)


def test_only_the_spread_has_a_gradient_and_it_is_finite():
    gradient = jax.jit(jax.grad(error_bar_loss, argnums=(0, 1, 2, 3, 4)))
    spread, off, z, expected, variance = arguments(2)
    for depth in (z, expected):  # an error of 0 as well
        own, *others = gradient(
            spread, off, depth, expected, variance, labelled=ALL, known=ALL
        )
        assert np.isfinite(own).all()
        assert np.all(own != 0)
        assert not any(np.any(other) for other in others)


def test_variances_are_those_of_the_centred_depths():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(4, P, P))
    covariance = A @ A.swapaxes(1, 2)
    labelled = rng.random((4, P)) < 0.7
    labelled[:, :2] = True
    found = centred_variance(covariance, labelled)
    for C, mask, variance in zip(covariance, labelled, found, strict=True):
        H = np.eye(P) - mask / mask.sum()
        np.testing.assert_allclose(variance, np.diag(H @ C @ H.T), rtol=1e-5)


def test_it_learns_deviations_that_cover_what_they_promise():
    """Errors that grow with the width of the heat, of each axis in its own way."""
    rng = np.random.default_rng(4)

    def draw(count):
        width = rng.uniform(0.05, 0.5, (count, 1, P, 3))
        std = np.stack([2 * width[..., 0], width[..., 1] ** 2, 0 * width[..., 2] + 0.3])
        std = np.moveaxis(std, 0, -1)
        error = rng.laplace(scale=std / np.sqrt(2))[:, 0]
        return jnp.asarray(width, jnp.float32), error, std[:, 0]

    net = ErrorBar()
    width, error, _ = draw(2000)
    off = jnp.asarray(error, jnp.float32)
    params = net.init(jax.random.key(0), width)

    def mean_loss(params):
        def one(spread, off):
            zero = jnp.zeros(P)
            # The mean of the depth has no influence: of these errors it is small.
            depth = (off[:, 2], zero, zero)
            return error_bar_loss(spread, off[:, :2], *depth, labelled=ALL, known=ALL)

        return jax.vmap(one)(net.apply(params, width)[:, 0], off).mean()

    optimizer = optax.adam(0.05)

    @jax.jit
    def step(_, state):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(mean_loss)(params), moments)
        return optax.apply_updates(params, updates), moments

    with jax.numpy_dtype_promotion("standard"):
        params, _ = jax.lax.fori_loop(0, 300, step, (params, optimizer.init(params)))
    width, error, std = draw(2000)
    spread = np.asarray(net.apply(params, width))[:, 0]
    np.testing.assert_allclose(spread[..., :2], std[..., :2], rtol=0.25)
    error[..., 2] -= error[..., 2].mean(axis=1, keepdims=True)
    scores = score_error_bars(error, spread, np.ones((2000, P), bool))
    for axis in "xyz":
        assert 0.92 < scores["95"][axis] < 0.96  # of a Laplace .937
    assert scores["rank correlation"]["y"] > 0.5
    assert abs(scores["rank correlation"]["z"]) < 0.1


def test_coverage_and_rank_by_hand():
    error = np.zeros((2, 2, 3))
    error[..., 0] = [[0.5, -1.0], [1.5, -3.0]]
    error[..., 2] = np.nan
    spread = np.ones((2, 2, 3))
    spread[..., 0] = [[1.0, 2.0], [3.0, 4.0]]
    labelled = np.array([[1, 1], [1, 0]], bool)
    found = score_error_bars(error, spread, labelled)
    assert found["50"] == {"x": 1.0, "y": 1.0}
    labelled[:] = True
    found = score_error_bars(error, spread, labelled)
    assert found["50"]["x"] == 0.75  # 3 of 4 is .75 deviations
    assert found["80"]["x"] == 1.0
    assert found["rank correlation"] == {"x": 1.0}  # y never errs
