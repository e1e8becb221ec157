"""The fast layout gives the losses and gradients of the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses.reprojection import reprojection_loss
from nrsfm_jax import fast as columns
from nrsfm_jax import model
from nrsfm_jax.loss import em_difference

SIZES = (24, 12, 5)


def _batch(count=40, joints=7):
    rng = np.random.default_rng(0)
    W = rng.normal(size=(count, joints, 2)).astype(np.float32)
    W[0] = 0  # no landmark at all: the camera's blocks are 0
    labelled = rng.uniform(size=(count, joints)) > 0.2
    em_depth = rng.normal(size=(count, joints)).astype(np.float32)
    return jnp.asarray(W), jnp.asarray(labelled), jnp.asarray(em_depth)


def _params(sizes, joints=7):
    key = jax.random.key(3)
    params = model.init(key, num_landmarks=joints, dictionary_sizes=sizes)
    # Thresholds away from 0, so that they matter; mixed signs.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [
        x + 0.1 * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


@pytest.mark.parametrize("sizes", [SIZES, (9,)])
def test_losses_and_gradients_are_those_of_the_definition(sizes):
    batch, params = _batch(), _params(sizes)
    weights = jax.random.uniform(jax.random.key(1), (2, len(batch[0])))
    eq_4 = functools.partial(reprojection_loss, sparsity_weight=0.03)

    def one(params, W, labelled, em_depth):
        phi, M, S = model.reconstruct(params, W)
        _, phi = model.unit_norm_gauge(params["dictionaries"][0], phi)
        return eq_4(S, M, W, phi, labelled=labelled), em_difference(S, M, em_depth)

    def plain(params):
        return jax.vmap(one, in_axes=(None, 0, 0, 0))(params, *batch)

    def fast(params):
        return columns.sample_losses(params, *batch, sparsity_weight=0.03)

    def both(losses_of):
        """Gradient of a weighted sum, and the losses."""

        def total(params):
            losses = losses_of(params)
            return jnp.sum(jnp.stack(losses) * weights), losses

        return jax.jit(jax.grad(total, has_aux=True))(params)

    (mine, losses), (theirs, expected_losses) = both(fast), both(plain)
    for a, b in zip(losses, expected_losses, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for (path, g), expected in zip(
        jax.tree_util.tree_leaves_with_path(mine), jax.tree.leaves(theirs), strict=True
    ):
        # The polar factor of a camera that is close to singular magnifies rounding.
        error = np.linalg.norm(g - expected) / max(np.linalg.norm(expected), 1e-12)
        assert error < 1e-5, jax.tree_util.keystr(path)
