"""EfficientNet-Lite0: its windows, its weights from a file, how they are trained."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from safetensors.numpy import save_file

from pose_jax import efficientnet
from pose_jax.conv import Depthwise, depthwise, pad_same
from pose_jax.efficientnet import EfficientNet, Stage, names_in_file
from pose_jax.model import IMAGENET_MEAN, PoseNet, normalise
from pose_jax.optimizer import PRETRAINED_RATE, make_optimizer
from pose_jax.pretrained import LITE_EPSILON, read_efficientnet, with_pretrained
from pose_jax.state import init_state

AXES = ("NHWC", "HWIO", "NHWC")


def windows_of_lax(x, taps, stride):
    """With TensorFlow's padding."""
    how = {"dimension_numbers": AXES, "feature_group_count": x.shape[-1]}
    kernel = taps[:, :, None]
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", **how)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_each_channel_has_its_window_and_its_gradient(size, stride):
    rng = np.random.default_rng(0)
    x, taps, slope = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 6, 8, 3), (size, size, 3), (2, 6 // stride, 8 // stride, 3))
    )

    def ours(x, taps):
        return depthwise(pad_same(x, size, stride), taps, stride=stride)

    def value_and_gradients(function):
        value, pull = jax.vjp(function, x, taps)
        return value, *pull(slope)

    found = jax.jit(lambda: value_and_gradients(ours))()
    wanted = value_and_gradients(lambda x, taps: windows_of_lax(x, taps, stride))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_windows_keep_the_dtype_of_the_picture():
    x = jnp.zeros((1, 4, 4, 2), jnp.bfloat16)
    y, _ = jax.eval_shape(
        lambda: Depthwise(3, 2).init_with_output(jax.random.key(0), x)
    )
    assert (y.shape, y.dtype) == ((1, 2, 2, 2), jnp.bfloat16)


@pytest.fixture
def small(monkeypatch):
    """A network of three blocks, with all that the whole one has."""
    stages = (Stage(3, 1, 1, 8, 1), Stage(5, 2, 6, 8, 2), Stage(3, 2, 2, 8, 1))
    monkeypatch.setattr(efficientnet, "STAGES", stages)


NORM = ("weight", "bias", "running_mean", "running_var")


