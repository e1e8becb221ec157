"""Frames in batches of few sizes, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

# Frames handled together, a bound on memory.
TOGETHER = 256
_SIZES = (8, 64, 128, TOGETHER)


def repeated(count: int) -> Int[np.ndarray, " m"]:
    """The numbers of ``count`` frames, repeated up to one of the sizes."""
    most = _SIZES[-1]
    size = next((size for size in _SIZES if size >= count), -(-count // most) * most)
    return np.resize(np.arange(count), size)


def groups_of(
    labelled: Bool[np.ndarray, "n p"],
) -> Iterator[tuple[Int[np.ndarray, " m"], int]]:
    """Rows that miss about as many joints, and a number that none exceeds."""
    P = labelled.shape[1]
    steps = np.unique([0, max(1, P // 8), max(1, P // 3), max(1, P // 2), P])
    level = np.searchsorted(steps, (~labelled).sum(1))
    for i, gaps in enumerate(steps.tolist()):
        rows = np.flatnonzero(level == i)
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            yield some[repeated(len(some))], gaps
