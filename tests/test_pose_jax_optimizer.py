"""Muon: orthogonal steps for kernels, Adam for the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pose_jax.optimizer import UPDATE_SIZE, make_optimizer


def gradients(seed):
    rng = np.random.default_rng(seed)

    def of(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "backbone": {"conv1": {"kernel": of(3, 3, 4, 8)}, "bn1": {"scale": of(8)}},
        "head": {"final": {"kernel": of(1, 1, 8, 5), "bias": of(5)}},
    }


def updates(name, count=3):
    optimizer, found = make_optimizer(name), []
    state = optimizer.init(gradients(0))
    with jax.numpy_dtype_promotion("standard"):
        for seed in range(count):
            update, state = optimizer.update(gradients(seed), state)
            found.append(update)
    return found


def test_kernels_move_by_an_orthogonal_matrix_of_adams_size():
    for update in updates("muon"):
        matrix = np.asarray(update["backbone"]["conv1"]["kernel"]).reshape(36, 8)
        values = np.linalg.svd(matrix, compute_uv=False) / (UPDATE_SIZE * 6)
        assert (values > 0.5).all()
        assert (values < 1.3).all()
        # 8 singular values about 1 among 36 x 8 entries of a matrix times 6.
        assert np.sqrt(np.mean(matrix**2)) == pytest.approx(UPDATE_SIZE, rel=0.25)


def test_the_first_step_follows_the_polar_factor_of_the_gradient():
    matrix = np.asarray(gradients(0)["backbone"]["conv1"]["kernel"]).reshape(36, 8)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    update = updates("muon", 1)[0]["backbone"]["conv1"]["kernel"]
    cosine = np.sum(np.asarray(update).reshape(36, 8) * (left @ right))
    cosine /= np.linalg.norm(update) * np.sqrt(8)
    assert cosine > 0.97


def test_output_layers_and_norms_are_adams():
    for ours, adams in zip(updates("muon"), updates("adam"), strict=True):
        ours["backbone"]["conv1"] = adams["backbone"]["conv1"] = {}
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(adams), strict=True):
            np.testing.assert_array_equal(a, b)


def test_adam_is_that_of_optax():
    theirs = optax.scale_by_adam()
    state = theirs.init(gradients(0))
    with jax.numpy_dtype_promotion("standard"):
        wanted, _ = theirs.update(gradients(0), state)
    found = updates("adam", 1)[0]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found, wanted))


def test_an_unknown_name_is_told():
    with pytest.raises(ValueError, match=r"optimizer = 'sgd' is not one of"):
        make_optimizer("sgd")