def arrays_of(params, names):
    """Made-up weights of another program's network, and its norms."""
    rng, found = np.random.default_rng(0), {}
    flat = flax.traverse_util.flatten_dict(params)
    for place, (conv, norm) in names.items():
        [kernel] = [flat[*place, n] for n in ("kernel", "taps") if (*place, n) in flat]
        *window, count = kernel.shape
        inputs = window.pop() if len(window) == 3 else 1
        shape = (count, inputs, *window)
        found[f"{conv}.weight"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        low, high = np.array([[0.5, 1.5], [-0.2, 0.2], [-0.2, 0.2], [0.5, 1.5]]).T
        values = rng.uniform(low, high, (count, 4)).T
        found |= {f"{norm}.{n}": v for n, v in zip(NORM, values, strict=True)}
    return {name: array.astype(np.float32) for name, array in found.items()}


def their_features(pictures, arrays, names):
    """By XLA's convolutions, with norms of their own and EfficientNet's colours."""

    def layer(x, place, stride=1, padding="SAME", act=True):
        conv, norm = names[place]
        scale, bias, mean, var = (arrays[f"{norm}.{n}"] for n in NORM)
        kernel = arrays[f"{conv}.weight"].transpose(2, 3, 1, 0)
        groups = x.shape[-1] if place[-1] == "depthwise" else 1
        how = {"dimension_numbers": AXES, "feature_group_count": groups}
        x = lax.conv_general_dilated(x, kernel, (stride, stride), padding, **how)
        x = (np.asarray(x) - mean) / np.sqrt(var + LITE_EPSILON) * scale + bias
        return np.clip(x, 0, 6) if act else x

    # Around a student's picture is the mean colour.
    around = np.broadcast_to(255 * np.array(IMAGENET_MEAN, np.float32), (1, 33, 33, 3))
    x = np.array(around)
    x[:, :32, :32] = pictures
    x, number = layer((x - 127) / 128, ("stem",), 2, "VALID"), 0
    for stage in efficientnet.STAGES:
        for i in range(stage.count):
            block, y = f"block{number}", x
            if stage.expand > 1:
                y = layer(y, (block, "expand"))
            y = layer(y, (block, "depthwise"), 1 if i else stage.stride)
            y = layer(y, (block, "project"), act=False)
            x, number = (x + y if i else y), number + 1
    return x


@pytest.mark.parametrize("timm", [True, False])
def test_features_are_those_of_the_network_that_the_weights_are_of(
    timm, small, tmp_path
):
    net = EfficientNet()
    rng = np.random.default_rng(1)
    pictures = jnp.asarray(rng.integers(0, 256, (1, 32, 32, 3), np.uint8))
    init = jax.jit(net.init, static_argnames="train")
    variables = init(jax.random.key(0), normalise(pictures), train=False)
    params, names = variables["params"], names_in_file(timm=timm)
    arrays = arrays_of(params, names)
    unused = {"conv_head.weight": np.zeros((4, 4, 1, 1), np.float32)}
    path = tmp_path / "lite.safetensors"
    save_file(arrays | unused, path)
    variables["params"] = {**params, **read_efficientnet(path, params)}
    apply = jax.jit(net.apply, static_argnames="train")
    total, last = apply(variables, normalise(pictures), train=False)
    wanted = their_features(pictures, arrays, names)
    assert total.shape == (1, 8, 8, efficientnet.SUM_CHANNELS)
    assert last.shape == wanted.shape == (1, 4, 4, 8)
    np.testing.assert_allclose(last, wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted).max() > 0.3


def state_of(**fields):
    """The state before the first step, all zeros."""
    net = PoseNet(3, network="efficientnet", **fields)
    how = {"image_size": 32, "learning_rate": 0.0, "optimizer": "muon"}
    shapes = jax.eval_shape(lambda: init_state(net, jax.random.key(0), **how))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def test_a_students_backbone_is_read_and_its_file_checked(small, tmp_path):
    state, path = state_of(yaw_classes=4, num_depths=2), tmp_path / "a.npz"
    own = state.params["backbone"]
    arrays = arrays_of(own, names_in_file(timm=True))
    np.savez(path, **arrays)
    new = with_pretrained(state, path)
    assert new.params["head"] is state.params["head"]
    assert new.params["backbone"]["lateral1"] is own["lateral1"]
    assert float(jnp.abs(new.params["backbone"]["stem"]["kernel"]).min()) > 0
    arrays["blocks.1.0.bn3.bias"] = np.zeros(9, np.float32)
    del arrays["blocks.0.0.conv_dw.weight"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="does not fit this network") as error:
        with_pretrained(state, path)
    assert "missing: blocks.0.0.conv_dw.weight;" in str(error.value)
    assert "blocks.1.0.bn3.bias (9,), not (8,)" in str(error.value)


def test_without_weights_it_is_not_trained(small):
    with pytest.raises(ValueError, match=r"set config\.student\.pretrained"):
        with_pretrained(state_of(), "")


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_what_was_learned_before_moves_at_its_own_rate(name):
    params = {
        "backbone": {
            layer: {"kernel": jnp.ones((1, 1, 4, 4))} for layer in ("stem", "lateral1")
        },
        "head": {"final": {"kernel": jnp.ones((1, 1, 4, 4))}},
    }
    optimizer = make_optimizer(name)
    with jax.numpy_dtype_promotion("standard"):
        update, _ = optimizer.update(params, optimizer.init(params))
    backbone = update["backbone"]
    # Adam's first step is 1 everywhere.
    np.testing.assert_allclose(backbone["stem"]["kernel"], PRETRAINED_RATE, rtol=1e-4)
    np.testing.assert_allclose(update["head"]["final"]["kernel"], 1, rtol=1e-4)
    muon = not np.allclose(backbone["lateral1"]["kernel"], 1, rtol=1e-4)
    assert muon == (name == "muon")
