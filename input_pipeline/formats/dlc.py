"""Reads the labels of a DeepLabCut project: ``CollectedData_<scorer>.csv`` or ``.h5``.

Header rows: ``scorer``, with several animals ``individuals``, ``bodyparts``,
``coords``. A row begins with the picture, in one cell or in three (``labeled-data``,
video, file). An empty cell is an unlabelled joint. The centre of the first pixel is at
0. The bones come from ``skeleton`` in the project's ``config.yaml``, where there is
one. A project's folder reads the labels of all its videos; where a video has those of
several scorers, ``scorer`` in ``config.yaml`` chooses. Unique body parts, the
individual ``single``, are landmarks of the scene and are left out.

A ``likelihood`` below ``config.data.min_score`` counts as unlabelled; its default is
DeepLabCut's own threshold.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.formats.annotations import Labels, Person, Source
from input_pipeline.formats.hdf5 import read_frame
from input_pipeline.formats.json_file import check_file, read_bytes
from input_pipeline.formats.yaml_file import read_yaml
from input_pipeline.settings import deeplabcut_project
from input_pipeline.skeleton import Skeleton

PIXEL_CENTRE_PX = 0.0  # of the first pixel
HEADER = ("scorer", "individuals", "bodyparts", "coords")
LABELS = "labeled-data/*/CollectedData_*"
ROOT_LABELS = "CollectedData*"  # in Lightning Pose, beside labeled-data
UNIQUE = "single"


class Table(NamedTuple):
    """One file as text and numbers.

    Args:
        columns: (individual, bodypart, coordinate) of each column of ``values``.
        pictures: name of the picture of each row.
        values: (rows, columns) float64, NaN where empty.
    """

    columns: Sequence[tuple[str, str, str]]
    pictures: Sequence[str]
    values: np.ndarray


def read(source: Source) -> Labels | None:
    """The animals of all pictures, by file, row and individual, numbered from 0."""
    config = _config(source)
    files = label_files(source.path, str(config.get("scorer", "")))
    if not files:
        value = f"no {LABELS}.csv or .h5, nor {ROOT_LABELS}.csv"
        remedy = "give a CollectedData csv, or the folder of the project"
        source.problem("missing file", "", value, remedy)
    tables = {file: _read_table(source, file) for file in files}
    good = {file: table for file, table in tables.items() if table is not None}
    if len(good) < max(len(tables), 1) or _labelled_twice(source, good):
        return None
    good = {file: without_unique(source, table) for file, table in good.items()}
    joints = tuple(dict.fromkeys(c[1] for t in good.values() for c in t.columns))
    labels = Labels(_skeleton(source, joints, config), pixel_centre=PIXEL_CENTRE_PX)
    found: list[Person] = []
    image_ids: dict[str, int] = {}
    for file, table in good.items():
        for person in _persons(file.name, table, joints, image_ids, source.min_score):
            if person.labelled.any():
                found.append(dataclasses.replace(person, sample_id=len(found)))
            else:
                labels.skipped["unlabelled"] += 1
    return dataclasses.replace(labels, persons=tuple(found))


def label_files(path: Path, scorer: str = "") -> list[Path]:
    """The files to read: ``path`` itself, or those of all videos of a project."""
    if not path.is_dir():
        return [path]
    for pattern in (LABELS, ROOT_LABELS):
        found = sorted(path.glob(f"{pattern}.csv"))
        with_csv = {file.with_suffix("") for file in found}
        hdf = path.glob(f"{pattern}.h5")
        found += [file for file in hdf if file.with_suffix("") not in with_csv]
        if found:
            break
    chosen = f"CollectedData_{scorer}"
    of_scorer = {file.parent for file in found if file.stem == chosen}
    return sorted(f for f in found if f.stem == chosen or f.parent not in of_scorer)


def _labelled_twice(source: Source, tables: dict[Path, Table]) -> bool:
    """Whether a picture is in two files, so that its animals would count twice."""
    first: dict[str, Path] = {}
    for file, table in tables.items():
        for name in table.pictures:
            other = first.setdefault(name, file)
            if other != file:
                value = f"{name} is in {other.name} and in {file.name}"
                remedy = "give one of them, or name the scorer in config.yaml"
                source.problem("labelled twice", "", value, remedy)
                return True
    return False


def without_unique(source: Source, table: Table) -> Table:
    """The table without body parts that only the individual ``single`` has."""
    single = {part for animal, part, _ in table.columns if animal == UNIQUE}
    others = {part for animal, part, _ in table.columns if animal != UNIQUE}
    if not single or not others or single & others:
        return table
    value = f"{', '.join(sorted(single))} are of no animal and left out"
    remedy = "nothing to do"
    source.problem("unique body parts", UNIQUE, value, remedy, fatal=False)
    kept = [i for i, column in enumerate(table.columns) if column[0] != UNIQUE]
    columns = [table.columns[i] for i in kept]
    return table._replace(columns=columns, values=table.values[:, kept])


def _config(source: Source) -> dict[str, Any]:
    """The project's configuration; empty where there is none."""
    config = deeplabcut_project(source.path) / "config.yaml"
    if not config.is_file():
        return {}
    try:
        return read_yaml(config)
    except (ValueError, OSError) as why:
        remedy = "correct it, or set --config.data.skeleton"
        source.problem("bad skeleton", config.name, why, remedy, fatal=False)
        return {}


