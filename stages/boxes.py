"""Whom to predict: the boxes of a JSON file, or one body that fills each picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.crops import landmark_boxes
from input_pipeline.pictures import find_files, is_video


@dataclasses.dataclass(frozen=True)
class Person:
    """One body of one picture.

    Args:
        box: (4,) x, y, width, height in pixels; None is the whole picture.
        ids: ``annotation_id`` where there is one.
    """

    box: np.ndarray | None = None
    ids: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Source:
    """A picture, or a video, and the bodies in it (in each of its frames).

    Args:
        file: where it is.
        name: what it is called in the results.
        persons: in the order of the JSON file.
        image_id: of the JSON file, else None: they are counted.
        size: (width, height) that the JSON file gives the picture, if it does.
        frames: for a video: frame number -> its bodies, where they differ from
            ``persons``.
    """

    file: Path
    name: str
    persons: Sequence[Person] = (Person(),)
    image_id: Any = None
    size: tuple[int, int] | None = None
    frames: Mapping[int, Sequence[Person]] = dataclasses.field(default_factory=dict)

    @property
    def is_video(self) -> bool:
        """Whether it has frames."""
        return is_video(self.file)


def find_sources(images: str, boxes: str = "") -> list[Source]:
    """What ``--stage=predict`` goes through, in order.

    Args:
        images: see :func:`input_pipeline.pictures.find_files`.
        boxes: path of a JSON file, or empty: a COCO file with ``images`` and
            ``annotations`` (boxes around the labelled landmarks, else ``bbox``); a
            list of detections with ``file_name`` and ``bbox``; or
            ``{"file name": [[x, y, width, height], ...]}``. A frame of a video is
            called ``clip.mp4#12``. Pictures that it does not name are left out.

    Raises:
        ValueError: nothing to predict, a file of another kind, a box without area.
    """
    if not boxes:
        files = find_files(images)
        names = short_names(files)
        return [Source(file, names[file]) for file in files]
    listed = list(_read_boxes(Path(boxes)))
    folder = Path(images)
    if images.strip() and not folder.is_dir():
        return _only(find_files(images), listed, Path(boxes))
    if not images.strip():
        raise ValueError("config.predict.images is empty; give the pictures' folder")
    found = [dataclasses.replace(s, file=folder / s.name) for s in listed]
    if not found:
        raise ValueError(f"{boxes} has no boxes; nothing to predict")
    return found


def short_names(files: Sequence[Path]) -> dict[Path, str]:
    """Each file's name, with as much of its folder as tells them apart."""
    count: dict[str, int] = {}
    for file in files:
        count[file.name] = count.get(file.name, 0) + 1
    return {f: f.name if count[f.name] == 1 else f.as_posix() for f in files}


def _only(files: Sequence[Path], listed: Sequence[Source], path: Path) -> list[Source]:
    """The listed pictures that are among ``files``."""
    by_name = {source.name: source for source in listed}
    found = []
    for file in files:
        source = by_name.get(file.as_posix()) or by_name.get(file.name)
        if source is not None:
            found.append(dataclasses.replace(source, file=file))
    if not found:
        raise ValueError(
            f"{path} has boxes for {_some(list(by_name))}, but none for "
            f"{_some([file.name for file in files])}; correct its file names"
        )
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) + more) or "nothing"


# --- reading boxes -----------------------------------------------------------------


def _read_boxes(path: Path) -> Iterator[Source]:
    if not path.is_file():
        raise ValueError(f"config.predict.annotations = {path} does not exist")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if isinstance(record, Mapping) and "annotations" in record:
        return _merged(_coco(record, path))
    if isinstance(record, list):
        return _merged(_detections(record, path))
    if isinstance(record, Mapping) and "images" not in record:
        return _merged(_by_name(record, path))
    raise ValueError(
        f"{path} is not a COCO file with 'images' and 'annotations', a list of "
        "detections with 'file_name' and 'bbox', or a record of file names and boxes; "
        "correct it, or leave config.predict.annotations empty"
    )


