"""Records of the samples of a source of pictures."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.formats.annotations import Person
from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import Skeleton


class Record(NamedTuple):
    """One sample as it goes to TFDS.

    Args:
        encoded: the picture as JPEG or PNG bytes.
        person: its landmarks.
        truth: the arrays of a ground-truth file, where the source brings its own 3D.
    """

    encoded: bytes
    person: Person
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
