"""pose_jax/conv.py and resnet.py: layout, padding, statistics, names."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec
from jax.test_util import check_grads

from pose_jax import conv
from pose_jax.conv import (
    BatchNorm,
    Conv,
    UpsampleConv,
    conv2d,
    max_pool_3x3,
    product,
    relu,
    upsample_conv2d,
)
from pose_jax.resnet import STAGE_SIZES, ResNet, scaled_width, torchvision_key

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# torchvision.models.resnetN: all parameters, and the classifier's inputs.
TORCHVISION = {
    18: (11_689_512, 512),
    34: (21_797_672, 512),
    50: (25_557_032, 2048),
    101: (44_549_160, 2048),
    152: (60_192_808, 2048),
}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def reference_conv(x, kernel, stride, padding):
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=DIMENSIONS
    )


def reference_upsample(x, kernel):
    flipped = kernel[::-1, ::-1]
    return lax.conv_transpose(
        x, flipped, (2, 2), [(2, 2), (2, 2)], dimension_numbers=DIMENSIONS
    )


def assert_same_with_gradients(f, g, *args):
    def both(h, weight, *args):
        value, pull = jax.vjp(h, *args)
        return value, pull(weight)

    weight = normal(7, *jax.eval_shape(g, *args).shape)
    ours = jax.jit(partial(both, f))(weight, *args)
    theirs = jax.jit(partial(both, g))(weight, *args)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale)


def variables_of(net, size=64, **kwargs):
    x = jnp.zeros((1, size, size, 3))
    init = partial(net.init, train=False, **kwargs)
    return jax.eval_shape(init, jax.random.key(0), x)


def filled(shapes):
    """Values for a tree of shapes, without compiling an initialisation."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        if path[-1].key == "kernel":
            fan_out = np.prod(leaf.shape[:2]) * leaf.shape[-1]
            spread = np.sqrt(2 / fan_out)
            return jnp.asarray(spread * rng.standard_normal(leaf.shape, np.float32))
        fill = jnp.ones if path[-1].key in ("scale", "var") else jnp.zeros
        return fill(leaf.shape, leaf.dtype)

    return jax.tree.map_with_path(value, shapes)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        (9, 3, 1, 1),
        (8, 3, 2, 1),
        (14, 7, 2, 3),
        (6, 1, 1, 0),
        (6, 1, 2, 0),
        (2, 3, 1, 1),
        (2, 3, 2, 1),
        (1, 3, 1, 1),
        (4, 7, 2, 3),
    ],
)
def test_conv2d_equals_xla_with_gradients(size, kernel, stride, padding):
    assert_same_with_gradients(
        partial(conv2d, stride=stride, padding=padding),
        partial(reference_conv, stride=stride, padding=padding),
        normal(0, 2, size, size, 3),
        normal(1, kernel, kernel, 3, 5),
    )


@pytest.mark.parametrize(
    ("batch", "channels", "halved"), [(4, 32, True), (3, 32, False), (4, 16, False)]
)
def test_gradients_by_halves_of_the_batch_are_the_same(
    batch, channels, halved, monkeypatch
):
    """Taken where cores are idle, the batch is even and the channels are many."""
    x, kernel = normal(0, batch, 6, 6, channels), normal(1, 3, 3, channels, 32)
    counts = []
    for idle in (0, 1):
        cores = jax.local_device_count() + idle
        monkeypatch.setattr(conv, "usable_cores", lambda cores=cores: cores)
        made = partial(conv2d, stride=2, padding=1)  # traced anew
        pull = jax.vjp(made, x, kernel)[1]
        traced = str(jax.make_jaxpr(pull)(made(x, kernel)))
        counts.append(traced.count("conv_general_dilated["))
    assert counts[1] == counts[0] * (2 if halved else 1)
    expected = partial(reference_conv, stride=2, padding=1)
    assert_same_with_gradients(made, expected, x, kernel)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("channels", [(3, 5), (5, 3)])
def test_upsample_equals_transposed_convolution_with_gradients(shape, channels):
    """More channels in than out have a weight gradient of their own."""
    x, kernel = normal(0, 2, *shape, channels[0]), normal(1, 4, 4, *channels)
    assert_same_with_gradients(upsample_conv2d, reference_upsample, x, kernel)


@pytest.mark.parametrize("channels", [(3, 5), (5, 3)])
def test_product_has_the_gradients_of_a_product(channels):
    x, kernel = normal(0, 11, channels[0]), normal(1, *channels)
    assert_same_with_gradients(product, jnp.matmul, x, kernel)


