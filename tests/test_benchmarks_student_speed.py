"""The peer computes what we compute; arithmetic by hand; a dry run of the whole."""

import functools
import importlib.util
import json
import sys

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import student_speed
from pose_jax.resnet import STAGE_SIZES, torchvision_key

SPEC = {"net": "tiny", "dtype": "float32", "batch": 4, "device": "cpu", "threads": 1}
if importlib.util.find_spec("torch"):
    from benchmarks import student_speed_peers
torch_only = pytest.mark.skipif(
    not importlib.util.find_spec("torch"), reason="no PyTorch here"
)


def load_variables(module, variables):
    """``module`` with our weights and statistics."""
    torch = importlib.import_module("torch")
    state = {
        name: torch.tensor(np.array(value))
        for name, value in torch_arrays(variables).items()
    }
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [name for name in missing if "num_batches_tracked" not in name]
    if missing or unexpected:
        raise ValueError(f"the networks differ: {missing}, {unexpected}")
    return module


def torch_arrays(variables):
    """Our variables under PyTorch's names, axes in PyTorch's order."""
    found = {}
    for path, value in flax.traverse_util.flatten_dict(dict(variables)).items():
        collection, part, *rest = path
        if "error_bar" in rest:  # which the peer has not
            continue
        name = torchvision_key((collection, *rest))
        if part == "head" and not name.startswith("final"):
            layer, leaf = name.split(".")  # deconv1.weight, bn1.running_mean
            index = 3 * (int(layer[-1]) - 1) + layer.startswith("bn")
            name = f"head.{index}.{leaf}"
        array = np.asarray(value)
        if path[-1] == "kernel":
            # A transposed convolution keeps its inputs first.
            axes = (2, 3, 0, 1) if "deconv" in path[-2] else (3, 2, 0, 1)
            array = array.transpose(axes)
        found[name] = array
    return found


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
@pytest.mark.parametrize("resnet_layers", [10, 51])
def test_pytorch_has_the_same_poses_statistics_and_gradients(
    resnet_layers, monkeypatch
):
    """In float64, where no ReLU opens by rounding on one side alone."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    # Bottlenecks, but few of them.
    monkeypatch.setitem(STAGE_SIZES, 51, (1, 1, 1, 1))
    net, images, target = student_speed.make_case(SPEC)
    net, images = (
        net.clone(resnet_layers=resnet_layers, axis_name=None),
        jnp.asarray(images),
    )
    variables = made_up(net, images)
    theirs = load_variables(student_speed_peers.Pose(net), variables).double()
    theirs.mean, theirs.std = torch.zeros_like(theirs.mean), torch.ones(()) / 255
    net = net.clone(dtype=np.float64)
    # Both normalise in the same way, which in float32 they do not to the last bit.
    monkeypatch.setattr("pose_jax.model.normalise", lambda x: x.astype(np.float64))

    def loss(params, batch_stats):
        pose, new = net.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.abs(pose - target).mean(), (pose, new)

    with jax.enable_x64(True):
        doubled = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, (pose, new)), gradients = run(doubled["params"], doubled["batch_stats"])
    theirs.train()
    found = theirs(torch.tensor(np.array(images.transpose(0, 3, 1, 2))))
    (found - torch.tensor(target)).abs().mean().backward()
    assert float(jnp.abs(pose).max()) > 0.05
    np.testing.assert_allclose(pose, found.detach(), atol=1e-5)
    state = theirs.state_dict()
    for name, value in torch_arrays(new).items():
        np.testing.assert_allclose(value, state[name], rtol=1e-6, atol=1e-8)
    ours = torch_arrays({"params": gradients})
    for name, parameter in theirs.named_parameters():
        # The head is float32 on both sides.
        difference = np.linalg.norm(ours[name] - parameter.grad.numpy())
        assert difference < 1e-4 * np.linalg.norm(ours[name]) + 1e-9, name


def test_arithmetic_of_the_papers_network():
    """Multiplications of ResNet-50 at 256 pixels, three deconvolutions and 1x1."""
    spec = SPEC | {"net": "paper", "batch": 1, "task": "predict"}
    backbone = 2 * 5.338e9
    head = 2 * 16 * 256 * (64 * 2048 + 256 * 256 + 1024 * 256)
    final = 2 * 4096 * 256 * 17 * 64
    found = student_speed.task_flops(spec)
    assert found == pytest.approx(backbone + head + final, rel=0.03)
    assert student_speed.task_flops(spec | {"task": "train"}) == 3 * found


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
    for metric in ("speed", "share of peak", "memory", "cpu time"):
        assert ("predict, batch 2", "ours", metric) in found
    assert all(row["value"] > 0 for row in rows if row["metric"] == "speed")
    assert "GFLOP/s" in capsys.readouterr().out
