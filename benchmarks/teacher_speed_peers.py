"""The teacher's network and loss in PyTorch, to compare their speed with ours.

The same parameters (those of ``nrsfm_jax.model.init``), the same equations and Adam
with the same settings, written as is usual in PyTorch. A test compares loss and
gradient with ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Arrays = dict[str, np.ndarray]
# Does one step and returns the loss, a number of the library's own kind.
Step = Callable[[], Any]


def torch_step(
    params: Any, batch: Arrays, *, compiled: bool, sparsity_weight: float, rate: float
) -> Step:
    """A training step in PyTorch, eager or by ``torch.compile``."""
    torch: Any = importlib.import_module("torch")
    tensors = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)
    leaves = [x.requires_grad_() for x in jax.tree.leaves(tensors)]
    W, z_em = (torch.tensor(batch[name]) for name in ("W", "em_depth"))
    adam = torch.optim.Adam(leaves, lr=rate, fused=True)

    def loss_of() -> Any:
        return _torch_loss(torch, tensors, W, z_em, sparsity_weight)

    run = torch.compile(loss_of) if compiled else loss_of

    def step() -> Any:
        adam.zero_grad(set_to_none=True)
        loss = run()
        loss.backward()
        adam.step()
        return loss.detach()

    return step


def _torch_loss(torch: Any, params: Any, W: Any, z_em: Any, weight: float) -> Any:
    first, *deeper = params["dictionaries"]
    by_landmark = first.reshape(W.shape[1], -1)
    cells = (W.mT.reshape(-1, W.shape[1]) @ by_landmark).reshape(-1, first.shape[1])
    cells = torch.relu(cells - params["camera"][0])
    for D, threshold in zip(deeper, params["camera"][1:], strict=True):
        cells = torch.relu(cells @ D - threshold)
    a_1, a_2 = (cells @ params["mix"]).reshape(-1, 2, 3).unbind(1)
    n = torch.nn.functional.normalize(torch.linalg.cross(a_1, a_2), dim=-1)
    m_1 = torch.nn.functional.normalize(a_1 + torch.linalg.cross(a_2, n), dim=-1)
    m_2 = torch.linalg.cross(n, m_1)
    M = torch.stack([m_1, m_2], -1)
    phi = (W @ M.mT).reshape(len(W), -1) @ first
    phi = torch.relu(phi - params["encoder"][0])
    for D, threshold in zip(deeper, params["encoder"][1:], strict=True):
        phi = torch.relu(phi @ D - threshold)
    pairs = list(zip(deeper, params["decoder"], strict=True))
    for D, threshold in reversed(pairs):
        phi = torch.relu(phi @ D.T - threshold)
    S = (phi @ first.T).reshape(len(W), -1, 3)
    z = (S @ n[..., None])[..., 0] - z_em
    depth = torch.linalg.vector_norm(z - z.mean(1, keepdim=True), dim=1)
    error = torch.linalg.vector_norm((S @ M - W).flatten(1), dim=1)
    sparsity = (phi * torch.linalg.vector_norm(first, dim=0)).sum(1)
    return (error + weight * sparsity + depth).mean()
