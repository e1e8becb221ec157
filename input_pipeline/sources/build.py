"""The TFDS builder: writes the records of a source, and the tables beside them."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.sources.records import PictureSource
from input_pipeline.tensorflow_setup import load_tfds, quiet
from runtime.files import write_npz

# Arrays of the landmark table, and of which field of a person each is.
TABLE = {
    "sample_ids": "sample_id",
    "image_ids": "image_id",
    "keypoints": "keypoints",
    "labelled": "labelled",
    "boxes": "box",
    "names": "name",
}


def build(source: PictureSource, *, config: str, version: str) -> None:
    """Prepares one data set under ``pictures/config/version`` of the settings' root."""
    tfds, root = load_tfds(), source.settings.root
    with quiet():
        builder = _builder_class(tfds, version)(
            source=source,
            config=tfds.core.BuilderConfig(name=config, version=version),
            data_dir=str(root),
            # Random access, so that shuffling is exact and resuming costs nothing.
            file_format="array_record",
        )
        try:
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                download_dir=str(root / "downloads"),
            )
        except RuntimeError as error:  # what its writer met, a full disk for one
            raise ValueError(
                f"{root}: the pictures cannot be prepared ({error}); see that there is "
                "room and that it may be written to, then give the command again"
            ) from error


@functools.cache  # TFDS takes a class of one name once
def _builder_class(tfds: Any, version: str) -> Any:
    """The builder, whose base class comes with the package."""

    class Pictures(tfds.core.GeneratorBasedBuilder):
        """Pictures with landmarks, in the order of their records; no 3D among them."""

        VERSION = tfds.core.Version(version)

        def __init__(self, *, source: PictureSource, **how: Any):
            self._source = source
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
    persons, truths = [], []
    stored = ("keypoints", "labelled", "box", "sample_id", "name")
    for row, record in enumerate(source.records(split)):
        # Without the picture: only landmarks and 3D wait for the end of the split.
        persons.append(record.person)
        truths += [record.truth] if record.truth else []
        example = {name: getattr(record.person, name) for name in stored}
        yield example | {"image": io.BytesIO(record.encoded), "row": row}
    table = {k: np.array([getattr(p, v) for p in persons]) for k, v in TABLE.items()}
    write_npz(folder / f"landmarks_{split}.npz", **table)
    if truths:
        truth = {name: np.array([t[name] for t in truths]) for name in truths[0]}
        write_npz(folder / f"ground_truth_{split}.npz", **truth)
