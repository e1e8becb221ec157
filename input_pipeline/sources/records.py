"""Records of the samples of a source of pictures, and tables of them."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.settings import DataSettings
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
        truth: the arrays of a ground-truth file, where the source brings its own 3D.
    """

    encoded: bytes
    keypoints: np.ndarray
    labelled: np.ndarray
    box: np.ndarray
    sample_id: int
    image_id: int
    name: str
    truth: Mapping[str, Any] | None = None


class PictureSource(abc.ABC):
    """Pictures with landmarks, as they are before TFDS has them.

    Args:
        settings: of the data set.
    """

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings

    @property
    @abc.abstractmethod
    def skeleton(self) -> Skeleton:
        """The skeleton of all records."""

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that have samples.

        Raises:
            ValueError: the first problem that is seen before a picture is opened.
        """

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """Of the contents of all records, wherever their files lie."""

    @abc.abstractmethod
    def records(self, split: str) -> Iterator[Record]:
        """The records of one split, in order."""


def landmark_table(
    records: Sequence[Record], skeleton: Skeleton
) -> dict[str, np.ndarray]:
    """The arrays of a landmark file; no 3D, no pictures."""
    return {
        "sample_ids": np.array([r.sample_id for r in records], np.int64),
        "image_ids": np.array([r.image_id for r in records], np.int64),
        "keypoints": np.stack([r.keypoints for r in records]).astype(np.float32),
        "labelled": np.stack([r.labelled for r in records]).astype(bool),
        "boxes": np.stack([r.box for r in records]).astype(np.float32),
        "names": np.array([r.name for r in records]),
        "skeleton": np.array(json.dumps(skeleton.to_dict())),
    }


def truth_table(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """The arrays of a ground-truth file; none where the source has no 3D."""
    truths = [record.truth for record in records if record.truth is not None]
    if not truths:
        return {}
    return {name: np.stack([np.asarray(t[name]) for t in truths]) for name in truths[0]}


def read_skeleton(table: Mapping[str, Any]) -> Skeleton:
    """The skeleton that :func:`landmark_table` stored."""
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


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes compressed arrays."""
    with open(path, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def existing_path(path: str | Path, field: str) -> Path:
    """``path`` as a Path; ValueError naming the config field where there is nothing."""
    found = Path(path).expanduser()
    if str(path) in ("", ".") or not found.exists():
        raise ValueError(
            f"{path or '(empty)'}: missing file; set --config.data.{field} to it"
        )
    return found


def digest(fields: Mapping[str, Any], parts: Iterable[Any]) -> str:
    """Of some settings and of arrays, bytes or the contents of files."""
    state = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for part in parts:
        if isinstance(part, Path):
            content = part.read_bytes()
        elif isinstance(part, np.ndarray):
            content = np.ascontiguousarray(part).data
        else:
            content = part
        state.update(hashlib.sha256(content).digest())
    return state.hexdigest()[:16]
