"""Which pictures and frames to predict, and which bodies in each of them.

Without boxes one body fills each picture; boxes come from a JSON file.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import glob
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.checks.problems import Problem
from input_pipeline.crops import landmark_boxes
from input_pipeline.decoding import Upright
from input_pipeline.formats import coco
from input_pipeline.formats.annotations import Source as LabelFile
from input_pipeline.formats.json_file import read_json, whole_number
from input_pipeline.pictures import (
    PICTURE_SUFFIXES,
    Minify,
    is_video,
    open_picture,
    read_video,
)


@dataclasses.dataclass(frozen=True)
class Person:
    """One body of one picture."""

    box: np.ndarray | None = None  # x, y, width, height in pixels; None: the picture
    annotation_id: Any = None  # of the JSON file


@dataclasses.dataclass(frozen=True)
class Source:
    """A picture, or a video, and the bodies in it (in each of its frames)."""

    file: Path
    name: str  # what it is called in the results
    persons: tuple[Person, ...] = (Person(),)  # in the order of the JSON file
    image_id: Any = None  # of the JSON file, else they are counted
    size: tuple[int, int] | None = None  # width and height that the JSON file gives
    # Of a video: frame number -> its bodies, where they differ from `persons`.
    frames: Mapping[int, tuple[Person, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, or one frame of a video."""

    number: int  # of all pictures of a run, from 0
    source: Source
    frame: int | None  # number in its video
    persons: tuple[Person, ...]
    # As `input_pipeline.pictures.open_picture`; raises ValueError where that fails.
    open: Callable[[Minify], contextlib.AbstractContextManager[Upright]]
    pixels: int = 0  # that are in memory already


def pictures_of(sources: Sequence[Source], *, every: int = 1) -> Iterator[Picture]:
    """All pictures in order, and each ``every``-th frame of the videos."""
    number = itertools.count()
    for source in sources:
        if not is_video(source.file):
            load = partial(open_picture, source.file, source.size)
            yield Picture(next(number), source, None, source.persons, load)
            continue
        frame = -1
        try:
            for frame, image in read_video(source.file, every):
                persons = source.frames.get(frame, source.persons)
                load, pixels = partial(_whole, Upright(image)), math.prod(image.size)
                yield Picture(next(number), source, frame, persons, load, pixels)
        except (ValueError, OSError) as error:
            load = partial(_stop, error)
            yield Picture(next(number), source, None, source.persons, load)
            continue
        for late in sorted(n for n in source.frames if n >= frame + every):
            missing = dataclasses.replace(source, name=f"{source.name}#{late}")
            error = ValueError(f"{source.file} has no frame {late}")
            yield Picture(next(number), missing, late, (), partial(_stop, error))


def _whole(
    picture: Upright, minify: Minify
) -> contextlib.AbstractContextManager[Upright]:
    return contextlib.nullcontext(picture)


def _stop(problem: Problem | Exception, *_: Any) -> Any:
    raise ValueError(str(problem))


# --- finding pictures --------------------------------------------------------------


def find_sources(
    images: str, boxes: str = "", *, box: str = "landmarks"
) -> list[Source]:
    """What ``--stage=predict`` goes through, in order.

    Args:
        images: see :func:`find_files`.
        boxes: path of a JSON file, or empty: a COCO file with ``images`` and
            ``annotations``; a list of detections with ``file_name`` and ``bbox``; or
            ``{"file name": [[x, y, width, height], ...]}``. A frame of a video is
            called ``clip.mp4#12``. Pictures that it does not name are left out.
        box: ``data.box`` of the training: ``"landmarks"`` takes the box around the
            labelled landmarks of a COCO annotation and, without any, its ``bbox``;
            ``"annotation"`` always takes ``bbox``.

    Raises:
        ValueError: nothing to predict, a file of another kind, a box without area.
    """
    if not boxes:
        files = find_files(images, "predict.images")
        count = collections.Counter(file.name for file in files)
        # With its folder where two files have the same name.
        return [
            Source(f, f.name if count[f.name] == 1 else f.as_posix()) for f in files
        ]
    listed = _merged(_read_boxes(Path(boxes), box))
    folder = Path(images)
    if not images.strip():
        raise ValueError("config.predict.images is empty; give the pictures' folder")
    if not folder.is_dir():
        return _only(find_files(images, "predict.images"), listed, Path(boxes))
    if not listed:
        raise ValueError(f"{boxes} has no boxes; nothing to predict")
    return [dataclasses.replace(s, file=folder / s.name) for s in listed]


def find_files(images: str, field: str) -> list[Path]:
    """The pictures and videos that a text names.

    ``images``: a file, a folder (the pictures in it), a pattern with ``*``, or several
    of them separated by commas. ``field`` of the config, for messages.

    Raises:
        ValueError: nothing named, or a part that names no picture.
    """
    if not images.strip():
        raise ValueError(f"config.{field} is empty; give a folder or a picture")
    whole = Path(images)  # a name may hold a comma or a star itself
    parts = [images] if whole.exists() else [p.strip() for p in images.split(",")]
    files = [file for part in parts if part for file in _files_of(part, field)]
    return list(dict.fromkeys(files))


def _files_of(part: str, field: str) -> list[Path]:
    path = Path(part)
    if path.is_file() or not (path.is_dir() or glob.has_magic(part)):
        return [path]  # one that is missing is reported when it is opened
    pattern = f"{glob.escape(part)}/*" if path.is_dir() else part
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    pictures = [f for f in found if f.suffix.lower() in PICTURE_SUFFIXES]
    videos = [f for f in found if is_video(f)]
    if path.is_dir() and pictures:
        return pictures
    if path.is_dir() or not pictures + videos:
        raise ValueError(
            f"config.{field} = {part}: no picture "
            f"({', '.join(PICTURE_SUFFIXES)}) among {len(found)} files"
            + (f"; name a video, or '{part}/*{videos[0].suffix}'" if videos else "")
        )
    return sorted(pictures + videos)


