"""Tables in HDF5 as pandas writes them, read as numbers and text.

pandas and PyTables keep whatever is neither number nor text as pickles, which run code
when they are read. So a file is read here by its arrays, and what needs a pickle is
refused. The names of the columns of pandas' layout ``table``, in which DeepLabCut
writes predictions, are one: of these :func:`_plain` reads lists of text, and no more.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from input_pipeline.formats.apart import LIMITS, run_apart
from runtime.reading import most_growth

MOST_ROW_BYTES = 2**30
Labels = list[tuple[str, ...]]
# Of a pickle: stop, begin, list, tuple, append; keep, take again, text.
_WITH_TEXT = (b"p", b"g", b"V")
_CODES = (b".", b"(", b"l", b"t", b"a", *_WITH_TEXT)


_PROGRAM = f"""
import sys
import h5py
{LIMITS}
left = int(sys.argv[4])

def link(name, item):
    if isinstance(item, h5py.ExternalLink):
        return name + " leads to another file"

def look(name, item):
    global left
    array = isinstance(item, h5py.Dataset)
    if array and (item.is_virtual or item.external):
        return name + " leads to another file"
    left -= item.nbytes if array else 0
    if left < 0:
        return "its arrays would take more than " + sys.argv[4] + " bytes"
    try:
        for key in item.attrs:
            item.attrs[key]
        if array:
            item[:] if item.shape else item[()]
    except Exception:
        pass  # the one who needs it says so

with h5py.File(sys.argv[1], "r", locking=False) as file:
    sys.exit(file.visititems_links(link) or file.visititems(look))
