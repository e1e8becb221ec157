"""Backbones of other projects: the same features, gradients and statistics."""

import functools
import sys

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from pose_jax.pretrained import read_backbone, transformers_key, with_pretrained
from pose_jax.resnet import STAGE_SIZES, ResNet, torchvision_key
from pose_jax.state import Plateau, TrainState

DEPTHS = (18, 34, 50, 101, 152)
WIDTH = 0.125


@functools.cache
def shapes(depth, width=WIDTH):
    def init(key):
        return ResNet(depth, width).init(key, jnp.zeros((1, 64, 64, 3)), train=False)

    return jax.eval_shape(init, jax.random.key(0))


def torch_arrays(depth, key=torchvision_key, width=WIDTH):
    """Made-up weights of a ResNet, named and shaped as in a file."""
    rng = np.random.default_rng(depth)
    found = {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes(depth, width)).items():
        shape = leaf.shape
        if path[-1] == "kernel":
            array = rng.normal(size=(shape[3], shape[2], *shape[:2]))
            array *= np.sqrt(2 / array[0].size)
        elif path[-1] in ("scale", "var"):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = 0.1 * rng.normal(size=shape)
        found[key(path)] = array.astype(np.float32)
    return found


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(arrays, path)
    return path


def transformers_net(depth):
    """transformers' network of our sizes, random weights and statistics."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    wide = depth >= 50
    widths = [64, 128, 256, 512]
    config = transformers.ResNetConfig(
        depths=list(STAGE_SIZES[depth]),
        embedding_size=8,
        hidden_sizes=[int(w * WIDTH) * (4 if wide else 1) for w in widths],
        layer_type="bottleneck" if wide else "basic",
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)  # several crash in its backward pass of few channels
    net = transformers.ResNetModel(config)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith(("running_var", "normalization.weight")):
                values = rng.uniform(0.5, 1.5, tensor.shape)
            elif name.endswith(("running_mean", "normalization.bias")):
                values = 0.1 * rng.normal(size=tensor.shape)
            else:
                continue
            tensor.copy_(torch.tensor(values))
    return torch, net


def close(ours, theirs):
    """By norm, in float64: no ReLU opens by rounding on one side alone.

    In float32 one does now and then, and changes the batch's statistics for all layers
    behind it: gradients of one processor then differ by a per cent from another's.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.dtype == theirs.dtype == np.float64
    assert np.linalg.norm(ours - theirs) <= 1e-9 * np.linalg.norm(theirs)


@pytest.mark.parametrize(("depth", "train"), [(10, False), (10, True), (50, True)])
def test_features_gradients_and_statistics_are_those_of_transformers(
    depth, train, tmp_path
):
    torch, theirs = transformers_net(depth)
    arrays = {name: t.numpy().copy() for name, t in theirs.state_dict().items()}
    variables = read_backbone(write(tmp_path / "a.safetensors", arrays), shapes(depth))
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 48, 48, 3))

    def forward(params, x, batch_stats):
        y, new = ResNet(depth, WIDTH).apply(
            {"params": params, "batch_stats": batch_stats},
            x,
            train=train,
            mutable=["batch_stats"],
        )
        return y, new["batch_stats"]

    @jax.jit
    def ours(params, x, batch_stats, weight):
        y, pull, stats = jax.vjp(
            lambda params: forward(params, x, batch_stats), params, has_aux=True
        )
        return y, pull(weight)[0], stats

    theirs.double().train(train)
    y = theirs(torch.tensor(x).permute(0, 3, 1, 2).contiguous()).last_hidden_state
    weight = torch.tensor(rng.normal(size=y.shape))
    (y * weight).sum().backward()
    with jax.enable_x64(True):
        doubled = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        features, gradients, stats = ours(
            doubled["params"],
            x,
            doubled["batch_stats"],
            weight.permute(0, 2, 3, 1).numpy(),
        )
    close(features, y.detach().permute(0, 2, 3, 1))
    found = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for path, gradient in flax.traverse_util.flatten_dict(gradients).items():
        if gradient.ndim == 4:
            gradient = gradient.transpose(3, 2, 0, 1)
        close(gradient, found[transformers_key(("params", *path))])
    state = theirs.state_dict()
    for path, value in flax.traverse_util.flatten_dict(stats).items():
        close(value, state[transformers_key(("batch_stats", *path))])


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("kind", "key"), [(".safetensors", torchvision_key), (".npz", transformers_key)]
)
def test_every_depth_and_naming_lands_in_its_place(depth, kind, key, tmp_path):
    width = 0.02  # eight channels everywhere: only the names matter here
    arrays = torch_arrays(depth, key, width)
    extra = {
        "fc.weight": np.zeros((1000, 4), np.float32),
        "bn1.num_batches_tracked": np.zeros((), np.int64),
    }
    path = write(tmp_path / f"resnet{kind}", arrays | extra)
    found = read_backbone(path, shapes(depth, width))
    for place, value in flax.traverse_util.flatten_dict(found).items():
        wanted = arrays[key(place)]
        wanted = wanted.transpose(2, 3, 1, 0) if wanted.ndim == 4 else wanted
        np.testing.assert_array_equal(value, wanted)
        assert value.dtype == jnp.float32