def _only(files: Sequence[Path], listed: Sequence[Source], path: Path) -> list[Source]:
    """The listed pictures that are among ``files``."""
    by_name = {source.name: source for source in listed}
    pairs = [(f, by_name.get(f.as_posix()) or by_name.get(f.name)) for f in files]
    found = [dataclasses.replace(s, file=file) for file, s in pairs if s is not None]
    if not found:
        there, wanted = ", ".join([*by_name][:3]), ", ".join(f.name for f in files[:3])
        raise ValueError(
            f"{path} has boxes for {there or 'nothing'}, ..., but none for {wanted}; "
            "correct its file names"
        )
    return found


# --- reading boxes -----------------------------------------------------------------


def _read_boxes(path: Path, box: str) -> Iterator[Source]:
    """One source for each body of a JSON file."""
    if not path.is_file():
        raise ValueError(f"config.predict.annotations = {path} does not exist")
    file = LabelFile(path, Path(), "", box, 1, _stop)
    record = read_json(file)
    if isinstance(record, dict) and "annotations" in record:
        return _coco(record, file)
    if isinstance(record, (list, dict)) and "images" not in record:
        return _by_file_name(record, file)
    raise ValueError(
        f"{path} is not a COCO file with 'images' and 'annotations', a list of "
        "detections with 'file_name' and 'bbox', or a record of file names and boxes; "
        "correct it, or leave config.predict.annotations empty"
    )


def _merged(sources: Iterator[Source]) -> list[Source]:
    """One source per picture, and the frames of a video in it; none without boxes."""
    found: dict[str, Source] = {}
    for source in sources:
        name, mark, number = source.name.rpartition("#")
        # As int() reads them; a longer number is no frame of any video.
        if mark and number.isdecimal() and len(number) < 10 and is_video(Path(name)):
            before = found.get(name, Source(Path(name), name, ()))
            persons = (*before.frames.get(int(number), ()), *source.persons)
            frames = {**before.frames, int(number): persons}
            found[name] = dataclasses.replace(before, frames=frames)
        elif source.name in found:
            before = found[source.name]
            persons = (*before.persons, *source.persons)
            found[source.name] = dataclasses.replace(before, persons=persons)
        else:
            found[source.name] = source
    return [s for s in found.values() if s.persons or s.frames]


def _coco(record: Mapping[str, Any], file: LabelFile) -> Iterator[Source]:
    for key in ("images", "annotations"):
        if not isinstance(record.get(key), list):
            remedy = "use the COCO format: images, annotations"
            file.problem("not a COCO file", "", f"no list {key!r}", remedy)
    pictures = coco.read_pictures(file, record["images"])
    for i, annotation in enumerate(record["annotations"]):
        at = f"annotations[{i}]"
        if not isinstance(annotation, Mapping):
            file.problem("bad annotation", at, annotation, "make it a COCO record")
        if annotation.get("iscrowd"):
            continue
        image_id = whole_number(annotation.get("image_id"))
        if image_id is None or image_id not in pictures:
            remedy = "add the image to 'images' or remove the annotation"
            file.problem("unknown image", at, annotation.get("image_id"), remedy)
            continue
        name, size = pictures[image_id]
        body = None if file.box == "annotation" else _landmark_box(annotation)
        box = _box(file, at, annotation.get("bbox")) if body is None else body
        person = Person(box, annotation.get("id"))
        yield Source(Path(name), name, (person,), image_id=image_id, size=size)


def _by_file_name(record: Any, file: LabelFile) -> Iterator[Source]:
    """Detections, or file names with their boxes."""
    if isinstance(record, list):
        found = [entry if isinstance(entry, Mapping) else {} for entry in record]
        entries = [
            (f"[{i}]", e.get("file_name"), e.get("bbox"), e.get("image_id"))
            for i, e in enumerate(found)
        ]
    else:
        entries = [(repr(name), name, boxes, None) for name, boxes in record.items()]
    for at, name, boxes, image_id in entries:
        if not isinstance(name, str) or not name:
            file.problem("bad file_name", at, name, "give the name of a picture")
            continue
        if not isinstance(boxes, list) or (boxes and not isinstance(boxes[0], list)):
            boxes = [boxes]  # a single one
        persons = tuple(Person(_box(file, at, box)) for box in boxes)
        yield Source(Path(name), name, persons, image_id=image_id)


def _landmark_box(annotation: Mapping[str, Any]) -> np.ndarray | None:
    """Around the labelled landmarks, as in training; None without any."""
    try:
        points = np.array(annotation.get("keypoints") or [], np.float64).reshape(-1, 3)
    except (TypeError, ValueError, OverflowError):
        return None
    labelled = (points[:, 2] > 0) & np.isfinite(points[:, :2]).all(axis=1)
    if not labelled.any():
        return None
    box = landmark_boxes(points[None, :, :2], labelled[None])[0].astype(np.float64)
    # A line of landmarks has a crop too: its side is the longer one.
    return np.maximum(box, [-np.inf, -np.inf, 1e-3, 1e-3]) if box[2:].any() else None


def _box(file: LabelFile, at: str, value: Any) -> np.ndarray:
    box = coco.read_box(value)
    if not np.isfinite(box).all() or box[2:].min() <= 0:
        file.problem("no box", at, f"bbox {value!r}", "give x, y, width, height")
    return box