def test_upsample_follows_the_scatter_definition():
    """``y[2 i - 1 + k] += x[i] kernel[k]`` on both axes, as torch defines it."""
    x, kernel = np.asarray(normal(0, 1, 3, 2, 2)), np.asarray(normal(1, 4, 4, 2, 3))
    expected = np.zeros((1, 8, 6, 3))
    for i, j, a, b in np.ndindex(3, 2, 4, 4):
        expected[:, 2 * i + a, 2 * j + b] += x[:, i, j] @ kernel[a, b]
    result = upsample_conv2d(jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(result, expected[:, 1:-1, 1:-1], atol=1e-5)


def test_gradients_of_both_convolutions():
    x = normal(0, 1, 2, 2, 2)
    f = jax.jit(partial(conv2d, padding=1))
    check_grads(f, (x, normal(1, 3, 3, 2, 2)), order=1, modes=["rev"])
    g = jax.jit(upsample_conv2d)
    check_grads(g, (x, normal(1, 4, 4, 2, 2)), order=1, modes=["rev"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_is_a_maximum_with_its_gradient_and_passes_on_what_is_no_number(dtype):
    x = jnp.array([-2.0, -0.0, 0.0, 3.0, -jnp.inf, jnp.inf, jnp.nan], dtype)
    assert relu(x).dtype == dtype
    expected = [0.0, 0.0, 0.0, 3.0, 0.0, np.inf, np.nan]
    np.testing.assert_array_equal(relu(x).astype(jnp.float32), expected)
    slopes = jax.vmap(jax.grad(relu))(x[:-1]).astype(jnp.float32)
    np.testing.assert_array_equal(slopes, [0.0, 0.0, 0.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize("size", [6, 7])
def test_max_pool_equals_reduce_window_with_gradient(size):
    def reference(x, _):
        pads = ((0, 0), (1, 1), (1, 1), (0, 0))
        window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
        return lax.reduce_window(x, -np.inf, lax.max, window, strides, pads)

    x = normal(0, 2, size, size, 3)
    assert_same_with_gradients(lambda x, _: max_pool_3x3(x), reference, x, jnp.ones(1))


@pytest.mark.parametrize("layers", TORCHVISION)
def test_parameter_count_is_torchvisions(layers):
    total, features = TORCHVISION[layers]
    params = variables_of(ResNet(layers))["params"]
    assert count(params) == total - 1000 * (features + 1)


def test_names_are_torchvisions():
    shapes = {
        torchvision_key(tuple(key.key for key in path)): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(variables_of(ResNet(50)))
    }
    assert shapes["conv1.weight"] == (7, 7, 3, 64)
    assert shapes["layer3.5.conv2.weight"] == (3, 3, 256, 256)
    assert shapes["layer4.0.downsample.0.weight"] == (1, 1, 1024, 2048)
    assert shapes["layer4.0.downsample.1.running_var"] == (2048,)
    assert shapes["layer1.2.bn3.bias"] == (256,)
    # 53 convolutions and 53 norms of two parameters and two statistics.
    assert len(shapes) == 53 * 5
    assert "layer1.1.downsample.0.weight" not in shapes


@pytest.mark.parametrize("layers", [18, 50])
@pytest.mark.parametrize(("stem", "stride"), [("imagenet", 32), ("small", 16)])
def test_feature_map_shape(layers, stem, stride):
    net = ResNet(layers, width=0.25, stem=stem)
    x = jnp.zeros((2, 64, 64, 3))
    shape = jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, train=False)[0], x
    ).shape
    channels = 128 * (4 if layers == 50 else 1)
    assert shape == (2, 64 // stride, 64 // stride, channels)


def test_first_layers_follow_the_padding_of_torchvision():
    """Stem and first block of ResNet-18 recomputed with explicit convolutions."""
    net = ResNet(10, width=0.125)
    x = normal(0, 2, 32, 32, 3)
    variables = filled(variables_of(net, 32))
    run = partial(net.apply, capture_intermediates=True, mutable=["intermediates"])
    seen = jax.jit(partial(run, train=False))(variables, x)[1]["intermediates"]
    p = variables["params"]
    shrink = 1.0 / np.sqrt(1.0 + 1e-5)  # the norms at their initial statistics
    y = jnp.maximum(reference_conv(x, p["conv1"]["kernel"], 2, 3) * shrink, 0.0)
    y = max_pool_3x3(y)
    block = p["layer1_0"]
    z = reference_conv(y, block["conv1"]["kernel"], 1, 1) * shrink
    z = reference_conv(jnp.maximum(z, 0.0), block["conv2"]["kernel"], 1, 1) * shrink
    expected = jnp.maximum(y + z, 0.0)
    np.testing.assert_allclose(seen["layer1_0"]["__call__"][0], expected, atol=1e-5)


def test_stride_of_a_bottleneck_is_in_its_3x3():
    net = ResNet(50, width=0.125)
    x = normal(0, 1, 64, 64, 3)
    _, state = jax.eval_shape(
        lambda x: net.init_with_output(
            jax.random.key(0),
            x,
            train=False,
            capture_intermediates=True,
            mutable=["params", "batch_stats", "intermediates"],
        ),
        x,
    )
    block = state["intermediates"]["layer2_0"]
    assert block["conv1"]["__call__"][0].shape[1] == 16
    assert block["conv2"]["__call__"][0].shape[1] == 8


def test_scaled_width():
    assert [scaled_width(64, w) for w in (1.0, 0.5, 0.25, 0.01)] == [64, 32, 16, 8]


@pytest.mark.parametrize("kwargs", [{"resnet_layers": 20}, {"stem": "tiny"}])
def test_unknown_option_names_the_choices(kwargs):
    with pytest.raises(ValueError, match="is not one of"):
        variables_of(ResNet(**{"resnet_layers": 10, **kwargs}))
    assert 10 in STAGE_SIZES


def test_batch_norm_normalises_and_tracks():
    x = 3.0 * normal(0, 4, 5, 5, 2) + 7.0
    norm = BatchNorm(train=True)
    variables = norm.init(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0.0)
    y, updated = norm.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1.0, atol=1e-4)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    unbiased = x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * unbiased, rtol=1e-5)
    frozen = BatchNorm(train=False).apply({**variables, **updated}, x)
    root = jnp.sqrt(stats["var"] + 1e-5).reshape(1, 1, 1, -1)
    expected = (x - stats["mean"].reshape(1, 1, 1, -1)) / root
    np.testing.assert_allclose(frozen, expected, rtol=1e-4, atol=1e-4)


def test_batch_norm_over_devices_equals_one():
    x = normal(0, 16, 3, 3, 2) + jnp.arange(16.0).reshape(-1, 1, 1, 1)
    weight = normal(1, 16, 3, 3, 2)
    variables = BatchNorm(train=True).init(jax.random.key(0), x)

    def loss(scale, x, weight, axis_name):
        norm = BatchNorm(train=True, axis_name=axis_name)
        params = {**variables["params"], "scale": scale}
        y, state = norm.apply(
            {**variables, "params": params}, x, mutable=["batch_stats"]
        )
        return (y * weight).sum(), (y, state["batch_stats"])

    def per_device(scale, x, weight):
        grads, (y, state) = jax.grad(loss, argnums=1, has_aux=True)(
            scale, x, weight, "data"
        )
        return y, state, grads

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(Spec(), Spec("data"), Spec("data")),
        out_specs=(Spec("data"), Spec(), Spec("data")),
    )
    scale = jnp.asarray([1.5, 0.5])
    y, state, grads = jax.jit(mapped)(scale, x, weight)
    expected_grads, (expected_y, expected_state) = jax.grad(
        loss, argnums=1, has_aux=True
    )(scale, x, weight, None)
    np.testing.assert_allclose(y, expected_y, atol=2e-5)
    np.testing.assert_allclose(grads, expected_grads, atol=2e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), state, expected_state)


def test_bfloat16_keeps_float32_parameters_and_statistics():
    x = normal(0, 1, 16, 16, 3).astype(jnp.bfloat16)
    net = ResNet(10, width=0.125, stem="small")

    def run(x):
        variables = net.init(jax.random.key(0), x, train=False)
        return variables, net.apply(variables, x, train=True, mutable=["batch_stats"])

    variables, (y, state) = jax.eval_shape(run, x)
    assert y.dtype == jnp.bfloat16
    leaves = jax.tree.leaves((variables, state))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_modules_hold_the_kernel_and_bias_they_document():
    x = jnp.ones((1, 4, 4, 2))
    conv = Conv(3, 1, use_bias=True)
    variables = conv.init(jax.random.key(0), x)
    assert variables["params"]["bias"].shape == (3,)
    shifted = {"params": {**variables["params"], "bias": jnp.asarray([1.0, 2.0, 3.0])}}
    difference = conv.apply(shifted, x) - conv.apply(variables, x)
    np.testing.assert_allclose(difference[0, 0, 0], [1.0, 2.0, 3.0], rtol=1e-6)
    up = UpsampleConv(3).init(jax.random.key(0), x)
    assert up["params"]["kernel"].shape == (4, 4, 2, 3)
