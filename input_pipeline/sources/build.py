"""The TFDS builder: writes the records of a source, and the tables beside them."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.sources.records import (
    PictureSource,
    landmark_table,
    truth_table,
    write_npz,
)
from input_pipeline.tensorflow_setup import load_tfds, quiet


def build(
    source: PictureSource,
    *,
    root: Path,
    config: str,
    version: str,
    on_progress: Callable[[int], None],
) -> None:
    """Prepares one data set under ``root/pictures/config/version``.

    Args:
        source: of the records.
        root: the ``data_dir`` of TFDS.
        config: name of the builder's configuration.
        version: of the layout.
        on_progress: called with the number of pictures done.
    """
    tfds = load_tfds()
    with quiet():
        builder = _builder_class(tfds, version)(
            source=source,
            on_progress=on_progress,
            config=tfds.core.BuilderConfig(name=config, version=version),
            data_dir=str(root),
            # Random access, so that shuffling is exact and resuming costs nothing.
            file_format="array_record",
        )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            download_dir=str(root / "downloads"),
        )


@functools.cache  # TFDS takes a class of one name once
def _builder_class(tfds: Any, version: str) -> Any:
    """The builder, whose base class comes with the package."""

    class Pictures(tfds.core.GeneratorBasedBuilder):
        """Pictures with landmarks, in the order of their records; no 3D among them."""

        VERSION = tfds.core.Version(version)

        def __init__(self, *, source: PictureSource, on_progress: Any, **how: Any):
            self._source, self._on_progress, self._done = source, on_progress, 0
            super().__init__(**how)

        def _log_download_bytes(self) -> None:
            """TFDS prints here; the one who called prepares the user."""

        def _log_download_done(self) -> None:
            """TFDS prints here."""

        def _info(self) -> Any:
            # The row of a record is its place in the landmark table.
            features = _features(tfds, self._source.skeleton.num_joints)
            return tfds.core.DatasetInfo(
                builder=self, features=features, disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            return {s: self._generate_examples(s) for s in self._source.splits}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, Any]]:
            # Within this generator data_path is the folder that is not finished.
            for example in _examples(self._source, split, Path(str(self.data_path))):
                yield example["row"], example
                self._done += 1
                self._on_progress(self._done)

    return Pictures


def _features(tfds: Any, joints: int) -> Any:
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "keypoints": tfds.features.Tensor(shape=(joints, 2), dtype=np.float32),
            "labelled": tfds.features.Tensor(shape=(joints,), dtype=np.bool_),
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "sample_id": tfds.features.Scalar(dtype=np.int64),
            "row": tfds.features.Scalar(dtype=np.int64),
            "name": tfds.features.Text(),
        }
    )


def _examples(source: PictureSource, split: str, folder: Path) -> Iterator[Any]:
    """What is stored of each record; the tables of the split once all are out."""
    table = []
    for row, record in enumerate(source.records(split)):
        # Without the picture: only landmarks and 3D wait for the end of the split.
        table.append(dataclasses.replace(record, encoded=b""))
        stored = ("keypoints", "labelled", "box", "sample_id", "name")
        example = {name: getattr(record, name) for name in stored}
        yield example | {"image": io.BytesIO(record.encoded), "row": row}
    write_npz(folder / f"landmarks_{split}.npz", landmark_table(table, source.skeleton))
    if truth := truth_table(table):
        write_npz(folder / f"ground_truth_{split}.npz", truth)
