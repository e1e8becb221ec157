"""Landmarks from a folder of NumPy files, mapped into memory and read row by row.

For sets that need not fit in memory (``config.data.name = "landmarks"``)::

    skeleton.json                     as ``Skeleton.to_dict()`` gives it
    train/keypoints.npy               (N, P, 2) float32 pixels
    train/labelled.npy                (N, P) bool; without it all are labelled
    train/sample_ids.npy              (N,) int64; without it 0, 1, 2, ...
    val/...                           likewise

``np.save`` writes them. Arrays that do not fit in memory are filled piece by piece::

    keypoints = np.lib.format.open_memmap(
        "train/keypoints.npy", mode="w+", dtype=np.float32, shape=(1_000_000, 17, 2)
    )
    keypoints[first:last] = ...
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import crops
from input_pipeline.landmarks import Landmarks
from input_pipeline.skeleton import Skeleton
from runtime.files import read_json

ROWS = 65_536  # read at once


def read_folder(folder: str | Path, split: str, *, padding: float) -> Landmarks:
    """The landmarks of a split, their large arrays mapped; read parts by :func:`parts`.

    Args:
        folder: laid out as above.
        split: ``"train"`` or ``"val"``.
        padding: side of the crops over the longer side of the landmarks' box.

    Raises:
        ValueError: a missing file, arrays that do not fit together, a landmark that
            is not finite, a sample whose landmarks span no area.
    """
    folder = Path(folder).expanduser()
    skeleton = Skeleton.from_dict(
        read_json(folder / "skeleton.json", remedy="write the skeleton's record there")
    )
    keypoints = _mapped(folder / split / "keypoints.npy")
    count, shape = len(keypoints), (len(keypoints), skeleton.num_joints)
    labelled = _mapped(folder / split / "labelled.npy", np.broadcast_to(True, shape))
    ids = _mapped(folder / split / "sample_ids.npy", np.arange(count))
    _check_array(folder / split / "keypoints.npy", keypoints, (*shape, 2), np.float32)
    _check_array(folder / split / "labelled.npy", labelled, shape, np.bool_)
    _check_array(folder / split / "sample_ids.npy", ids, (count,), np.int64)
    marks = Landmarks(
        skeleton=skeleton,
        sample_ids=ids,
        keypoints=keypoints,
        labelled=labelled,
        centre=np.zeros((count, 2), np.float32),
        half_side=np.zeros(count, np.float32),
        names=(),
    )
    for rows, part in parts(marks):
        bad = ~np.isfinite(part.keypoints).all(-1) & part.labelled
        if bad.any():
            raise ValueError(
                f"{folder / split}: {part.name(int(bad.any(1).argmax()))}: a landmark "
                "is not finite; mark it as not labelled or leave the sample out"
            )
        boxes = crops.landmark_boxes(part.keypoints, part.labelled)
        marks.centre[rows], marks.half_side[rows] = crops.square_crops(
            boxes, padding=padding
        )
    flat = np.flatnonzero(~(marks.half_side > 0))
    if flat.size:
        raise ValueError(
            f"{folder / split}: {marks.name(int(flat[0]))}: its landmarks span no "
            "area; label a second joint elsewhere or leave the sample out"
        )
    return marks


def is_mapped(landmarks: Landmarks) -> bool:
    """Whether the landmarks lie on disk, to be read part by part."""
    return isinstance(landmarks.keypoints, np.memmap)


def parts(landmarks: Landmarks) -> Iterator[tuple[slice, Landmarks]]:
    """Some rows at a time in memory: (slice, those samples)."""
    for start in range(0, len(landmarks), ROWS):
        some = slice(start, min(start + ROWS, len(landmarks)))
        yield some, landmarks.take(some)


def _mapped(path: Path, default: np.ndarray | None = None) -> np.ndarray:
    if default is not None and not path.exists():
        return default
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing file; write it by np.save") from error
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a whole .npy file ({error})") from error


def _check_array(
    path: Path, found: np.ndarray, shape: tuple[int, ...], dtype: Any
) -> None:
    if found.shape != shape or found.dtype != dtype or not len(found):
        raise ValueError(
            f"{path}: {found.dtype} {found.shape}, but the skeleton and keypoints.npy "
            f"need {np.dtype(dtype)} {shape}, of at least one sample"
        )
