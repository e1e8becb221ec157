"""Batch norms folded into the convolutions before them, for prediction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
from jax import lax

from pose_jax.conv import EPSILON
from pose_jax.model import PoseNet

# The norm that follows a convolution, by their names in one module.
_FOLLOWS = (
    (r"conv(\d+)", r"bn\1"),
    (r"deconv(\d+)", r"bn\1"),
    (r"downsample_0", "downsample_1"),
    (r"lateral(\d+)", r"bn_lateral\1"),
)


def fold_batch_norms(
    net: PoseNet, variables: Mapping[str, Any]
) -> tuple[PoseNet, dict[str, Any]]:
    """The same function with ``train=False``, without batch norms.

        scale (conv(x) - mean) / sqrt(var + eps) + bias
            = conv'(x) + bias',  kernel' = kernel factor,  bias' = bias - mean factor

    Args:
        net: as it was trained.
        variables: its ``params`` and ``batch_stats``.

    Returns:
        A network for ``net.apply(variables, images, train=False)``, and its variables,
        kernels in the network's dtype.
    """
    params, stats = (
        dict[Any, Any](flax.traverse_util.flatten_dict(dict(variables[name])))
        for name in ("params", "batch_stats")
    )
    folded: dict[tuple[str, ...], Any] = {}
    for path, kernel in params.items():
        *place, layer, leaf = path
        norm = _norm_after(layer)
        if leaf == "kernel" and norm is not None:
            here = (*place, norm)
            scale, shift = params[*here, "scale"], params[*here, "bias"]
            factor = scale * lax.rsqrt(jnp.asarray(stats[*here, "var"]) + EPSILON)
            folded[path] = jnp.asarray(kernel * factor.reshape(1, 1, 1, -1), net.dtype)
            folded[*place, layer, "bias"] = shift - stats[*here, "mean"] * factor
        elif not layer.startswith(("bn", "downsample_1")):
            folded[path] = jnp.asarray(kernel)
    plain = net.clone(folded=True, axis_name=None)
    return plain, {"params": flax.traverse_util.unflatten_dict(folded)}


def _norm_after(layer: str) -> str | None:
    for pattern, name in _FOLLOWS:
        if re.fullmatch(pattern, layer):
            return re.sub(pattern, name, layer)
    return None