def _merged(sources: Iterator[Source]) -> Iterator[Source]:
    """One source per picture, and the frames of a video in it."""
    found: dict[str, Source] = {}
    for source in sources:
        name, mark, number = source.name.rpartition("#")
        frame = None
        if mark and number.isdigit() and is_video(Path(name)):
            frame = int(number)
            source = dataclasses.replace(source, name=name, file=Path(name))
        before = found.get(source.name)
        if frame is not None:
            before = before or dataclasses.replace(source, persons=())
            frames = {**before.frames}
            frames[frame] = (*frames.get(frame, ()), *source.persons)
            found[source.name] = dataclasses.replace(before, frames=frames)
        elif before is None:
            found[source.name] = source
        else:
            persons = (*before.persons, *source.persons)
            found[source.name] = dataclasses.replace(before, persons=persons)
    return iter(found.values())


def _coco(record: Mapping[str, Any], path: Path) -> Iterator[Source]:
    pictures = {}
    for i, image in enumerate(_list(record, "images", path)):
        place = f"{path}, images[{i}]"
        if not isinstance(image, Mapping) or "id" not in image:
            raise ValueError(f"{place} has no id")
        pictures[_hashable(image["id"], place)] = (image, _name(image, place))
    for i, annotation in enumerate(_list(record, "annotations", path)):
        place = f"{path}, annotations[{i}]"
        if not isinstance(annotation, Mapping):
            raise ValueError(f"{place} is not a record")
        if annotation.get("iscrowd"):
            continue
        image_id = _hashable(annotation.get("image_id"), place)
        if image_id not in pictures:
            raise ValueError(f"{place}: image_id {image_id!r} is not in 'images'")
        image, name = pictures[image_id]
        ids = {"annotation_id": annotation["id"]} if "id" in annotation else {}
        person = Person(_body_box(annotation, place), ids)
        size = _size(image)
        yield Source(Path(name), name, (person,), image_id=image_id, size=size)


def _detections(record: Sequence[Any], path: Path) -> Iterator[Source]:
    for i, entry in enumerate(record):
        place = f"{path}, [{i}]"
        if not isinstance(entry, Mapping):
            raise ValueError(f"{place} is not a record with 'file_name' and 'bbox'")
        name = _name(entry, place)
        person = Person(_box(entry.get("bbox"), place))
        yield Source(Path(name), name, (person,), image_id=entry.get("image_id"))


def _by_name(record: Mapping[str, Any], path: Path) -> Iterator[Source]:
    for name, boxes in record.items():
        place = f"{path}, {name!r}"
        if not isinstance(boxes, list):
            raise ValueError(f"{place} is not a list of boxes")
        if boxes and not isinstance(boxes[0], list):
            boxes = [boxes]  # a single one
        persons = tuple(Person(_box(box, place)) for box in boxes)
        if persons:
            yield Source(Path(name), name, persons)


def _list(record: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    if not isinstance(record.get(key), list):
        raise ValueError(f"{path} is not a COCO file: its {key!r} is not a list")
    return record[key]


def _hashable(value: Any, place: str) -> Any:
    if isinstance(value, (list, dict)):
        raise ValueError(f"{place}: {value!r} is not the id of a picture")
    return value


def _name(record: Mapping[str, Any], place: str) -> str:
    name = record.get("file_name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{place}: file_name {name!r} is not a name")
    return name


def _body_box(annotation: Mapping[str, Any], place: str) -> np.ndarray:
    """Around the labelled landmarks as in training, else the annotated box."""
    triples = _numbers(annotation.get("keypoints"))
    if triples.size and triples.ndim == 1 and triples.size % 3 == 0:
        points = triples.reshape(-1, 3)
        labelled = (points[:, 2] > 0) & np.isfinite(points[:, :2]).all(axis=1)
        around = landmark_boxes(points[None, :, :2], labelled[None])[0]
        if around[2:].max() > 0:
            # A line of landmarks has a crop too: its side is the longer one.
            return np.maximum(around, [-np.inf, -np.inf, 1e-3, 1e-3]).astype(float)
    return _box(annotation.get("bbox"), place)


def _box(value: Any, place: str) -> np.ndarray:
    box = _numbers(value)
    if box.shape != (4,) or not np.isfinite(box).all() or box[2:].min() <= 0:
        raise ValueError(
            f"{place}: bbox {value!r} is not x, y, width, height with an area, and "
            "there are no labelled landmarks; give one of them"
        )
    return box


def _numbers(value: Any) -> np.ndarray:
    try:
        return np.asarray([] if value is None else value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros(0)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    if isinstance(width, int) and isinstance(height, int):
        return width, height
    return None
