"""Weights of other projects, as a start for the student's backbone.

Files are ``.safetensors`` or ``.npz``; ``.pth`` files of the same names need PyTorch. A
ResNet has the names of torchvision (timm's plain ResNets use the same) or of
transformers, with or without a prefix such as ``module.``; EfficientNet-Lite0 those of
timm or of efficientnet_pytorch. The classifier is left out.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from pose_jax.efficientnet import names_in_file
from pose_jax.model import IMAGENET_MEAN, IMAGENET_STD
from pose_jax.resnet import torchvision_key
from pose_jax.state import TrainState
from pose_jax.weights import check_arrays

Path_ = tuple[str, ...]
# Where a training's checkpoint keeps its weights.
WRAPPERS = ("state_dict", "model_state_dict", "model")
LITE_EPSILON = 1e-3  # of EfficientNet-Lite0's batch norms
NORM_ARRAYS = ("weight", "bias", "running_mean", "running_var")
# Parts of a classification network that the student has no use for.
UNUSED = re.compile(r"(^|\.)(fc|classifier|head)\.|num_batches_tracked$")


def transformers_key(path: Path_) -> str:
    """Name in transformers' ``ResNetModel`` of one leaf of `ResNet`'s variables.

    Examples:
        >>> transformers_key(("params", "layer1_0", "downsample_1", "scale"))
        'encoder.stages.0.layers.0.shortcut.normalization.weight'
        >>> transformers_key(("params", "conv1", "kernel"))
        'embedder.embedder.convolution.weight'
    """
    *block, layer = path[1:-1]
    place = "embedder.embedder"
    if block:
        stage, index = re.findall(r"\d+", block[0])
        within = f"layer.{int(layer[-1]) - 1}"
        if layer.startswith("downsample"):
            within = "shortcut"
        place = f"encoder.stages.{int(stage) - 1}.layers.{index}.{within}"
    kind = "convolution" if path[-1] == "kernel" else "normalization"
    leaf = torchvision_key(path).rpartition(".")[2]
    return f"{place}.{kind}.{leaf}"


def with_pretrained(state: TrainState, path: str | Path) -> TrainState:
    """``state`` with the backbone of ``path``; the head stays as it is.

    Raises:
        ValueError: a network for which there are no weights, and see `read_backbone`
            and `read_efficientnet`.
    """
    own = {name: tree["backbone"] for name, tree in state.variables.items()}
    if "stem" in own["params"]:
        if not path:
            raise ValueError(
                "network='efficientnet' is not trained from random weights: set "
                "config.student.pretrained to those of EfficientNet-Lite0 "
                "(docs/own_data.md), or network='pyramid'"
            )
        found = {"params": {**own["params"], **read_efficientnet(path, own["params"])}}
    elif "bn_lateral1" in own["params"]:
        raise ValueError(
            "config.student.pretrained is for network='resnet' or 'efficientnet', not "
            "for 'pyramid'"
        )
    else:
        found = read_backbone(path, own)
    parts = {name: getattr(state, name) | {"backbone": found[name]} for name in found}
    return dataclasses.replace(state, **parts)


def read_backbone(path: str | Path, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of ``path``, float32, in the shape of a `ResNet`'s ``variables``.

    Raises:
        ValueError: another kind of file, or arrays that do not fit, by the names that
            they have in it.
    """
    arrays = read_arrays(path)
    leaves = flax.traverse_util.flatten_dict(dict(variables))
    first = ("params", "conv1", "kernel")
    theirs = any(name.endswith(transformers_key(first)) for name in arrays)
    key = transformers_key if theirs else torchvision_key
    stem = key(first)
    named = [name for name in arrays if f".{name}".endswith(f".{stem}")]
    prefix = min(named, key=len, default=stem).removesuffix(stem)  # "module.", say
    names = {leaf: prefix + key(leaf) for leaf in leaves}
    used = {
        name: array
        for name, array in arrays.items()
        if name in names.values() or not UNUSED.search(name)
    }
    shapes = {names[leaf]: _torch_shape(value) for leaf, value in leaves.items()}
    check_arrays(path, used, shapes)
    found = {}
    for leaf, name in names.items():
        array = arrays[name].astype(np.float32)
        kernel = array.ndim == 4  # row, column, in, out
        found[leaf] = jnp.asarray(array.transpose(2, 3, 1, 0) if kernel else array)
    return flax.traverse_util.unflatten_dict(found)


