"""The peer computes what we compute; arithmetic by hand; a dry run of the whole."""

import functools
import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import student_speed, student_speed_peers

SPEC = {
    "net": "tiny",
    "resnet_layers": 0,
    "dtype": "float32",
    "batch": 4,
    "device": "cpu",
    "threads": 1,
    "repeat": 1,
    "keep_freed_memory": "none",
}
torch_only = pytest.mark.skipif(
    not importlib.util.find_spec("torch"), reason="no PyTorch here"
)


def made_up(net, images):
    """Variables without compiling an initialisation; heat that is not even."""
    shapes = jax.eval_shape(
        functools.partial(net.init, train=False), jax.random.key(0), images
    )
    rng = np.random.default_rng(0)

    def value(path, leaf):
        if path[-1].key == "kernel":
            spread = np.sqrt(2 / np.prod(leaf.shape[:3]))
            return jnp.asarray(spread * rng.normal(size=leaf.shape), jnp.float32)
        fill = jnp.ones if path[-1].key in ("scale", "var") else jnp.zeros
        return fill(leaf.shape, leaf.dtype)

    return jax.tree.map_with_path(value, shapes)


@torch_only
@pytest.mark.parametrize(("resnet_layers", "gradients"), [(10, True), (50, False)])
def test_pytorch_has_the_same_poses_statistics_and_gradients(resnet_layers, gradients):
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    net, images, target = student_speed.make_case(
        SPEC | {"resnet_layers": resnet_layers}
    )
    net, images = net.clone(axis_name=None), jnp.asarray(images)
    variables = made_up(net, images)
    theirs = student_speed_peers.load_variables(
        student_speed_peers.make_net(net), variables
    )

    def loss(params):
        pose, new = net.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.abs(pose - target).mean(), (pose, new)

    run = jax.value_and_grad(loss, has_aux=True) if gradients else loss
    result = jax.jit(run)(variables["params"])
    pose, new = (result[0] if gradients else result)[1]
    theirs.train()
    found = theirs(torch.tensor(np.array(images.transpose(0, 3, 1, 2))))
    assert float(jnp.abs(pose).max()) > 0.05
    np.testing.assert_allclose(pose, found.detach(), atol=1e-4)
    state = theirs.state_dict()
    for name, value in student_speed_peers.torch_arrays(new).items():
        np.testing.assert_allclose(value, state[name], rtol=1e-3, atol=1e-5)
    if not gradients:
        return
    (found - torch.tensor(target)).abs().mean().backward()
    ours = student_speed_peers.torch_arrays({"params": result[1]})
    for name, parameter in theirs.named_parameters():
        difference = np.linalg.norm(ours[name] - parameter.grad.numpy())
        assert difference < 1e-3 * np.linalg.norm(ours[name]) + 1e-7, name


def test_arithmetic_of_one_layer_by_hand():
    def layers(x, k, w):
        y = jax.lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.reshape(-1, 5) @ w

    shapes = [(2, 8, 8, 3), (3, 3, 3, 5), (5, 7)]
    jaxpr = jax.make_jaxpr(layers)(*map(jnp.zeros, shapes)).jaxpr
    pixels = 2 * 4 * 4
    counts = list(student_speed._flops(jaxpr))
    assert counts == [2 * pixels * 9 * 3 * 5, 2 * pixels * 5 * 7]


def test_arithmetic_of_the_papers_network():
    """Multiplications of ResNet-50 at 256 pixels, three deconvolutions and 1x1."""
    spec = SPEC | {"net": "paper", "batch": 1}
    total, stem = student_speed.forward_flops(spec)
    assert stem == 2 * 128 * 128 * 49 * 3 * 64
    backbone = 2 * 5.338e9
    head = 2 * 16 * 256 * (64 * 2048 + 256 * 256 + 1024 * 256)
    final = 2 * 4096 * 256 * 17 * 64
    assert total == pytest.approx(backbone + head + final, rel=0.01)
    assert student_speed.task_flops(spec | {"task": "train"}) == 3 * total - stem


def test_measurements_tell_the_clock_from_the_processor():
    import time

    found = student_speed.measured(functools.partial(time.sleep, 0.05), 2)
    assert found["wall"] >= 0.05
    assert found["cpu"] < 0.04


@torch_only
@pytest.mark.parametrize("task", ["train", "predict"])
def test_pytorch_can_be_called(task):
    importlib.import_module("torch").set_num_threads(1)
    call = student_speed.torch_call(SPEC | {"method": "eager", "task": task})
    assert np.isfinite(call()).all()


# Prediction alone: the training step takes a minute to compile on a busy core.
@pytest.mark.slow
def test_dry_run_of_all_of_it(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    arguments = ["--net=tiny", "--batch=2", "--rounds=2", "--device=cpu"]
    arguments += ["--tasks=predict", "--methods=ours;eager", f"--json={file}"]
    monkeypatch.setattr(sys, "argv", ["student_speed", *arguments])
    student_speed.main()
    rows = json.loads(file.read_text())
    found = {(row["case"], row["method"], row["metric"]) for row in rows}
    for metric in ("speed", "share of peak", "memory", "CPU time"):
        assert ("predict, batch 2", "ours", metric) in found
    assert all(row["value"] > 0 for row in rows if row["metric"] == "speed")
    assert "GFLOP/s" in capsys.readouterr().out
