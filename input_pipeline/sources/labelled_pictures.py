"""Own data: labels in one of the formats, and their pictures."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from input_pipeline.checks.problems import raise_problem
from input_pipeline.formats.annotations import Labels, Person
from input_pipeline.formats.pictures import check_picture, storable
from input_pipeline.formats.splits import read_splits
from input_pipeline.frames import holder, read_encoded
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources.records import PictureSource, Record, digest
from runtime.files import write_text

DECODED_AHEAD = 64  # pictures a split holds in memory while it is prepared


class LabelledPictures(PictureSource):
    """One sample per labelled person; most pictures are stored as they are.

    Every picture is decoded once while it is stored, so that no damaged one is met in
    training.
    """

    @functools.cached_property
    def index(self) -> dict[str, Labels]:
        """The persons of each split, read once."""
        return read_splits(self.settings, report=raise_problem)

    @property
    def skeleton(self) -> Skeleton:
        return self.index["train"].skeleton

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.index)

    @functools.cached_property
    def digest(self) -> str:
        """Of what the labels say and of the pictures that they name, and no others."""
        parts: list[np.ndarray] = []
        fields: dict[str, object] = {"skeleton": self.skeleton.to_dict()}
        for split, index in self.index.items():
            persons = index.persons
            fields[split] = _pictures_digest(persons, self.settings.root)
            parts += [np.array([(p.sample_id, p.image_id) for p in persons])]
            for name in ("keypoints", "labelled", "box"):
                parts.append(np.stack([getattr(p, name) for p in persons]))
        return digest(fields, parts)

    def records(self, split: str) -> Iterator[Record]:
        persons = self.index[split].persons
        path, _ = self.settings.annotation_file(split)
        skeleton = self.skeleton
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for start in range(0, len(persons), DECODED_AHEAD):
                some = persons[start : start + DECODED_AHEAD]
                yield from pool.map(
                    lambda person: _record(person, path, skeleton), some
                )


def _pictures_digest(persons: Sequence[Person], root: Path) -> str:
    """Of the contents of the pictures, in order.

    It is noted under ``root`` together with the names, sizes and times of change, and
    is worked out anew where one of these is another.
    """
    files = [person.file for person in persons]
    states = [holder(file).stat() for file in files]
    seen = [
        (str(file.absolute()), state.st_size, state.st_mtime_ns)
        for file, state in zip(files, states, strict=True)
    ]
    note = root / "contents" / hashlib.sha256(json.dumps(seen).encode()).hexdigest()
    if note.is_file() and (known := note.read_text()):
        return known
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = pool.map(lambda file: hashlib.sha256(read_encoded(file)), files)
        found = hashlib.sha256(b"".join(each.digest() for each in digests)).hexdigest()
    write_text(note, found)
    return found


def _record(person: Person, annotations: Path, skeleton: Skeleton) -> Record:
    checked = check_picture(person, annotations, skeleton, report=raise_problem)
    assert checked is not None  # else a problem was raised
    return Record(storable(checked), person)
