"""TFDS builder for own data: labels in one of the formats, and their pictures."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import Any

from input_pipeline.checks.problems import raise_problem
from input_pipeline.formats.annotations import Person
from input_pipeline.formats.pictures import check_picture, storable
from input_pipeline.formats.splits import read_splits
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources.build import KeypointBuilder
from input_pipeline.sources.records import Record

DECODED_AHEAD = 64  # pictures a split holds in memory while it is prepared


class LabelledPictures(KeypointBuilder):
    """One sample per labelled person; most pictures are stored as they are.

    Every picture is decoded once here, so that no damaged one is met in training.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._splits = read_splits(kwargs["settings"], report=raise_problem)
        super().__init__(**kwargs)

    def skeleton(self) -> Skeleton:
        return self._splits["train"].skeleton

    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def records(self, split: str) -> Iterator[Record]:
        persons: Sequence[Person] = self._splits[split].persons
        path, _ = self._settings.annotation_file(split)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for start in range(0, len(persons), DECODED_AHEAD):
                some = persons[start : start + DECODED_AHEAD]
                yield from pool.map(lambda person: _record(person, path), some)


def _record(person: Person, annotations: Any) -> Record:
    checked = check_picture(person, annotations, report=raise_problem)
    if checked is None:
        raise AssertionError("raise_problem returned on a fatal problem")
    return Record(
        encoded=storable(checked),
        keypoints=person.keypoints,
        labelled=person.labelled,
        box=person.box,
        sample_id=person.sample_id,
        image_id=person.image_id,
        name=person.name,
    )
