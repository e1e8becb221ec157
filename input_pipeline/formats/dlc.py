"""Reads the labels of a DeepLabCut project: ``CollectedData_<scorer>.csv`` or ``.h5``.

Header rows: ``scorer``, with several animals ``individuals``, ``bodyparts``,
``coords``. A row begins with the picture, in one cell or in three (``labeled-data``,
video, file). An empty cell is an unlabelled joint. The centre of the first pixel is at
0. The bones come from ``skeleton`` in the project's ``config.yaml``, where there is
one. A project's folder reads the labels of all its videos.

A ``likelihood`` below 0.6, which is DeepLabCut's own threshold, counts as unlabelled.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.formats.annotations import Labels, Marks, Source
from input_pipeline.formats.json_file import read_bytes
from input_pipeline.settings import deeplabcut_project
from input_pipeline.skeleton import Skeleton

CENTRE_PX = 0.5  # DeepLabCut has the centre of the first pixel at 0
LIKELY = 0.6
HEADER = ("scorer", "individuals", "bodyparts", "coords")
LABELS = "labeled-data/*/CollectedData_*"


@dataclasses.dataclass(frozen=True)
class Table:
    """One file as text and numbers.

    Args:
        file: where it was read.
        columns: (individual, bodypart, coordinate) of each column of ``values``.
        pictures: name of the picture of each row.
        values: (rows, columns) float64, NaN where empty.
    """

    file: Path
    columns: tuple[tuple[str, str, str], ...]
    pictures: tuple[str, ...]
    values: np.ndarray


def read(source: Source) -> Labels | None:
    """The animals of all pictures, by file, row and individual, numbered from 0."""
    tables = [_read_table(source, file) for file in label_files(source.path)]
    if not tables:
        remedy = "give a CollectedData csv, or the folder of the project"
        source.problem("missing file", "", f"no {LABELS}.csv or .h5", remedy)
    good = [table for table in tables if table is not None]
    if len(good) < max(len(tables), 1):
        return None
    joints = tuple(dict.fromkeys(c[1] for table in good for c in table.columns))
    skeleton = _skeleton(source, joints)
    labels = Labels(skeleton, ())
    found: list[Marks] = []
    image_ids: dict[str, int] = {}
    count = 0
    for table in good:
        for marks in _marks(table, joints, image_ids):
            if marks.labelled.any():
                found.append(dataclasses.replace(marks, sample_id=count))
                count += 1
            else:
                labels.skipped["unlabelled"] += 1
    return Labels(skeleton, tuple(found), labels.skipped)


def label_files(path: Path) -> list[Path]:
    """The files to read: ``path`` itself, or those of all videos of a project."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob(f"{LABELS}.csv"))
    with_csv = {file.with_suffix("") for file in found}
    others = [f for f in path.glob(f"{LABELS}.h5") if f.with_suffix("") not in with_csv]
    return sorted([*found, *others])


def _skeleton(source: Source, joints: tuple[str, ...]) -> Skeleton:
    """The joints, with the bones of the project's configuration."""
    config = deeplabcut_project(source.path) / "config.yaml"
    bones: list[Any] = []
    if config.is_file():
        import yaml

        try:
            record = yaml.safe_load(config.read_bytes())
            given = record.get("skeleton") if isinstance(record, dict) else None
            bones = [b for b in given or () if {*map(str, b)} <= set(joints)]
            return Skeleton.from_names(
                {"name": "deeplabcut", "joints": joints, "edges": bones}
            )
        except (
            yaml.YAMLError,
            ValueError,
            TypeError,
            OSError,
            RecursionError,
        ) as error:
            remedy = "correct it, or set --config.data.skeleton"
            source.problem("bad skeleton", config.name, error, remedy, fatal=False)
    return Skeleton.from_names({"name": "deeplabcut", "joints": joints})


def _marks(
    table: Table, joints: Sequence[str], image_ids: dict[str, int]
) -> Iterator[Marks]:
    individuals = tuple(dict.fromkeys(c[0] for c in table.columns))
    place = {column: i for i, column in enumerate(table.columns)}
    several = len(individuals) > 1
    for row, (name, values) in enumerate(
        zip(table.pictures, table.values, strict=True)
    ):
        image_id = image_ids.setdefault(name, len(image_ids))
        for individual in individuals:
            read = [
                [
                    values[place[key]] if key in place else np.nan
                    for axis in ("x", "y", "likelihood")
                    for key in [(individual, joint, axis)]
                ]
                for joint in joints
            ]
            array = np.array(read, np.float64)
            seen = ~np.isnan(array[:, :2]).all(axis=1)
            labelled = seen & (np.nan_to_num(array[:, 2], nan=1.0) >= LIKELY)
            xy = np.where(labelled[:, None], array[:, :2] + CENTRE_PX, 0.0)
            at = f"{table.file.name} row {row}" + (f" {individual}" * several)
            yield Marks(at, 0, image_id, name, xy, labelled)