def _skeleton(
    source: Source, joints: tuple[str, ...], config: dict[str, Any]
) -> Skeleton:
    """The joints, with the bones of the project's configuration."""
    plain: dict[str, Any] = {"name": "deeplabcut", "joints": joints}
    try:
        given = config.get("skeleton") or ()
        bones = [bone for bone in given if {*map(str, bone)} <= set(joints)]
        return Skeleton.from_names(plain | {"edges": bones})
    except (ValueError, TypeError) as why:
        remedy = "correct it, or set --config.data.skeleton"
        source.problem("bad skeleton", "config.yaml", why, remedy, fatal=False)
    return Skeleton.from_names(plain)


def _persons(
    file: str,
    table: Table,
    joints: Sequence[str],
    image_ids: dict[str, int],
    likely: float,
) -> Iterator[Person]:
    individuals = tuple(dict.fromkeys(c[0] for c in table.columns))
    place = {column: i for i, column in enumerate(table.columns)}
    # One column more, for what the file does not have.
    values = np.pad(table.values, ((0, 0), (0, 1)), constant_values=np.nan)
    axes = ("x", "y", "likelihood")
    for row, name in enumerate(table.pictures):
        image_id = image_ids.setdefault(name, len(image_ids))
        for individual in individuals:
            columns = [
                [place.get((individual, joint, axis), -1) for axis in axes]
                for joint in joints
            ]
            marks = values[row][np.array(columns)]
            given = ~np.isnan(marks[:, :2]).all(axis=1)
            labelled = given & (np.nan_to_num(marks[:, 2], nan=1.0) >= likely)
            xy = np.where(labelled[:, None], marks[:, :2], 0.0)
            at = f"{file} row {row}"
            at += f" {individual}" if len(individuals) > 1 else ""
            yield Person(at, 0, image_id, name, xy, labelled)


def _read_table(source: Source, file: Path) -> Table | None:
    """The table of one file, or None after a report."""
    here = dataclasses.replace(source, path=file)
    found = read_table(here)
    if found is None:
        return None
    pictures = tuple(name.replace("\\", "/") for name in found.pictures)
    if not pictures:
        here.problem("no labelled person", "", "no rows", "label some pictures")
        return None
    if all(Path(name).suffix == "" for name in pictures):
        remedy = (
            "these are predictions for a video and no labels: use the files under "
            "labeled-data, or set --config.data.name=tracks"
        )
        here.problem("no pictures", "row 0", pictures[0], remedy)
        return None
    return found._replace(pictures=pictures)


def read_table(source: Source) -> Table | None:
    """The table of one file, labels or predictions, or None after a report."""
    hdf = source.path.suffix.lower() in (".h5", ".hdf", ".hdf5")
    return (_read_hdf if hdf else _read_csv)(source)