def read_efficientnet(path: str | Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """The convolutions of EfficientNet-Lite0 in ``path``, batch norms folded into them.

        kernel' = kernel factor,  bias' = bias - mean factor,
        factor = scale / sqrt(var + eps)

    It was trained on colours ``(value - 127) / 128``. The first kernel is changed to
    those of `normalise`, which differs at the edge of the picture alone: what lies
    outside is the mean colour.

    Args:
        path: the file.
        params: of an `EfficientNet`, for their shapes.

    Raises:
        ValueError: another kind of file, or arrays that do not fit, by the names that
            they have in it.
    """
    arrays = read_arrays(path)
    names = names_in_file(timm="conv_stem.weight" in arrays)
    flat: dict[Any, Any] = dict(flax.traverse_util.flatten_dict(dict(params)))
    kernels = {path[:-1]: path for path in flat if path[-1] in ("kernel", "taps")}
    wanted = {}
    for place, (conv, norm) in names.items():
        wanted[f"{conv}.weight"] = _torch_shape(flat[kernels[place]])
        count = flat[*place, "bias"].shape
        wanted |= {f"{norm}.{name}": count for name in NORM_ARRAYS}
    used = {name: arrays[name] for name in wanted if name in arrays}
    check_arrays(path, used, wanted)
    found = {}
    for place, (conv, norm) in names.items():
        scale, bias, mean, var = (used[f"{norm}.{name}"] for name in NORM_ARRAYS)
        factor = scale / np.sqrt(var + LITE_EPSILON)
        kernel = used[f"{conv}.weight"].transpose(2, 3, 1, 0) * factor
        bias = bias - mean * factor
        if place == ("stem",):
            offset = (255 * np.array(IMAGENET_MEAN) - 127) / 128
            bias = bias + np.einsum("hwcd,c->d", kernel, offset)
            kernel = kernel * (255 / 128 * np.array(IMAGENET_STD)).reshape(-1, 1)
        shape = flat[kernels[place]].shape
        found[kernels[place]] = jnp.asarray(kernel.reshape(shape), jnp.float32)
        found[*place, "bias"] = jnp.asarray(bias, jnp.float32)
    return flax.traverse_util.unflatten_dict(found)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a ``.safetensors``, ``.npz`` or ``.pth`` file.

    Raises:
        ValueError: no such file, another kind, or one that does not decode; PyTorch is
            not installed and the file is its own.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config.student.pretrained = {path} does not exist")
    readers = {".safetensors": load_file, ".npz": _read_npz, ".pth": _read_pth}
    if path.suffix not in readers:
        raise ValueError(
            f"config.student.pretrained = {path} is none of {', '.join(readers)}"
        )
    try:
        return readers[path.suffix](path)
    except ImportError as error:
        raise ValueError(f"{path}: pip install torch to read .pth") from error
    # A broken file can make PyTorch's reader fail in any way.
    except Exception as error:
        raise ValueError(f"{path} does not decode ({error}); fetch it again") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file; no object but these and plain containers is unpickled."""
    torch: Any = importlib.import_module("torch")
    content = torch.load(path, map_location="cpu", weights_only=True)
    for name in WRAPPERS:
        content = content.get(name, content)
    return {
        name: tensor.float().numpy()
        for name, tensor in content.items()
        if tensor.is_floating_point()
    }


def _torch_shape(value: Any) -> tuple[int, ...]:
    if len(value.shape) == 3:  # a window for each channel
        return (value.shape[2], 1, *value.shape[:2])
    if len(value.shape) != 4:
        return tuple(value.shape)
    kh, kw, inputs, outputs = value.shape
    return (outputs, inputs, kh, kw)
