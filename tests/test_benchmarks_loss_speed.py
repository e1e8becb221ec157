"""The methods that are timed compute the same loss and the same gradient."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import loss_speed

SAMPLES = loss_speed.make_samples(3)


def _check(methods):
    expected = loss_speed.jax_methods(SAMPLES)["Cholesky"]()
    for name, method in methods.items():
        value, gradient = (np.asarray(x) for x in method())
        if name == "prepared":  # matches the means of the depths
            z0 = jnp.einsum("npk,nk->np", loss_speed.rotated(SAMPLES)[1], SAMPLES.phi)
            shift = (z0 - SAMPLES.z_hyp).mean(1, keepdims=True)
            moved = SAMPLES._replace(z_hyp=SAMPLES.z_hyp + shift)
            value_of_moved = loss_speed.jax_methods(moved)["Cholesky"]()[0]
            np.testing.assert_allclose(value, value_of_moved, rtol=1e-5)
            continue
        np.testing.assert_allclose(value, expected[0], rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(gradient, expected[1], atol=1e-3, err_msg=name)


def test_ours_agree():
    _check(loss_speed.jax_methods(SAMPLES))


def test_torch_agrees():
    pytest.importorskip("torch")
    _check(loss_speed.torch_methods(SAMPLES))


def test_the_generic_solver_finds_the_exact_minimum():
    B_xy, B_z = loss_speed.rotated(SAMPLES)
    one = SAMPLES.z_hyp[0], SAMPLES.phi[0], B_xy[0], B_z[0], SAMPLES.w[0]
    cost, gap = loss_speed.MINIMUM(*one)
    found, _, _ = loss_speed.solve_exactly(*(np.asarray(x, np.float64) for x in one))
    assert cost - gap - 1e-3 <= found <= cost + 1e-3


def test_memory_rows_tell_the_two_forms_apart():
    by_gram, plain = (
        loss_speed.temporary_bytes(name, 16, 128) for name in ("gram", "Cholesky")
    )
    assert by_gram < plain
