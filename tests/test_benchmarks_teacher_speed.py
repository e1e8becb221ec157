"""The peer computes what we compute, and the arithmetic of a step is counted right."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import common, teacher_speed, teacher_speed_peers
from nrsfm_jax import fast, model

BATCH = teacher_speed.make_batch(8)
OBJECTIVE = teacher_speed.objective(8)
SIZES = (12, 8, 4)


@pytest.fixture(scope="module")
def params():
    return model.init(
        jax.random.key(0), num_landmarks=teacher_speed.LANDMARKS, dictionary_sizes=SIZES
    )


@pytest.fixture(scope="module")
def losses(params):
    """Ours before a step of Adam and after it."""
    batch = [jnp.asarray(BATCH[name]) for name in ("W", "labelled", "em_depth")]
    weight = OBJECTIVE.sparsity_weight

    def loss(params):
        terms = fast.sample_losses(params, *batch, sparsity_weight=weight)
        return jnp.mean(sum(terms))

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    # The first step of Adam is rate * sign, of the entries that have a gradient.
    moved = jax.tree.map(
        lambda x, g: x - 1e-3 * g / (jnp.abs(g) + 1e-8), params, gradients
    )
    return float(value), float(jax.jit(loss)(moved))


OPTIONS = {"sparsity_weight": OBJECTIVE.sparsity_weight, "rate": 1e-3}


def _check(step, losses):
    np.testing.assert_allclose([float(step()), float(step())], losses, rtol=1e-4)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="no PyTorch here")
def test_pytorch_takes_the_same_step(params, losses):
    step = teacher_speed_peers.torch_step(params, BATCH, compiled=False, **OPTIONS)
    _check(step, losses)


def test_arithmetic_of_a_step_by_hand(monkeypatch):
    monkeypatch.setattr(teacher_speed, "dictionary_sizes", lambda: (4, 2))
    monkeypatch.setattr(teacher_speed, "LANDMARKS", 2)
    # D_1 (6, 4) as (2, 12): 2 views x 24 products; D_2 (4, 2): 8, on six cells.
    camera = 2 * (2 * 24 * 2 + 6 * 8 * 3)
    code = 2 * (2 * (24 + 8)) * 3
    assert teacher_speed.step_flops(5) == 5 * (camera + code)


def test_all_methods_are_measured_in_every_round():
    calls = []
    timed = common.in_turns(
        {name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3
    )
    assert timed["a"].shape == timed["b"].shape == (2, 3)
    assert sorted(calls) == list("aaabbb")


def test_a_method_that_fails_is_left_out_with_its_reason(capsys):
    def broken():
        raise RuntimeError("no compiler\nmore")

    assert list(common.working({"good": int, "bad": broken})) == ["good"]
    assert "bad is left out: no compiler" in capsys.readouterr().out
