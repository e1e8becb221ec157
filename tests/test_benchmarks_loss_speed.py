"""The methods that are timed compute the same loss and the same gradient."""

import numpy as np
import pytest

from benchmarks import loss_speed

SAMPLES = loss_speed.make_samples(3, atoms=64)


@pytest.fixture(scope="module")
def expected():
    return loss_speed.jax_methods(SAMPLES)["Cholesky"]()


@pytest.mark.parametrize("library", [loss_speed.jax_methods, loss_speed.torch_methods])
def test_all_methods_agree(expected, library):
    if library is loss_speed.torch_methods:
        pytest.importorskip("torch")
    for name, method in library(SAMPLES).items():
        value, gradient = (np.asarray(x) for x in method())
        np.testing.assert_allclose(value, expected[0], rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(gradient, expected[1], atol=1e-3, err_msg=name)


def test_memory_rows_tell_the_two_forms_apart():
    by_gram, plain = (
        loss_speed.temporary_bytes(name, 16, 128) for name in ("gram", "Cholesky")
    )
    assert by_gram < plain
