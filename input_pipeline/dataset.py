"""A data set, resolved once by ``open_dataset`` and passed to all that needs it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.augment import Augmentation
from input_pipeline.checks.problems import no_samples
from input_pipeline.ground_truth import GroundTruth
from input_pipeline.landmarks import Landmarks, join
from input_pipeline.order import Order
from input_pipeline.pipeline import batches
from input_pipeline.settings import (
    SPLITS,
    WITHOUT_PICTURES,
    DataSettings,
    check_split,
    read_settings,
)
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources.labelled_pictures import LabelledPictures
from input_pipeline.sources.mannequin import Mannequin
from input_pipeline.sources.memory_mapped import read_folder
from input_pipeline.sources.mocap import project
from input_pipeline.sources.prepared import Prepared
from input_pipeline.sources.records import digest
from input_pipeline.sources.rendering import available_cores
from input_pipeline.sources.sequence import read_sequence
from input_pipeline.sources.tracks import TrackedLandmarks


def open_dataset(data: Mapping[str, Any] | DataSettings) -> Dataset:
    """The data set that ``config.data`` names; nothing is read before it is asked for.

    Raises:
        ValueError: an unknown field of ``config.data`` or a value out of range.
    """
    return Dataset(read_settings(data))


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
        return isinstance(self.source, Prepared)

    @property
    def skeleton(self) -> Skeleton:
        """Names and structure of the landmarks."""
        return self.landmarks("train").skeleton

    @functools.cached_property
    def source(self) -> Prepared | TrackedLandmarks | _Together:
        """Where it all comes from."""
        if self.settings.name == "tracks":
            return TrackedLandmarks(self.settings)
        if self.settings.name in WITHOUT_PICTURES:
            return _Together(self.settings)
        make = LabelledPictures if self.settings.labelled else Mannequin
        return Prepared(make(self.settings))

    @functools.cached_property
    def extra(self) -> dict[str, Dataset]:
        """The extra sources: all of their pictures train, in the main joints."""
        if not self.settings.extra_sources:
            return {}
        found = extra_settings(self.settings, self.skeleton)
        return {name: Dataset(settings) for name, settings in found}

    @functools.cached_property
    def identity(self) -> str:
        """Digest of what changes the numbers of a training.

        It is that of landmarks, crops and pictures and of how often the sources are
        drawn, wherever their files lie; 3D is no part of it.
        """
        parts: list[Any] = []
        splits = [self.landmarks(split) for split in (*SPLITS, "extra")]
        for marks in splits:
            parts += [marks.sample_ids, marks.keypoints, marks.labelled]
            parts += [marks.centre, marks.half_side]
        sources = [self.source, *(data.source for data in self.extra.values())]
        fields = {
            "skeleton": self.skeleton.to_dict(),
            "pictures": [s.source.digest for s in sources if isinstance(s, Prepared)],
            "counts": [len(marks) for marks in splits],
            "weights": [self.settings.weight if self.extra else 1.0]
            + [data.settings.weight for data in self.extra.values()],
        }
        return digest(fields, parts)

    @functools.cached_property
    def _landmarks(self) -> dict[str, Landmarks]:
        return {}

    def landmarks(self, split: str) -> Landmarks:
        """The 2D landmarks of ``"train"``, ``"val"`` or ``"extra"``, read once.

        ``"extra"`` has the samples of all ``config.data.extra_sources``, one source
        after the other, and is empty without any.
        """
        if split not in self._landmarks:
            read = self._read_extra if split == "extra" else self._read
            self._landmarks[split] = read(split)
        return self._landmarks[split]

    def _read(self, split: str) -> Landmarks:
        check_split(split)
        found = self.source.landmarks(split)
        if found is None:
            raise ValueError(str(no_samples(self.settings, split)))
        return found

    def _read_extra(self, split: str) -> Landmarks:
        main, parts = self.landmarks("train"), []
        for name, data in self.extra.items():
            part = data.landmarks("train")
            if part.skeleton.joints != main.skeleton.joints:
                raise ValueError(
                    f"config.data.extra_sources.{name}: joints "
                    f"{list(part.skeleton.joints)}, but the main source has "
                    f"{list(main.skeleton.joints)}; a {data.settings.name} cannot be "
                    "brought to them"
                )
            names = tuple(f"{name}: {each}" for each in part.names)
            parts.append(dataclasses.replace(part, names=names, skeleton=main.skeleton))
        return join(parts) if parts else main.take(slice(0))

    def truth(self, split: str) -> GroundTruth | None:
        """3D in the order of ``landmarks(split)``, or None; for evaluation only."""
        check_split(split)
        found = self.source.truth(split)
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
        _check_numbers(batch_size, image_size, start_step, shard_index, shard_count)
        parts = [(self, split)]
        parts += [(data, "train") for data in self.extra.values() if train]
        marks = self.landmarks(split)
        order = Order(
            counts=tuple(len(data.landmarks(part)) for data, part in parts),
            weights=tuple(data.settings.weight for data, _ in parts),
            batch_size=batch_size,
            train=train,
            seed=seed,
            shard_index=shard_index,
            shard_count=shard_count,
            chosen=None if rows is None else tuple(rows),
        )
        return batches(
            [(data._folder(), part) for data, part in parts],
            join([marks, self.landmarks("extra")]) if len(parts) > 1 else marks,
            order,
            image_size=image_size,
            augmentation=Augmentation(**(augment or {})),
            start_step=start_step,
            num_threads=num_threads or available_cores(),
        )

    def _folder(self) -> Path:
        """Where the pictures are prepared."""
        if isinstance(self.source, Prepared):
            return self.source.folder
        raise ValueError(
            f"config.data.name = {self.settings.name!r} has landmarks only; for "
            "pictures of motion set --config.data.name=mannequin, of your own 'coco'"
        )


class _Together:
    """Landmarks without pictures, read together with their 3D, once a split."""

    def __init__(self, settings: DataSettings) -> None:
        self._read = functools.cache(functools.partial(_read_together, settings))

    def landmarks(self, split: str) -> Landmarks:
        return self._read(split)[0]

    def truth(self, split: str) -> GroundTruth | None:
        return self._read(split)[1]


def _read_together(
    settings: DataSettings, split: str
) -> tuple[Landmarks, GroundTruth | None]:
    if settings.name == "landmarks":
        folder = settings.landmarks
        return read_folder(folder, split, padding=settings.padding), None
    return (project if settings.name == "mocap" else read_sequence)(settings, split)


def extra_settings(
    settings: DataSettings, skeleton: Skeleton
) -> list[tuple[str, DataSettings]]:
    """Name and settings of each extra source: all of it trains, in these joints."""
    text = json.dumps(skeleton.to_dict())
    return [
        (
            name,
            dataclasses.replace(
                source,
                num_val=0,
                annotations_val="",
                skeleton=text if source.labelled else "",
            ),
        )
        for name, source in settings.extra_sources
    ]


def _check_numbers(
    batch_size: int, image_size: int, start_step: int, shard: int, shard_count: int
) -> None:
    for name, value, least in (
        *(("batch_size", batch_size, 1), ("image_size", image_size, 1)),
        *(("start_step", start_step, 0), ("shard_count", shard_count, 1)),
    ):
        if value < least:
            raise ValueError(f"{name} = {value} must be at least {least}")
    if not 0 <= shard < shard_count:
        raise ValueError(f"shard_index = {shard} must be in 0..{shard_count - 1}")
