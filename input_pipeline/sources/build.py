"""Runs a TFDS builder once; the common part of the two builders."""

from __future__ import annotations

import abc
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources import records as records_lib
from input_pipeline.sources.prepared import VERSION, Prepared, Progress
from input_pipeline.sources.records import Record
from input_pipeline.tensorflow_setup import load_tfds, quiet

tfds: Any = load_tfds()


def build(settings: DataSettings, prepared: Prepared, on_progress: Progress) -> None:
    """Prepares one data set under ``prepared.folder``."""
    if settings.name == "mannequin":
        from input_pipeline.sources.mannequin import Mannequin as Builder
    else:
        from input_pipeline.sources.labelled_pictures import (
            LabelledPictures as Builder,
        )
    config = tfds.core.BuilderConfig(name=prepared.config, version=VERSION)
    with quiet():
        builder = Builder(
            settings=settings,
            on_progress=on_progress,
            config=config,
            data_dir=str(prepared.root),
            # Random access, so that shuffling is exact and resuming costs nothing.
            file_format="array_record",
        )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            download_dir=str(prepared.root / "downloads"),
        )


class KeypointBuilder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder of pictures with landmarks, in the order of its records.

    A subclass says what its skeleton and splits are and yields the records. What is
    stored holds no 3D.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self, *, settings: DataSettings, on_progress: Progress, **kwargs: Any
    ) -> None:
        self._settings = settings
        self._on_progress = on_progress
        self._done = 0
        super().__init__(**kwargs)

    @abc.abstractmethod
    def skeleton(self) -> Skeleton:
        """The skeleton of all records."""

    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""

    @abc.abstractmethod
    def records(self, split: str) -> Iterator[Record]:
        """The records of one split, in order."""

    def finish_split(self, split: str, folder: Path) -> None:
        """Writes what belongs beside the records of ``split``, once all are out."""

    def _log_download_bytes(self) -> None:
        """TFDS prints here; the one who called prepares the user."""

    def _log_download_done(self) -> None:
        """TFDS prints here."""

    def _info(self) -> Any:
        count = self.skeleton().num_joints
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "keypoints": tfds.features.Tensor(shape=(count, 2), dtype=np.float32),
                "labelled": tfds.features.Tensor(shape=(count,), dtype=np.bool_),
                "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
                "sample_id": tfds.features.Scalar(dtype=np.int64),
                "row": tfds.features.Scalar(dtype=np.int64),
                "name": tfds.features.Text(),
            }
        )
        # The row of a record is its place in the landmark table.
        return tfds.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self.splits()}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        table = []
        for row, record in enumerate(self.records(split)):
            table.append(_without_picture(record))
            yield row, _example(row, record)
            self._done += 1
            self._on_progress(self._done)
        # Within this generator TFDS points data_path at its unfinished folder.
        folder = Path(str(self.data_path))
        file = folder / f"landmarks_{split}.npz"
        records_lib.write_landmarks(file, table, self.skeleton())
        self.finish_split(split, folder)


def _example(row: int, record: Record) -> dict[str, Any]:
    return {
        "image": io.BytesIO(record.encoded),
        "keypoints": record.keypoints,
        "labelled": record.labelled,
        "box": record.box,
        "sample_id": record.sample_id,
        "row": row,
        "name": record.name,
    }


def _without_picture(record: Record) -> Record:
    return Record(**{**vars(record), "encoded": b""})