def test_names_of_transformers_are_its_own():
    _, theirs = transformers_net(50)
    names = {n for n in theirs.state_dict() if "num_batches" not in n}
    paths = flax.traverse_util.flatten_dict(shapes(50))
    assert {transformers_key(path) for path in paths} == names


@pytest.mark.parametrize("prefix", ["module.", "resnet.", "model.backbone."])
def test_prefix_and_half_precision_are_understood(prefix, tmp_path):
    arrays = torch_arrays(18)
    half = {prefix + name: array.astype(np.float16) for name, array in arrays.items()}
    found = read_backbone(write(tmp_path / "a.npz", half), shapes(18))
    np.testing.assert_allclose(
        found["params"]["conv1"]["kernel"],
        arrays["conv1.weight"].transpose(2, 3, 1, 0),
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_wrong_file_is_refused_with_the_names_that_do_not_fit(tmp_path):
    arrays = torch_arrays(18)
    arrays["layer1.0.conv1.bias"] = np.zeros(8, np.float32)
    arrays["bn1.bias"] = np.zeros(9, np.float32)
    del arrays["layer4.1.bn2.running_var"]
    path = write(tmp_path / "a.safetensors", arrays)
    with pytest.raises(ValueError, match="does not fit this network") as error:
        read_backbone(path, shapes(18))
    for words in (
        "missing: layer4.1.bn2.running_var;",
        "unexpected: layer1.0.conv1.bias;",
        "of another shape: bn1.bias (9,), not (8,)",
    ):
        assert words in str(error.value)


def test_another_depth_names_a_few_and_counts_the_rest(tmp_path):
    path = write(tmp_path / "a.safetensors", torch_arrays(50))
    with pytest.raises(ValueError, match=r"unexpected: .* and \d+ more"):
        read_backbone(path, shapes(18))


def test_other_files_name_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_backbone(tmp_path / "a.npz", {})
    path = tmp_path / "resnet50.onnx"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of \.safetensors, \.npz, \.pth"):
        read_backbone(path, {})
    for name in ("a.safetensors", "a.npz"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(ValueError, match="does not decode"):
            read_backbone(tmp_path / name, {})


def test_a_training_state_takes_the_backbone_and_keeps_its_head(tmp_path):
    own = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes(18))
    head = {"bias": jnp.ones(3)}
    state = TrainState(
        step=0,
        params={"backbone": own["params"], "head": head},
        batch_stats={"backbone": own["batch_stats"], "head": head},
        opt_state=(),
        plateau=Plateau(0.0, 0.0, 0),
    )
    arrays = torch_arrays(18)
    new = with_pretrained(state, write(tmp_path / "a.npz", arrays))
    assert new.params["head"] is head
    np.testing.assert_array_equal(
        new.batch_stats["backbone"]["bn1"]["var"], arrays["bn1.running_var"]
    )


class Evil:
    def __reduce__(self):
        return (print, ("code of the file was run",))


def test_a_pth_file_is_read_without_running_its_code(tmp_path, capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    arrays = torch_arrays(18)
    state = {name: torch.tensor(array) for name, array in arrays.items()}
    state["bn1.num_batches_tracked"] = torch.tensor(3)
    path = tmp_path / "a.pth"
    torch.save({"epoch": 3, "state_dict": state}, path)
    found = read_backbone(path, shapes(18))
    np.testing.assert_array_equal(found["params"]["bn1"]["scale"], arrays["bn1.weight"])
    torch.save({"state_dict": state, "extra": Evil()}, path)
    with pytest.raises(ValueError, match="does not decode"):
        read_backbone(path, shapes(18))
    assert "code of the file" not in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="pip install torch"):
        read_backbone(path, shapes(18))
