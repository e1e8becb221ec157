"""pose_jax/model.py: sizes, normalisation, and a step of training of the whole."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec

from pose_jax.model import PoseNet, normalise

SMALL = {
    "resnet_layers": 10,
    "width": 0.125,
    "stem": "small",
    "heatmap_size": 4,
    "depth_bins": 4,
    "deconv_channels": 8,
    "num_deconv": 1,
}


def pictures(seed, count, size):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 256, (count, size, size, 3), np.uint8))


def filled(shapes):
    """Values for a tree of shapes, without compiling an initialisation."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        if path[-1].key == "kernel":
            fan_out = np.prod(leaf.shape[:2]) * leaf.shape[-1]
            spread = 1e-3 if path[-2].key == "final" else np.sqrt(2 / fan_out)
            return jnp.asarray(spread * rng.standard_normal(leaf.shape, np.float32))
        fill = jnp.ones if path[-1].key in ("scale", "var") else jnp.zeros
        return fill(leaf.shape, leaf.dtype)

    return jax.tree.map_with_path(value, shapes)


def initialise(net, images):
    init = partial(net.init, train=False)
    return filled(jax.eval_shape(init, jax.random.key(0), images))


def test_normalise_by_hand():
    images = jnp.asarray([0, 255, 51], jnp.uint8).reshape(1, 1, 1, 3)
    expected = [-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(normalise(images)[0, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "layers", "stem", "num_deconv", "heatmap"),
    [(256, 50, "imagenet", 3, 64), (64, 10, "small", 2, 16), (96, 18, "small", 1, 12)],
)
def test_output_shape(size, layers, stem, num_deconv, heatmap):
    net = PoseNet(
        17, resnet_layers=layers, stem=stem, num_deconv=num_deconv, heatmap_size=heatmap
    )
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
    pose, variables = jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, train=False), images
    )
    assert pose.shape == (2, 17, 3)
    assert set(variables) == {"params", "batch_stats"}


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (64, {"heatmap_size": 16}, "set heatmap_size=8"),
        (64, {"num_deconv": 2}, "set heatmap_size=16"),
        (72, {}, "multiple of 16"),
        (32, {"stem": "tiny"}, "is not one of"),
        (32, {"resnet_layers": 12}, "is not one of"),
        (32, {"network": "unet"}, "is not one of"),
        (40, {"network": "pyramid"}, "multiple of 16"),
        (48, {"network": "efficientnet"}, "multiple of 32"),
        (32, {"yaw_classes": 8}, "need network='pyramid'"),
        (32, {"num_depths": 2}, "need network='pyramid'"),
    ],
)
def test_sizes_that_do_not_fit_name_the_remedy(size, options, message):
    net = PoseNet(3, **{**SMALL, **options})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            partial(net.init, train=False), jax.random.key(0), pictures(0, 1, size)
        )


def test_oblong_pictures_are_refused():
    images = jnp.zeros((1, 32, 64, 3), jnp.uint8)
    with pytest.raises(ValueError, match="32 x 64"):
        PoseNet(3, **SMALL).init(jax.random.key(0), images, train=False)


def test_bfloat16_network_has_a_float32_pose():
    net = PoseNet(3, **SMALL, dtype=jnp.bfloat16)
    run = partial(net.init_with_output, train=False, method=net.pose_and_spread)
    (pose, spread), _ = jax.eval_shape(run, jax.random.key(0), pictures(0, 2, 32))
    assert pose.dtype == spread.dtype == jnp.float32


def training_step(net, variables, images, target, learning_rate):
    def loss(params):
        pose, state = net.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.abs(pose - target).mean(), state

    (value, state), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    if net.axis_name is not None:
        value, grads = jax.lax.pmean((value, grads), net.axis_name)
    params = jax.tree.map(
        lambda p, g: p - learning_rate * g, variables["params"], grads
    )
    return {"params": params, **state}, value, grads


IMAGES = pictures(0, 4, 32)
TARGET = jnp.asarray(np.random.default_rng(1).uniform(-0.5, 0.5, (4, 2, 3)), "float32")


@cache  # one program for both tests
def compiled(dtype):
    net = PoseNet(2, **SMALL, dtype=dtype)
    return initialise(net, IMAGES), jax.jit(partial(training_step, net))


def loss_curve(dtype):
    """150 steps on four pictures."""
    (variables, step), values = compiled(dtype), []
    for _ in range(150):
        variables, value, _ = step(variables, IMAGES, TARGET, 1.0)
        values.append(value)
    return np.stack(values)


def test_the_network_learns_a_few_pictures_in_either_precision():
    """The curve of bfloat16 stays within 15 per cent of that of float32."""
    losses = loss_curve(jnp.float32)
    assert losses[-10:].mean() < 0.3 * losses[0]
    half = loss_curve(jnp.bfloat16)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half[:5], losses[:5], rtol=0.05)
    smooth, smooth_half = (
        np.convolve(curve, np.ones(30) / 30, "valid") for curve in (losses, half)
    )
    np.testing.assert_allclose(smooth_half, smooth, rtol=0.15, atol=0.01)


def test_a_step_sharded_over_devices_equals_one():
    """Synchronised statistics: loss, gradients and statistics of the whole batch."""
    variables, step = compiled(jnp.float32)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        partial(training_step, PoseNet(2, **SMALL, axis_name="data")),
        mesh=mesh,
        in_specs=(Spec(), Spec("data"), Spec("data"), Spec()),
        out_specs=Spec(),
        check_vma=False,
    )
    ours = jax.jit(mapped)(variables, IMAGES, TARGET, 0.1)
    theirs = step(variables, IMAGES, TARGET, 0.1)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        atol = 2e-4 * float(jnp.abs(b).max()) + 1e-7
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)
