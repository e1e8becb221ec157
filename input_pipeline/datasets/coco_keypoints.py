"""TFDS builder for own data: COCO keypoints JSON and a folder of pictures."""

from __future__ import annotations

import concurrent.futures
import io
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from input_pipeline.datasets.build import KeypointBuilder
from input_pipeline.datasets.coco_json import Person, check_picture
from input_pipeline.datasets.coco_splits import read_splits
from input_pipeline.datasets.records import Record
from input_pipeline.problems import raise_problem
from input_pipeline.skeleton import Skeleton

DECODED_AHEAD = 64  # pictures a split holds in memory while it is prepared


class CocoKeypoints(KeypointBuilder):
    """One sample per labelled person; pictures are stored as they are.

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
    encoded, picture = checked
    return Record(
        encoded=_readable(encoded, picture),
        keypoints=person.keypoints,
        visible=person.visible,
        box=person.box,
        sample_id=person.sample_id,
        image_id=person.image_id,
        name=person.name,
    )


def _readable(encoded: bytes, picture: Image.Image) -> bytes:
    """The bytes as they are where TensorFlow decodes them, else as PNG."""
    if picture.format in ("JPEG", "PNG") and picture.mode != "CMYK":
        return encoded
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()