def _read_table(source: Source, file: Path) -> Table | None:
    here = dataclasses.replace(source, path=file)
    if file.suffix.lower() in (".h5", ".hdf", ".hdf5"):
        return _read_hdf(here)
    return _read_csv(here)


def _read_csv(source: Source) -> Table | None:
    data = read_bytes(source)
    if data is None:
        return None
    try:
        text = data.decode("utf-8-sig")
        rows = [row for row in csv.reader(text.splitlines()) if any(row)]
    except (ValueError, csv.Error) as error:
        source.problem("not a csv file", "", error, "save the file again as UTF-8")
        return None
    head = {row[0].strip().lower(): row for row in rows[:4] if row[0].strip()}
    if not {"bodyparts", "coords"} <= set(head):
        remedy = f"the first rows should begin with {', '.join(HEADER)}"
        source.problem("not a DeepLabCut file", "", rows[:1], remedy)
        return None
    body = rows[len([key for key in head if key in HEADER]) :]
    width = len(head["coords"])
    first = next((i for i, cell in enumerate(head["coords"]) if i and cell.strip()), 1)
    columns = _columns(head, first, width)
    if columns is None or len(set(columns)) < len(columns):
        remedy = "give every joint of every individual one x and one y"
        source.problem("not a DeepLabCut file", "header", "columns differ", remedy)
        return None
    pictures, values = [], []
    for i, row in enumerate(body):
        name = "/".join(cell.strip() for cell in row[:first] if cell.strip())
        numbers = _floats(row[first:])
        if len(row) != width or numbers is None:
            remedy = (
                "every cell is a number or empty, and every row as long as 'coords'"
            )
            source.problem("bad row", f"row {i}", ",".join(row), remedy)
            return None
        pictures.append(name.replace("\\", "/"))
        values.append(numbers)
    return _table(source, columns, pictures, values)


def _columns(
    head: dict[str, list[str]], first: int, width: int
) -> tuple[tuple[str, str, str], ...] | None:
    rows = [head.get("individuals", [""] * width), head["bodyparts"], head["coords"]]
    if any(len(row) != width for row in rows):
        return None
    triples = zip(*(row[first:] for row in rows), strict=True)
    columns = tuple((a.strip(), b.strip(), c.strip().lower()) for a, b, c in triples)
    axes = {"x", "y", "likelihood"}
    good = columns and all(part and axis in axes for _, part, axis in columns)
    return columns if good else None


def _floats(cells: Sequence[str]) -> list[float] | None:
    try:
        return [float(cell) if cell.strip() else np.nan for cell in cells]
    except ValueError:
        return None


def _read_hdf(source: Source) -> Table | None:
    try:
        import pandas as pd
        import tables  # noqa: F401 (what pandas reads HDF5 by)
    except ImportError as error:
        raise ValueError(
            f"{source.path}: reading DeepLabCut's .h5 needs pandas and tables; "
            "pip install 'nrsfm-distill[readers]', or use the .csv beside it"
        ) from error
    if read_bytes(source) is None:
        return None
    try:
        frame = pd.DataFrame(pd.read_hdf(source.path))
        names = [str(name).lower() for name in frame.columns.names]
        columns = tuple(
            (
                str(dict(zip(names, column, strict=True)).get("individuals", "")),
                str(dict(zip(names, column, strict=True))["bodyparts"]),
                str(dict(zip(names, column, strict=True))["coords"]).lower(),
            )
            for column in frame.columns
        )
        pictures = ["/".join(map(str, np.atleast_1d(key))) for key in frame.index]
        values = frame.to_numpy(np.float64)
    except Exception as error:  # HDF5, PyTables and pandas fail in many ways
        remedy = "use the .csv beside it, or write it again with DeepLabCut"
        source.problem("not a DeepLabCut file", "", repr(error), remedy)
        return None
    return _table(source, columns, [p.replace("\\", "/") for p in pictures], values)


def _table(
    source: Source,
    columns: tuple[tuple[str, str, str], ...],
    pictures: Sequence[str],
    values: Any,
) -> Table | None:
    if not pictures:
        source.problem("no labelled person", "", "no rows", "label some pictures")
        return None
    if all(Path(name).suffix == "" for name in pictures):
        remedy = (
            "these are predictions for a video: save its frames as pictures and use "
            "the labels under labeled-data"
        )
        source.problem("no pictures", "row 0", pictures[0], remedy)
        return None
    return Table(source.path, columns, tuple(pictures), np.asarray(values, np.float64))
