"""The direction of a step, which the loop multiplies by its learning rate.

``"adam"`` is the paper's. ``"muon"`` (Jordan et al. 2024) takes kernels as matrices and
moves them by the orthogonal factor of their momentum: directions in which the gradient
is small are learned as fast as the others. Output layers, scales and biases stay with
Adam.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from pose_jax.efficientnet import brought_along

OPTIMIZERS = ("adam", "muon")
# Layers whose outputs are logits, depths or deviations: their scale has a meaning.
OUTPUT_LAYERS = ("final", "facing", "yaw", "error_bar")
# Of the learning rate, for what EfficientNet brings along.
PRETRAINED_RATE = 0.04
# Root mean square of an update, about Adam's, so that one learning rate fits both.
UPDATE_SIZE = 0.2
# Of Newton and Schulz; the singular values end in about .7 to 1.2.
ITERATIONS = 3


def make_optimizer(name: str) -> optax.GradientTransformation:
    """The transformation of ``config.student.optimizer``.

    Raises:
        ValueError: an unknown name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"config.student.optimizer = {name!r} is not one of {OPTIMIZERS}"
        )
    adam = optax.scale_by_adam()
    parts: dict[Any, Any] = {
        "adam": adam,
        "tuned": optax.chain(adam, optax.scale(PRETRAINED_RATE)),
    }
    if name == "muon":
        parts["muon"] = optax.chain(
            scale_by_muon(ns_steps=ITERATIONS, weight_dimension_numbers=_as_matrices),
            optax.stateless(lambda updates, _: jax.tree.map(_sized, updates)),
        )
    return optax.partition(parts, functools.partial(_rules, name))


def _rules(name: str, params: Any) -> Any:
    """By which of these each parameter is moved."""

    def rule(path: Any, leaf: Any) -> str:
        names = tuple(str(getattr(key, "key", key)) for key in path)
        if brought_along(names):
            return "tuned"
        *_, layer, last = ("", *names)
        inner = last == "kernel" and layer not in OUTPUT_LAYERS
        return name if inner else "adam"

    return jax.tree_util.tree_map_with_path(rule, params)


def _as_matrices(updates: Any) -> Any:
    """Kernels (kh, kw, in, out) as (kh kw in, out)."""

    def axes(x: Any) -> MuonDimensionNumbers:
        return MuonDimensionNumbers(tuple(range(x.ndim - 1)), (x.ndim - 1,))

    return jax.tree.map(axes, updates)


def _sized(update: Any) -> Any:
    """An orthogonal matrix, enlarged to entries of UPDATE_SIZE."""
    rows, columns = update.size // update.shape[-1], update.shape[-1]
    return update * np.float32(UPDATE_SIZE * np.sqrt(max(rows, columns)))