def _read_csv(source: Source) -> Table | None:
    data = read_bytes(source)
    if data is None:
        return None
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")
    try:
        return _read_rows(source, (row for row in csv.reader(text) if any(row)))
    except (UnicodeDecodeError, csv.Error) as error:
        source.problem("not a csv file", "", error, "write it as UTF-8, with commas")
        return None


def _read_rows(source: Source, rows: Iterator[list[str]]) -> Table | None:
    start = list(itertools.islice(rows, 4))
    # pandas calls the empty cells of a header so.
    top = [["" if c.startswith("Unnamed: ") else c for c in row] for row in start]
    head = {row[0].strip().lower(): row for row in top if row[0].strip()}
    if not {"bodyparts", "coords"} <= set(head):
        remedy = f"the first rows should begin with {', '.join(HEADER)}"
        remedy += _pandas_header(top)
        source.problem("not a DeepLabCut file", "", start[:1], remedy)
        return None
    coords, width = head["coords"], len(head["coords"])
    first = next((i for i, cell in enumerate(coords) if i and cell.strip()), 1)
    columns = _columns(head, first, width)
    if not columns or len(set(columns.values())) < len(columns):
        remedy = "give every joint of every individual one x and one y"
        source.problem("not a DeepLabCut file", "header", "columns differ", remedy)
        return None
    names, values = [], array("d")  # as they come: a video has many rows
    above = len([key for key in head if key in HEADER])
    for i, row in enumerate(itertools.chain(start[above:], rows)):
        try:
            cells = [row[place].strip() for place in columns]
            numbers = [float(cell) if cell else np.nan for cell in cells]
        except (ValueError, IndexError):
            numbers = []
        if len(row) != width or not numbers:
            what = f"{len(row)} cells under a header of {width}"
            what = "a cell that is no number" if len(row) == width else what
            remedy = "every row has a cell for each of the header, a number or empty"
            source.problem("bad row", f"row {i}", f"{what}: {','.join(row)}", remedy)
            return None
        names.append("/".join(cell.strip() for cell in row[:first] if cell.strip()))
        values.extend(numbers)
    shape = len(names), len(columns)
    table = np.frombuffer(values).reshape(shape)
    return Table(tuple(columns.values()), names, table)


def _pandas_header(top: list[list[str]]) -> str:
    """What pandas has done to the header, if it has."""
    if any(HEADER[2] in row[1:2] for row in top):
        return "; pandas has put its index before it: write it with index=False"
    if top and any(cell.startswith("(") and cell.endswith(")") for cell in top[0]):
        return "; pandas has made one row of it: read it with header=[0, 1, 2]"
    return ""


def _columns(
    head: dict[str, list[str]], first: int, width: int
) -> dict[int, tuple[str, str, str]]:
    """Where x, y and likelihood stand; Lightning Pose has columns besides."""
    rows = [head.get("individuals", [""] * width), head["bodyparts"], head["coords"]]
    if any(len(row) != width for row in rows):
        return {}
    triples = zip(*rows, strict=True)
    columns = [(a.strip(), b.strip(), c.strip().lower()) for a, b, c in triples]
    axes = {"x", "y", "likelihood"}
    found = {i: c for i, c in enumerate(columns) if i >= first and c[2] in axes}
    x, y = ({c[:2] for c in found.values() if c[2] == axis} for axis in "xy")
    return found if x == y and all(part for _, part, _ in found.values()) else {}


def _read_hdf(source: Source) -> Table | None:
    if not check_file(source):
        return None
    try:
        frame = read_frame(source.path)
        levels = [name.lower() for name in frame.levels]
        named = [dict(zip(levels, column, strict=True)) for column in frame.columns]
        columns = tuple(
            (c.get("individuals", ""), c["bodyparts"], c["coords"].lower())
            for c in named
        )
    except Exception as error:  # HDF5 fails in many ways
        remedy = "use the .csv beside it, or write it again with DeepLabCut"
        source.problem("not a DeepLabCut file", "", repr(error), remedy)
        return None
    names = ["/".join(filter(None, key)) for key in frame.index]
    return Table(columns, names, frame.values)
