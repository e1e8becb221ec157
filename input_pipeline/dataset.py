"""A data set, resolved once by ``open_dataset`` and passed on to whatever needs it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.ground_truth import GroundTruth, read_ground_truth
from input_pipeline.landmarks import Landmarks, read_landmarks
from input_pipeline.mixture import read_extra
from input_pipeline.settings import DataSettings, data_settings
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources.memory_mapped import parts
from input_pipeline.sources.prepared import locate

WITHOUT_PICTURES = ("mocap", "sequence", "landmarks")


def open_dataset(data: Mapping[str, Any] | DataSettings) -> Dataset:
    """The data set that ``config.data`` names; nothing is read before it is asked for.

    Raises:
        ValueError: an unknown field of ``config.data`` or a value out of range.
    """
    return Dataset(data_settings(data))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One data set: its landmarks, its pictures and, for evaluation, its 3D.

    Every method raises ``ValueError`` with the first problem of the data: its place,
    its value and the remedy.

    Args:
        settings: the fields of ``config.data``, checked.
    """

    settings: DataSettings

    @property
    def has_pictures(self) -> bool:
        """Whether :meth:`pictures` can be called."""
        return self.settings.name not in WITHOUT_PICTURES

    @property
    def skeleton(self) -> Skeleton:
        """Names and structure of the landmarks."""
        return self.landmarks("train").skeleton

    @functools.cached_property
    def identity(self) -> str:
        """Digest of all that changes a number: contents and settings, not paths."""
        state = hashlib.sha256()
        marks = [self.landmarks(split) for split in ("train", "val")]  # or refused
        if self.has_pictures:
            state.update(locate(self.settings).config.encode())
        else:
            for _, part in itertools.chain(*map(parts, marks)):
                state.update(part.patch.tobytes())
        state.update(json.dumps(self.settings.padding).encode())
        return state.hexdigest()[:16]

    @functools.cached_property
    def _landmarks(self) -> dict[str, Landmarks]:
        return {}

    def landmarks(self, split: str) -> Landmarks:
        """The 2D landmarks of ``"train"``, ``"val"`` or ``"extra"``, read once.

        ``"extra"`` has the samples of all ``config.data.extra_sources``, one source
        after the other, and is empty without any.
        """
        if split not in self._landmarks:
            self._landmarks[split] = self._read_landmarks(split)
        return self._landmarks[split]

    def _read_landmarks(self, split: str) -> Landmarks:
        if split != "extra":
            return read_landmarks(self.settings, split)
        train = self.landmarks("train")
        found = read_extra(self.settings, train.skeleton)
        return train.take(np.zeros(0, np.int64)) if found is None else found

    def truth(self, split: str) -> GroundTruth | None:
        """3D in the order of ``landmarks(split)``, or None; for evaluation only."""
        found = read_ground_truth(self.settings, split)
        return found and found.align(self.landmarks(split).sample_ids)

    def pictures(
        self,
        split: str,
        *,
        batch_size: int,
        image_size: int,
        seed: int,
        train: bool,
        start_step: int = 0,
        shard_index: int = 0,
        shard_count: int = 1,
        augment: Mapping[str, Any] | None = None,
        num_threads: int = 0,
        rows: Sequence[int] | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of pictures with their landmarks.

        Args:
            split: ``"train"`` or ``"val"``.
            batch_size: B, samples in a batch of this host.
            image_size: S, side of the patch in pixels.
            seed: of the order and the augmentation.
            train: endless and shuffled, with the extra sources mixed in; else one pass
                in row order, last batch padded.
            start_step: the first batch is that of this step.
            shard_index: which host this is.
            shard_count: how many hosts share a batch of ``B * shard_count``.
            augment: ``config.student.augment``; None leaves the plain crops.
            num_threads: that prepare batches; 0 takes all cores.
            rows: only these rows of the split, in this order; with ``train=False``.

        Returns:
            An iterator of dictionaries: ``image`` (B, S, S, 3) uint8; ``keypoints``
            (B, P, 2) float32 patch coordinates of the augmented crop, 0 where not
            labelled; ``labelled`` (B, P) bool; ``row`` (B,) int32 in
            ``landmarks(split)``, and in training after it in ``landmarks("extra")``;
            ``flip`` (B,) bool; ``scale`` (B,) float32, by which lengths are larger
            than in the plain crop; ``weight`` (B,) float32, 0 for padding.
        """
        from input_pipeline.pipeline import image_batches  # imports tensorflow

        return image_batches(
            self.settings,
            split,
            batch_size=batch_size,
            image_size=image_size,
            seed=seed,
            train=train,
            start_step=start_step,
            shard_index=shard_index,
            shard_count=shard_count,
            augment=augment,
            num_threads=num_threads,
            rows=rows,
        )