"""


def check_hdf5(path: Path) -> None:
    """Reads a file through, in another process.

    Raises:
        ValueError: it is no HDF5, is damaged so that reading it crashes, leads to other
            files, or would take much more memory than it has bytes.
    """
    run_apart(_PROGRAM, path, str(most_growth(path)))


class Frame(NamedTuple):
    """One table.

    Args:
        levels: names of the header rows; empty where one has none.
        columns: of each column, its label in every header row.
        index: of each row, its labels.
        values: (rows, columns) float64.
    """

    levels: Sequence[str]
    columns: Labels
    index: Labels
    values: np.ndarray


def read_frame(path: Path) -> Frame:
    """The one table of a file, as ``DataFrame.to_hdf`` writes it.

    Raises:
        ValueError: another layout, anything but numbers and text, or as
            :func:`check_hdf5`.
    """
    check_hdf5(path)
    with h5py.File(path, "r", locking=False) as file:
        groups = [
            name for name in map(str, file) if _item(file, name, h5py.Group) is not None
        ]
        if len(groups) != 1:
            raise ValueError(f"it holds the tables {groups[:9]}, not one")
        group = _item(file, groups[0], h5py.Group)
        most = most_growth(path)
        if _item(group, "table", h5py.Dataset) is not None:
            return _read_table(group, most)
        blocks = range(sum(name.endswith("_values") for name in group))
        values = [read_array(group, f"block{i}_values", "iuf", most) for i in blocks]
        items = [_labels(group, f"block{i}_items", most) for i in blocks]
        columns = _labels(group, "axis0", most)
        index = _labels(group, "axis1", most)
        levels = _level_names(group)
    for part, names in zip(values, items, strict=True):
        if part.shape != (len(index), len(names)):
            raise ValueError(f"values {part.shape} for {len(index)} x {len(names)}")
    place = {name: i for i, name in enumerate(itertools.chain(*items))}
    if not columns or sorted(place) != sorted(columns):
        raise ValueError("its columns are not those of its blocks, each once")
    order = [place[name] for name in columns]
    joined = np.concatenate([part.astype(np.float64) for part in values], axis=1)
    return Frame(levels, columns, index, joined[:, order])


def write_frame(
    path: Path,
    levels: Sequence[str],
    columns: Sequence[tuple[str, ...]],
    values: np.ndarray,
) -> None:
    """Writes a table as ``DataFrame.to_hdf`` does, for rows that are numbered from 0.

    Args:
        path: of the file.
        levels: names of the header rows.
        columns: of each column, its label in every header row.
        values: (rows, columns).
    """
    facts = {"pandas_type": "frame", "pandas_version": "0.15.2", "encoding": "UTF-8"}
    facts |= {"errors": "strict", "axis1_variety": "regular"}
    with h5py.File(path, "w") as file:
        group = file.create_group("df_with_missing")
        group.attrs.update({"nblocks": 1, "ndim": 2})
        for axis in ("axis0", "block0_items"):
            facts[f"{axis}_variety"] = "multi"
            group.attrs[f"{axis}_nlevels"] = len(levels)
            for i, level in enumerate(levels):
                names = [column[i] for column in columns]
                known = list(dict.fromkeys(names))
                place = {name: k for k, name in enumerate(known)}
                group[f"{axis}_level{i}"] = np.array([n.encode() for n in known])
                of_level = {"kind": "string", "name": level, "nan_rep": "nan"}
                for name, text in of_level.items():
                    group[f"{axis}_level{i}"].attrs[name] = _fixed(text)
                group[f"{axis}_label{i}"] = np.array([place[n] for n in names], "i4")
                for part in ("level", "label"):
                    group[f"{axis}_{part}{i}"].attrs["transposed"] = 1
        for name, text in facts.items():
            group.attrs[name] = _fixed(text)
        group["axis1"] = np.arange(len(values))
        group["axis1"].attrs.update({"kind": _fixed("integer"), "transposed": 1})
        group["block0_values"] = values
        group["block0_values"].attrs["transposed"] = 1


def own_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """An array that lies in the file itself, with its groups.

    Raises:
        ValueError: there is none, or its rows are larger than a picture can be.
    """
    *groups, last = name.split("/")
    group: Any = file
    for part in groups:
        group = _item(group, part, h5py.Group) if group is not None else None
    found = None if group is None else _item(group, last, h5py.Dataset)
    if found is None or found.is_virtual or found.external or not found.ndim:
        raise ValueError(f"it has no array {name}")
    if found.nbytes > MOST_ROW_BYTES * max(len(found), 1):
        raise ValueError(f"a row of {name} would take more than {MOST_ROW_BYTES} bytes")
    return found


def _read_table(group: h5py.Group, most: int) -> Frame:
    """Layout ``table``: records of an index and of one block of numbers."""
    records = read_array(group, "table", "V", most)
    names = set(records.dtype.names or ())
    if names != {"index", "values_block_0"} or records["index"].dtype.kind not in "iuS":
        raise ValueError(f"its rows are {records.dtype}, not an index and one block")
    columns = _plain(group["table"].attrs["values_block_0_kind"])
    values = records["values_block_0"]
    good = isinstance(columns, list) and values.shape[1:] == (len(columns),)
    if not good or len({*map(len, columns)}) != 1:
        raise ValueError(f"values {values.shape} do not fit their columns")
    levels = ["scorer", "individuals", "bodyparts", "coords"]
    if len(columns[0]) == 3:
        levels.remove("individuals")
    index = [(_text(v),) for v in records["index"].tolist()]
    return Frame(levels, columns, index, values.astype(np.float64))


def _plain(data: Any) -> Any:
    """Lists and tuples of text of a pickle of protocol 0; nothing is run.

    Raises:
        ValueError: anything else in it.
    """
    stream = io.BytesIO(data if isinstance(data, bytes) else b"")
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[bytes, Any] = {}
    while (code := stream.read(1)) in _CODES:
        text = stream.readline().rstrip(b"\n") if code in _WITH_TEXT else b""
        if code == b".":
            return stack.pop()
        if code == b"(":
            marks.append(len(stack))
        elif code in (b"l", b"t"):
            start = marks.pop()
            stack[start:] = [stack[start:] if code == b"l" else tuple(stack[start:])]
        elif code == b"a":
            item = stack.pop()
            stack[-1].append(item)
        elif code == b"p":
            memo[text] = stack[-1]
        else:
            known = code == b"g"
            stack.append(memo[text] if known else text.decode("raw-unicode-escape"))
    raise ValueError("the names of its columns are no plain text")


def _item(group: h5py.Group, name: str, kind: type) -> Any:
    """A member of the file itself, else None: a link may lead to any other file."""
    own = isinstance(group.get(name, getlink=True), h5py.HardLink)
    item = group.get(name) if own else None
    return item if isinstance(item, kind) else None


def read_array(group: h5py.Group, name: str, kinds: str, most: int) -> np.ndarray:
    """An array of the file itself, of these kinds of NumPy's, of so many bytes at most.

    Raises:
        ValueError: there is none.
    """
    found = array_of(group, name, kinds)
    if found.nbytes > most:
        raise ValueError(f"{name} would take {found.nbytes} bytes, more than {most}")
    return found[()]


def array_of(group: h5py.Group, name: str, kinds: str) -> h5py.Dataset:
    """The same, not read yet."""
    dataset = _item(group, name, h5py.Dataset)
    if dataset is None or dataset.is_virtual or dataset.external:
        raise ValueError(f"it has no array {name}")
    if dataset.dtype.kind not in kinds:
        raise ValueError(f"{name} is no number or text, but {dataset.dtype}")
    return dataset


def _labels(group: h5py.Group, name: str, most: int) -> Labels:
    """Labels of columns or rows: one level, or several with the codes of each."""
    if _item(group, name, h5py.Dataset) is not None:
        return [(label,) for label in _texts(group, name, most)]
    levels: list[list[str]] = []
    while f"{name}_level{len(levels)}" in group:
        i = len(levels)
        texts = [*_texts(group, f"{name}_level{i}", most), ""]  # code -1: none
        codes = read_array(group, f"{name}_label{i}", "iu", most)
        if codes.ndim != 1 or ((codes < -1) | (codes >= len(texts) - 1)).any():
            raise ValueError(f"{name}_label{i} points outside of its level")
        levels.append([texts[code] for code in codes])
    if not levels:
        raise ValueError(f"it has no {name}")
    return list(zip(*levels, strict=True))


def _texts(group: h5py.Group, name: str, most: int) -> list[str]:
    array = read_array(group, name, "Siu", most)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}")
    return [_text(value) for value in array.tolist()]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _fixed(text: str) -> np.ndarray:
    """Text of a fixed length: PyTables reads no other from attributes."""
    encoded = text.encode()
    return np.array(encoded, h5py.string_dtype("utf-8", len(encoded)))


def _level_names(group: h5py.Group) -> list[str]:
    names: list[str] = []
    while f"axis0_level{len(names)}" in group:
        given = group[f"axis0_level{len(names)}"].attrs.get("name", b"")
        names.append(given.decode() if isinstance(given, bytes) else "")
    return names
