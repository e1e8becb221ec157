"""Turns PyTorch's ``.pth`` into ``.safetensors``; the only module that needs torch.

python -m pose_jax.convert_pth resnet50.pth resnet50.safetensors
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

# Where a checkpoint keeps its weights when they are not the whole of it.
WRAPPERS = ("state_dict", "model_state_dict", "model")


def convert(source: str | Path, target: str | Path) -> dict[str, np.ndarray]:
    """Writes the tensors of ``source`` to ``target`` under the same names.

    No object but tensors and plain containers is unpickled.

    Raises:
        ValueError: torch is not installed, or a file without tensors.
    """
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise ValueError(
            f"{source}: reading .pth needs PyTorch; pip install torch"
        ) from error
    if not Path(source).is_file():
        raise ValueError(f"{source} does not exist")
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    # A broken file can make the unpickler fail in any way.
    except Exception as error:
        raise ValueError(f"{source} is not a file of weights: {error}") from error
    arrays = {
        name: np.ascontiguousarray(tensor.float().numpy())
        for name, tensor in _unwrap(content).items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    }
    if not arrays:
        raise ValueError(f"{source} holds no tensors by name")
    save_file(arrays, target, {"source": Path(source).name})
    return arrays


def _unwrap(content: Any) -> Mapping[str, Any]:
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            return content[name]
    return content if isinstance(content, Mapping) else {}


def main(arguments: Sequence[str]) -> None:
    """``IN OUT`` from the shell."""
    if len(arguments) != 2:
        sys.exit("usage: python -m pose_jax.convert_pth IN.pth OUT.safetensors")
    try:
        arrays = convert(*arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments[1]}: {len(arrays)} arrays")


if __name__ == "__main__":
    main(sys.argv[1:])
