"""Pictures as TFDS keeps them, prepared once, on first use.

``<data_dir>/pictures/<stem>_<digest>/<version>/`` holds the ArrayRecord files of TFDS
and, beside them, ``landmarks_<split>.npz`` (2D, read without decoding a picture) and,
where the source has 3D of its own, ``ground_truth_<split>.npz`` (opened by evaluation
alone). The digest is that of the source's contents, so that other labels, other
pictures or another renderer never meet in one folder, and a data set that was moved is
found again.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np

from input_pipeline.ground_truth import GroundTruth, load_ground_truth
from input_pipeline.landmarks import Landmarks, make_landmarks
from input_pipeline.sources.build import build
from input_pipeline.sources.records import PictureSource
from runtime.files import Damaged, locked, read_npz

VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A source of pictures and the folder that it is prepared in.

    Args:
        source: of the records.
    """

    source: PictureSource

    @functools.cached_property
    def config(self) -> str:
        """Name of the configuration: a readable stem and the digest."""
        settings = self.source.settings
        stem = Path(settings.annotations).stem if settings.labelled else settings.name
        # TFDS takes no other characters in a name.
        word = "".join(c if c.isalnum() and c.isascii() else "_" for c in stem)
        return f"{word[:40] or 'labels'}_{self.source.digest}"

    @property
    def planned(self) -> Path:
        """Where the folder is, or will be."""
        return self.source.settings.root / "pictures" / self.config / VERSION

    @functools.cached_property
    def folder(self) -> Path:
        """The folder, which is made first where it is not there.

        Several processes may ask for it at once: one prepares, the others wait.

        Raises:
            ValueError: the first problem of the source data.
        """
        folder = self.planned
        if not _complete(folder):
            _ = self.source.splits  # a problem is said before anything is written
            stale = ("*incomplete*",)  # of TFDS
            with locked(folder.parent, unfinished=stale, wait=True):
                if not _complete(folder):
                    # TFDS would take what is left of a folder for the whole.
                    shutil.rmtree(folder, ignore_errors=True)
                    build(self.source, config=self.config, version=VERSION)
        return folder

    def landmarks(self, split: str) -> Landmarks | None:
        """The landmarks of a split, None where the source has no samples for it."""
        if split not in self.source.splits:
            return None
        table = self._table(split)
        settings = self.source.settings
        return make_landmarks(
            skeleton=self.source.skeleton,
            sample_ids=table["sample_ids"],
            keypoints=table["keypoints"],
            labelled=table["labelled"],
            boxes=table["boxes"] if settings.box == "annotation" else None,
            names=tuple(str(name) for name in table["names"]),
            padding=settings.padding,
        )

    def _table(self, split: str) -> dict[str, np.ndarray]:
        try:
            return read_npz(self.folder / f"landmarks_{split}.npz")
        except Damaged as error:
            raise self._anew(error) from error

    def _anew(self, error: Damaged) -> ValueError:
        return ValueError(f"{error}, by deleting {self.folder}: it is prepared anew")

    def truth(self, split: str) -> GroundTruth | None:
        """3D of the user's file, or of the source itself."""
        settings = self.source.settings
        given = settings.ground_truth_file(split)
        if settings.labelled and not given:
            return None
        own = self.folder / f"ground_truth_{split}.npz"
        table = self._table(split)
        try:
            return load_ground_truth(
                Path(given).expanduser() if given else own,
                skeleton=self.source.skeleton,
                sample_ids=table["sample_ids"],
                image_ids=table["image_ids"],
            )
        except Damaged as error:
            if given:
                raise
            raise self._anew(error) from error


def _complete(folder: Path) -> bool:
    # TFDS renames its folder into place as the last step.
    return (folder / "dataset_info.json").is_file()
