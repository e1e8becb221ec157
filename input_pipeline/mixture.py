"""Several sources of pictures in one training set, with one skeleton.

The rows of the training set are those of the main source, then those of each source of
``config.data.extra_sources`` in turn. Validation, the teacher's training and all
evaluation know the main source only. Of the others the teacher judges the complete
skeletons, so that these get the distillation loss; incomplete ones get the 2D loss
alone (Wang et al. 2019, Section 5.1).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.landmarks import Landmarks, read_landmarks
from input_pipeline.settings import DataSettings, data_settings
from input_pipeline.skeleton import Skeleton

BLOCK = 1000  # draws in which every source has its share
_MIXTURE_STREAM = 3


def extra_sources_of(
    settings: DataSettings, skeleton: Skeleton
) -> list[tuple[str, DataSettings]]:
    """The further sources: all of their pictures train, in the main joints."""
    return [
        (
            name,
            dataclasses.replace(
                source,
                num_val=0,
                annotations_val="",
                skeleton=json.dumps(skeleton.to_dict()) if source.labelled else "",
            ),
        )
        for name, source in settings.extra_sources
    ]


def read_extra(
    data: Mapping[str, Any] | DataSettings, skeleton: Skeleton
) -> Landmarks | None:
    """The landmarks of all further sources one after the other; None without any.

    Args:
        data: ``config.data``.
        skeleton: of the main source.

    Returns:
        Landmarks with ``sample_ids`` that count them, and the source in their names.

    Raises:
        ValueError: the first problem of a source, or joints that are not the main
            source's.
    """
    parts = []
    for name, source in extra_sources_of(data_settings(data), skeleton):
        part = read_landmarks(source, "train")
        if part.skeleton.joints != skeleton.joints:
            raise ValueError(
                f"config.data.extra_sources.{name}: joints "
                f"{list(part.skeleton.joints)}, but the main source has "
                f"{list(skeleton.joints)}; a {source.name} cannot "
                "be brought to them"
            )
        names = tuple(f"{name}: {each}" for each in part.names)
        parts.append(dataclasses.replace(part, names=names, skeleton=skeleton))
    return joined(parts) if parts else None


def joined(parts: Sequence[Landmarks]) -> Landmarks:
    """Landmarks of one skeleton one after the other, numbered anew from 0."""

    def together(field: str) -> np.ndarray:
        return np.concatenate([getattr(part, field) for part in parts])

    return Landmarks(
        skeleton=parts[0].skeleton,
        sample_ids=np.arange(sum(map(len, parts)), dtype=np.int64),
        keypoints=together("keypoints"),
        labelled=together("labelled"),
        centre=together("centre"),
        half_side=together("half_side"),
        names=tuple(name for part in parts for name in part.names),
    )


def depth_counts(landmarks: Landmarks) -> np.ndarray:
    """(N,) bool: samples of further sources that get the depth loss, complete ones."""
    return np.asarray(landmarks.labelled.all(axis=1))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Which source each draw of a run is from, as a function of its number.

    Of every ``BLOCK`` draws each source has its share, always in the same places, so
    that a run resumes anywhere without counting what came before.

    Args:
        weights: of the sources, above 0, in any unit.
        seed: of the places.
    """

    weights: tuple[float, ...]
    seed: int

    @functools.cached_property
    def quotas(self) -> np.ndarray:
        """(S,) draws of each source in a block: by largest remainders, none without."""
        exact = np.array(self.weights) / sum(self.weights) * BLOCK
        quotas = np.maximum(np.floor(exact), 1).astype(np.int64)
        while quotas.sum() < BLOCK:
            quotas[np.argmax(exact - quotas)] += 1
        while quotas.sum() > BLOCK:
            quotas[np.argmax(quotas)] -= 1
        return quotas

    @functools.cached_property
    def _slots(self) -> tuple[np.ndarray, np.ndarray]:
        """Source of each place in a block, and how often it came before in it."""
        rng = np.random.default_rng([self.seed, _MIXTURE_STREAM])
        source = rng.permutation(np.repeat(np.arange(len(self.weights)), self.quotas))
        before = np.zeros(BLOCK, np.int64)
        for s in range(len(self.weights)):
            mine = source == s
            before[mine] = np.arange(mine.sum())
        return source, before

    def draw(self, counters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source of each draw, and how many of that source came before it.

        Examples:
            >>> source, nth = Mixture((1.0, 1.0), seed=0).draw(np.arange(2000))
            >>> [int((source == s).sum()) for s in (0, 1)], nth[source == 1][-1].item()
            ([1000, 1000], 999)
        """
        block, slot = np.divmod(counters, BLOCK)
        source, before = (table[slot] for table in self._slots)
        return source, block * self.quotas[source] + before
