"""Folding batch norms leaves the predictions as they are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pose_jax import efficientnet
from pose_jax.fold import fold_batch_norms
from pose_jax.model import PoseNet
from pose_jax.resnet import STAGE_SIZES

SMALL = {
    "width": 0.125,
    "stem": "small",
    "heatmap_size": 8,
    "depth_bins": 4,
    "deconv_channels": 8,
    "num_deconv": 2,
}


def trained(net, images):
    """Variables with statistics and norms that are not those of the start."""
    shapes = jax.eval_shape(partial(net.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def value(path, leaf):
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:3])
            return jnp.asarray(
                rng.normal(size=leaf.shape) / np.sqrt(fan_in), jnp.float32
            )
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 2.0, leaf.shape), jnp.float32)
        return jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree.map_with_path(value, shapes)


@pytest.mark.parametrize("kind", [10, 50, "pyramid", "efficientnet"])
def test_predictions_are_the_same_without_norms(kind, monkeypatch):
    # One block of each stage has all that there is to fold.
    layers = kind if isinstance(kind, int) else 10
    monkeypatch.setitem(STAGE_SIZES, layers, (1, 1, 1, 1))
    monkeypatch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])
    net = PoseNet(3, resnet_layers=layers, **SMALL, axis_name="data")
    if kind != layers:
        net = net.clone(network=kind, yaw_classes=4)
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.integers(0, 256, (2, 32, 32, 3), np.uint8))
    variables = trained(net, images)
    folded, weights = fold_batch_norms(net, variables)
    assert set(weights) == {"params"}
    names = {k.key for path, _ in jax.tree.leaves_with_path(weights) for k in path}
    assert not {name for name in names if name.startswith("bn")}

    def run(net):
        apply = partial(net.apply, train=False, method=PoseNet.pose_and_spread)
        return jax.jit(apply)

    for ours, theirs in zip(
        run(folded)(weights, images), run(net)(variables, images), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert float(jnp.abs(theirs).max()) > 0.01


def test_kernels_take_the_dtype_of_the_network():
    net = PoseNet(3, **SMALL, resnet_layers=10, dtype=jnp.bfloat16)
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    folded, weights = fold_batch_norms(net, trained(net, images))
    kernel = weights["params"]["backbone"]["conv1"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    assert weights["params"]["backbone"]["conv1"]["bias"].dtype == jnp.float32
    pose = jax.eval_shape(partial(folded.apply, train=False), weights, images)
    assert pose.dtype == jnp.float32
