"""Samples sorted by which of their landmarks are labelled.

Samples that show the same joints share every covariance, so they are handled
together.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

BLOCK_INCOMPLETE = 16


class Samples(NamedTuple):
    """Samples of a fit.

    Attributes:
        W: (N, P, 2) landmarks, 0 where missing.
        labelled: (N, P), or None where every landmark is known.
    """

    W: Float[Array | np.ndarray, "n p 2"]
    labelled: Bool[Array | np.ndarray, "n p"] | None

    @property
    def shown(self) -> Bool[np.ndarray, "n p"]:
        """(N, P), also where every landmark is known."""
        if self.labelled is None:
            return np.ones(self.W.shape[:2], bool)
        return np.asarray(self.labelled)


class Blocks(NamedTuple):
    """Samples sorted by which joints they show; one pattern to a block.

    Attributes:
        W: (T, B, P, 2) landmarks, 0 where missing or where the block is padded.
        labelled: (T, P) the pattern of each block.
        weight: (T, B) 1 for a sample, 0 for padding.
        row: (T, B) position of the sample in the input, -1 for padding.
    """

    W: Float[Array | np.ndarray, "t b p 2"]
    labelled: Bool[Array | np.ndarray, "t p"]
    weight: Float[Array | np.ndarray, "t b"]
    row: Int[Array | np.ndarray, "t b"]


def make_blocks(
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    *,
    complete_size: int,
) -> Blocks:
    """Groups samples by pattern and cuts each group into blocks of one size."""
    patterns, group = np.unique(labelled, axis=0, return_inverse=True)
    group = group.reshape(-1)
    size = complete_size if len(patterns) == 1 else BLOCK_INCOMPLETE
    rows, pattern = [], []
    for k, members in enumerate(_split_by(group, len(patterns))):
        count = -(-len(members) // size)
        padded = np.full(count * size, -1, np.int64)
        padded[: len(members)] = members
        rows.append(padded.reshape(count, size))
        pattern += [k] * count
    row, shown = np.concatenate(rows), patterns[pattern]
    used = (row >= 0)[..., None, None] & shown[:, None, :, None]
    return Blocks(
        np.where(used, W[np.maximum(row, 0)], np.float32(0)),
        shown,
        (row >= 0).astype(np.float32),
        row,
    )


def _split_by(group: Int[np.ndarray, " n"], count: int) -> list[np.ndarray]:
    order = np.argsort(group, kind="stable")
    return np.split(order, np.searchsorted(group[order], np.arange(1, count)))


def check_landmarks(
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None,
) -> tuple[Float[np.ndarray, "n p 2"], Bool[np.ndarray, "n p"]]:
    landmarks = np.asarray(W, np.float32)
    if labelled is None:
        shown = np.ones(landmarks.shape[:2], bool)
    else:
        shown = np.asarray(labelled, bool)
    bad = np.flatnonzero((~np.isfinite(landmarks).all(-1) & shown).any(1))
    if len(bad):
        raise ValueError(
            f"W[{bad[0]}] has a landmark that is not finite ({len(bad)} such samples);"
            " mark it as missing in `labelled` or drop the sample"
        )
    if shown.any(1).sum() < 2:
        raise ValueError(
            f"{shown.any(1).sum()} of {len(landmarks)} samples show a landmark; "
            "give at least 2"
        )
    return landmarks, shown


def choose_samples(
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    *,
    key: Key[Array, ""],
    num_samples: int,
    num_incomplete: int | None = None,
) -> Samples:
    """A random subset of those that miss fewest: complete ones where they suffice.

    Any that show a landmark, where a joint would be seen much less often otherwise.

    Args:
        W: landmarks.
        labelled: True where a landmark is known.
        key: chooses among those that miss equally many.
        num_samples: how many.
        num_incomplete: how many where so many complete ones do not exist.
    """
    gaps = np.where(labelled.any(1), (~labelled).sum(1), np.iinfo(np.int32).max)
    count = min(num_samples, int(labelled.any(1).sum()))
    if num_incomplete and np.sort(gaps)[count - 1] > 0:
        count = min(num_incomplete, int(labelled.any(1).sum()))
    most = np.sort(gaps)[count - 1]
    rows = np.flatnonzero(gaps < most)
    if (2 * labelled[gaps <= most].mean(0) < labelled[labelled.any(1)].mean(0)).any():
        most, rows = 0, rows[:0]
        gaps = np.where(labelled.any(1), 0, 1)
    level = np.flatnonzero(gaps == most)
    pick = np.asarray(jax.random.permutation(key, len(level)))
    rows = np.concatenate([rows, level[pick[: count - len(rows)]]])
    if labelled[rows].all():
        return Samples(W[rows], None)
    return Samples(np.where(labelled[rows][..., None], W[rows], 0), labelled[rows])


def beside_mirrored(samples: Samples, mirror: Int[np.ndarray, " p"] | None) -> Samples:
    """The samples and their mirror images: x negated, left and right exchanged.

    Seen from the mirrored yaw, the mirror image of a body that can bend to the left as
    to the right is a sample like any other.

    Args:
        samples: of a fit.
        mirror: joint p of the mirror image was joint ``mirror[p]``; None: no image.
    """
    if mirror is None:
        return samples
    image = np.asarray(samples.W)[:, mirror] * np.array([-1, 1], np.float32)
    W, shown = np.concatenate([samples.W, image]), samples.labelled
    if shown is None:
        return Samples(W, None)
    shown = np.asarray(shown)
    return Samples(W, np.concatenate([shown, shown[:, mirror]]))
