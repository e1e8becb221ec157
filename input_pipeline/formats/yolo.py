"""Reads Ultralytics' pose data: ``data.yaml`` and a text file for each picture.

A line is a class, a box and the keypoints, ``cx cy w h x1 y1 v1 x2 y2 v2 ...``, in
parts of the picture's width and height; without v where ``kpt_shape`` ends in 2. Labels
lie in ``labels`` where pictures lie in ``images``. ``flip_idx`` says which joints are
pairs, and ``kpt_names``, where it is there, what they are called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.formats.annotations import (
    OTHER_CATEGORY,
    Labels,
    Person,
    Source,
    least_labelled,
)
from input_pipeline.formats.yaml_file import read_yaml
from input_pipeline.frames import is_file, picture_size
from input_pipeline.pictures import PICTURE_SUFFIXES
from input_pipeline.skeleton import COCO_17, MOST_JOINTS, Skeleton
from runtime.reading import read_bytes

BOX = 5  # numbers before the keypoints: the class, cx, cy, w, h


class _Page(NamedTuple):
    """A text file, and where its picture may be: folders, and a name without suffix."""

    file: Path
    folders: tuple[Path, ...]
    stem: str


def read(source: Source) -> Labels | None:
    """The bodies of all pictures of a split, by file and line, numbered from 0."""
    path = source.path
    if path.is_dir():
        path = next((f for f in sorted(path.glob("*.y*ml"))), path / "data.yaml")
    try:
        config = read_yaml(path)
        count, width = (int(v) for v in config["kpt_shape"])
        if not 0 < count <= MOST_JOINTS or width not in (2, 3):
            raise ValueError(f"kpt_shape {[count, width]}")
        skeleton = _skeleton(config, count, source.skeleton)
        pages = list(_pages(source, path, config))
    except (KeyError, OSError, TypeError, ValueError) as error:
        remedy = "give the data.yaml of a pose data set, with kpt_shape, path and train"
        source.problem("not a YOLO file", path.name, repr(error), remedy)
        return None
    if not pages:
        remedy = "put a text file for each picture into 'labels', beside 'images'"
        source.problem(
            "missing file", path.name, f"no labels of {source.split}", remedy
        )
        return None
    labels = Labels(skeleton)
    found = _bodies(source, pages, config, (count, width), labels.skipped)
    return dataclasses.replace(labels, persons=tuple(found))


def _skeleton(config: Any, count: int, given: Skeleton | None) -> Skeleton:
    """Its joints and pairs; joints without names are those of a given skeleton."""
    names = config.get("kpt_names")
    names = next(iter(names.values()), None) if isinstance(names, Mapping) else names
    flip = [int(i) for i in config.get("flip_idx") or range(count)]
    if not names and given and given.num_joints == count:
        return given
    if not names and flip == COCO_17.flip_permutation.tolist():
        return COCO_17
    joints = names or [f"keypoint_{i + 1}" for i in range(count)]
    if len(joints) != count or len(flip) != count:
        raise ValueError(f"{len(joints)} kpt_names, {len(flip)} flip_idx, not {count}")
    pairs = [(i, k) for i, k in enumerate(flip) if i < k]
    return Skeleton.from_names({"name": "yolo", "joints": joints}).with_pairs(pairs)


def _pages(source: Source, path: Path, config: Any) -> Iterator[_Page]:
    root = path.parent / str(config.get("path") or "")
    root = root if root.is_dir() else path.parent
    entries = config.get(source.split) or ()
    for entry in [entries] if isinstance(entries, str) else entries:
        place = root / entry
        if place.suffix == ".txt":
            for line in read_bytes(place).decode("utf-8").split():
                picture = root / line
                label = _beside(picture).with_suffix(".txt")
                yield _Page(label, (source.images, picture.parent), picture.stem)
            continue
        folder = _beside(place)
        folder = folder if folder.is_dir() else root / "labels"
        if folder.resolve() in path.resolve().parent.parents:  # half a disk
            raise ValueError(f"{entry!r} is a folder that this file lies in")
        for label in sorted(folder.rglob("*.txt")):
            stem = label.relative_to(folder).with_suffix("").as_posix()
            yield _Page(label, (source.images, place), stem)


def _beside(path: Path) -> Path:
    """The place of labels of a place of pictures: the last ``images`` is ``labels``."""
    parts = list(path.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _bodies(
    source: Source,
    pages: list[_Page],
    config: Any,
    shape: tuple[int, int],
    skipped: dict[str, int],
) -> Iterator[Person]:
    tables = [_table(source, page, shape) for page in pages]
    count, width = shape
    thirds = [t[:, BOX + 2 : BOX + 3 * count : 3] for t in tables if width == 3]
    flat = np.concatenate([part.ravel() for part in thirds]) if thirds else np.ones(1)
    least = least_labelled(source, flat)
    sample = 0
    for number, (page, table) in enumerate(zip(pages, tables, strict=True)):
        if not len(table):
            continue
        picture = _picture(page)
        size = None if picture is None else picture_size(picture)
        if picture is None or size is None:
            remedy = "set --config.data.images to the folder of the pictures, or add it"
            value = f"no readable picture {page.stem} in {page.folders[0]}"
            source.problem("missing file", page.file.name, value, remedy)
            continue
        name = _name(picture, source.images)
        for i, row in enumerate(table):
            if source.category not in ("", *_names_of(config, row[0])):
                skipped[OTHER_CATEGORY] = skipped.get(OTHER_CATEGORY, 0) + 1
                continue
            points = row[BOX : BOX + count * width].reshape(count, width)
            there = (points[:, :2] != 0).any(axis=1)
            labelled = points[:, 2] >= least if width == 3 else there
            xy = np.where(labelled[:, None], points[:, :2] * size, 0.0)
            corner, sides = (row[1:3] - row[3:5] / 2) * size, row[3:5] * size
            at = f"{page.file.name} line {i + 1}"
            box = np.concatenate([corner, sides])
            if labelled.any():
                yield Person(at, sample, number, name, xy, labelled, size, box)
                sample += 1
            else:
                skipped["unlabelled"] += 1


def _table(source: Source, page: _Page, shape: tuple[int, int]) -> np.ndarray:
    """(bodies, numbers) of one file; none after a report."""
    least = BOX + shape[0] * shape[1]
    try:
        lines = read_bytes(page.file).decode("utf-8").splitlines()
        rows = [
            [float(cell) for cell in line.split()] for line in lines if line.strip()
        ]
        # A prediction ends in a score.
        odd = [len(row) for row in rows if len(row) not in (least, least + 1)]
        if odd:
            raise ValueError(f"{odd[0]} numbers in a line, not {least}")
        if not all(np.isfinite(row[:BOX]).all() for row in rows):
            raise ValueError("a class or a box that is no number")
    except (OSError, ValueError) as error:
        keypoints = f"{shape[0]} keypoints of {shape[1]} numbers"
        remedy = f"a line has a class, a box and {keypoints}"
        source.problem("bad row", page.file.name, error, remedy)
        rows = []
    return np.array([row[:least] for row in rows]).reshape(-1, least)


def _picture(page: _Page) -> Path | None:
    names = [
        page.stem + s for suffix in PICTURE_SUFFIXES for s in (suffix, suffix.upper())
    ]
    found = (folder / name for folder in page.folders for name in names)
    return next((file for file in found if is_file(file)), None)


def _name(picture: Path, images: Path) -> str:
    inside = picture.is_relative_to(images)
    return str(picture.relative_to(images) if inside else picture.absolute())


def _names_of(config: Any, number: float) -> tuple[str, str]:
    """Number and name of a class."""
    names = config.get("names")
    listed = enumerate(names) if isinstance(names, list) else {}
    table = dict(names if isinstance(names, Mapping) else listed)
    return f"{number:g}", str(table.get(int(number), ""))
