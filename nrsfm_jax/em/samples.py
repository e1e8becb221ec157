"""The samples of a fit, their mirror images, and the order of missing landmarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

# Incomplete samples are handled so many at a time.
_FEW = 256


class Samples(NamedTuple):
    """Samples of a fit."""

    W: Float[Array | np.ndarray, "n p 2"]  # landmarks, 0 where missing
    labelled: Bool[Array | np.ndarray, "n p"]


def check_landmarks(
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None,
) -> tuple[Float[np.ndarray, "n p 2"], Bool[np.ndarray, "n p"]]:
    """Landmarks, 0 where they are missing whatever stood there, and the mask.

    Raises:
        ValueError: a labelled landmark that is not finite.
    """
    landmarks = np.asarray(W, np.float32)
    mask = np.ones(landmarks.shape[:2], bool)
    if labelled is not None:
        mask = np.asarray(labelled, bool)
    # Before any product: NaN * 0 is NaN.
    landmarks = np.where(mask[..., None], landmarks, np.float32(0))
    bad = np.flatnonzero(~np.isfinite(landmarks).all((1, 2)))
    if len(bad):
        raise ValueError(
            f"W[{bad[0]}] has a landmark that is not finite ({len(bad)} such samples);"
            " mark it as missing in `labelled` or drop the sample"
        )
    return landmarks, mask


def choose_samples(
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    *,
    key: Key[Array, ""],
    num_samples: int,
    num_incomplete: int | None = None,
) -> Samples:
    """A random subset of those that miss fewest: complete ones where they suffice.

    ``num_samples``, or ``num_incomplete`` where so many complete ones do not exist; the
    key chooses among those that miss equally many.

    Raises:
        ValueError: fewer than 2 samples with a landmark.
    """
    usable = labelled.any(1)
    if usable.sum() < 2:
        raise ValueError(
            f"{usable.sum()} of {len(W)} samples have a landmark; give at least 2"
        )
    gaps = np.where(usable, (~labelled).sum(1), np.iinfo(np.int32).max)
    count = min(num_samples, int(usable.sum()))
    if num_incomplete and np.sort(gaps)[count - 1] > 0:
        count = min(num_incomplete, int(usable.sum()))
    most = np.sort(gaps)[count - 1]
    # All that have a landmark, where a joint would be labelled half as often otherwise.
    if (2 * labelled[gaps <= most].mean(0) < labelled[usable].mean(0)).any():
        most, gaps = 0, np.where(usable, 0, 1)
    rows, level = np.flatnonzero(gaps < most), np.flatnonzero(gaps == most)
    pick = np.asarray(jax.random.permutation(key, len(level)))
    rows = np.concatenate([rows, level[pick[: count - len(rows)]]])
    return Samples(np.where(labelled[rows][..., None], W[rows], 0), labelled[rows])


def mirror_of(skeleton: Any) -> Int[np.ndarray, " p"] | None:
    """Joint p of a mirrored picture was joint ``mirror_of(skeleton)[p]``.

    None where the skeleton names no left and right: nothing then says that the mirror
    image of a pose is a pose.
    """
    return skeleton.flip_permutation if skeleton.left_right else None


def beside_mirrored(samples: Samples, mirror: Int[np.ndarray, " p"] | None) -> Samples:
    """The samples and their mirror images: x negated, left and right exchanged.

    Seen from the mirrored yaw, the mirror image of a body that can bend to the left as
    to the right is a sample like any other. Joint p of the mirror image was joint
    ``mirror[p]``; None: no image.
    """
    if mirror is None:
        return samples
    W, labelled = map(np.asarray, samples)
    image = W[:, mirror] * np.array([-1, 1], np.float32)
    return Samples(
        np.concatenate([W, image]), np.concatenate([labelled, labelled[:, mirror]])
    )


def gap_steps(P: int) -> list[int]:
    """Numbers of missing joints that programs are compiled for: few, up to P."""
    return sorted({0, P, *(min(3 << k, P) for k in range(P.bit_length()))})


def most_gaps(labelled: Bool[Array | np.ndarray, "n p"]) -> int:
    """The step of :func:`gap_steps` that holds for all samples; 0: all complete."""
    steps = gap_steps(labelled.shape[1])
    return steps[np.searchsorted(steps, (~np.asarray(labelled)).sum(1).max())]


def equal_gaps(
    labelled: Bool[np.ndarray, "n p"], *, chunk: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Rows with about as many missing joints, ``chunk`` at most, and that number."""
    # The number is rounded up and the rows are repeated up to a whole chunk, so that
    # few programs are compiled; repeated rows only write the same result again.
    steps = gap_steps(labelled.shape[1])
    level = np.searchsorted(steps, (~labelled).sum(1))
    if level.any():  # the complete ones then need no program of their own
        level = np.maximum(level, 1)
    for i, gaps in enumerate(steps):
        rows = np.flatnonzero(level == i)
        # A power of two: sets cut in pieces would compile a program for each.
        size = min(chunk, 1 << max(len(rows) - 1, 0).bit_length())
        if gaps:
            size = min(chunk, _FEW)
        for start in range(0, len(rows), size):
            yield np.resize(rows[start : start + size], size), gaps
