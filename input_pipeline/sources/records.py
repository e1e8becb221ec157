"""What the builders store: one record a sample, and tables of all landmarks."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.skeleton import Skeleton


@dataclasses.dataclass(frozen=True)
class Record:
    """One sample as it goes to TFDS.

    Args:
        encoded: the picture as JPEG or PNG bytes.
        keypoints: (P, 2) float32 pixels, 0 where unlabelled.
        labelled: (P,) bool.
        box: (4,) float32 annotated x, y, width, height.
        sample_id: unique within the split.
        image_id: of the picture, shared by the persons in it.
        name: for messages.
    """

    encoded: bytes
    keypoints: np.ndarray
    labelled: np.ndarray
    box: np.ndarray
    sample_id: int
    image_id: int
    name: str


def write_landmarks(path: Path, records: Sequence[Record], skeleton: Skeleton) -> None:
    """Writes the landmarks of a split beside its pictures; no 3D, no pictures."""
    arrays = {
        "sample_ids": np.array([r.sample_id for r in records], np.int64),
        "image_ids": np.array([r.image_id for r in records], np.int64),
        "keypoints": np.stack([r.keypoints for r in records]).astype(np.float32),
        "labelled": np.stack([r.labelled for r in records]).astype(bool),
        "boxes": np.stack([r.box for r in records]).astype(np.float32),
        "names": np.array([r.name for r in records]),
        "skeleton": np.array(json.dumps(skeleton.to_dict())),
    }
    write_npz(path, arrays)


def read_skeleton(table: dict[str, Any]) -> Skeleton:
    """The skeleton that :func:`write_landmarks` stored."""
    return Skeleton.from_dict(json.loads(str(table["skeleton"])))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file; never unpickles.

    Raises:
        ValueError: the file is missing or is not an ``.npz`` of plain arrays.
    """
    try:
        # Opened here: numpy leaves a file open that is no zip after all.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing file; correct its path") from error
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable .npz of plain arrays ({error}); write it again"
        ) from error


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays so that the file is either whole or not there."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(partial, path)
