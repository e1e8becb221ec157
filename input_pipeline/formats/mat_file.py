"""MATLAB files of level 5 (``save -v7`` and older): what labels are made of.

Numbers, text, cells and structs are read; sparse matrices, objects and complex parts
are not. Written here because no data may crash the program: every length is compared
with the bytes that are there. Format: MathWorks, "MAT-File Format", chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from input_pipeline.formats.annotations import Source
from input_pipeline.formats.json_file import read_bytes

_NUMBERS = {  # element type -> numpy type, without the byte order
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_MOST_BYTES = 2**31
_DEPTH = 24


def read_mat(source: Source, variable: str) -> Any | None:
    """One variable of a ``.mat`` file, or None after a report.

    Numbers become arrays, text a string, a struct array the list of its elements as
    dictionaries, a cell array the list of its elements; both column by column.
    """
    data = read_bytes(source)
    if data is None:
        return None
    try:
        record = dict(_variables(data))
    except (ValueError, TypeError, LookupError, struct.error, zlib.error) as error:
        remedy = "copy the file again; save it in MATLAB with -v7, not -v7.3"
        source.problem("not a .mat file", "", error, remedy)
        return None
    if variable not in record:
        remedy = f"it needs the variable {variable!r}"
        source.problem("not a .mat file", "", f"it holds {sorted(record)}", remedy)
        return None
    return record[variable]


def _variables(data: bytes) -> Iterator[tuple[str, Any]]:
    """(name, value) of each variable of a file."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or data[125 if order == "<" else 124] != 1:
        raise ValueError("no header of a MAT-file of level 5")
    for kind, content in _elements(data[128:], order):
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(content, _MOST_BYTES)
            kind, content = next(_elements(unpacked, order), (0, b""))
        if kind == _MATRIX:
            yield _matrix(content, order, _DEPTH)


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the data elements one after the other."""
    at, end = 0, len(data)
    while at < end:
        (word,) = struct.unpack_from(order + "I", data, at)
        if word >> 16:  # a small element: up to four bytes in its own tag
            kind, count, start, step = word & 0xFFFF, word >> 16, at + 4, 8
        else:
            kind, (count,) = word, struct.unpack_from(order + "I", data, at + 4)
            start = at + 8
            # Compressed elements are the only ones without padding.
            step = 8 + (count if kind == _COMPRESSED else -(-count // 8) * 8)
        if start + count > end:
            raise ValueError(f"{count} bytes announced, {max(end - start, 0)} are left")
        yield kind, data[start : start + count]
        at += step


def _matrix(data: bytes, order: str, depth: int) -> tuple[str, Any]:
    """(name, value) of one matrix element."""
    if not data:
        return "", np.zeros((0, 0))
    if depth == 0:
        raise ValueError("nested too deeply")
    parts = _elements(data, order)
    flags = _next(parts)
    shape = _numbers(_next(parts), order).tolist()
    name = _next(parts)[1].decode("latin-1")
    kind = struct.unpack_from(order + "I", flags[1])[0] & 0xFF
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"a matrix of shape {shape}")
    size = math.prod(shape)
    if kind == _STRUCT:
        return name, _struct(parts, order, size, depth)
    if kind == _CELL:
        return name, [_inner(parts, order, depth) for _ in range(size)]
    if kind == _CHAR:
        return name, _text(next(parts, (2, b"")), order)
    if not 6 <= kind <= 15:
        return name, None  # sparse, an object, a function
    values = _numbers(next(parts, (9, b"")), order)
    if len(values) != size:
        raise ValueError(f"{len(values)} numbers for a matrix of shape {shape}")
    return name, values.reshape(shape, order="F")


def _next(parts: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    part = next(parts, None)
    if part is None:
        raise ValueError("a matrix ends too early")
    return part


def _inner(parts: Iterator[tuple[int, bytes]], order: str, depth: int) -> Any:
    kind, content = _next(parts)
    if kind != _MATRIX:
        raise ValueError(f"element of type {kind} where a matrix should be")
    return _matrix(content, order, depth - 1)[1]


def _struct(
    parts: Iterator[tuple[int, bytes]], order: str, size: int, depth: int
) -> list[dict[str, Any]]:
    (width,) = _numbers(_next(parts), order).tolist()
    packed = _next(parts)[1]
    if type(width) is not int or width < 1:
        raise ValueError(f"field names of {width} bytes")
    names = [
        packed[i : i + width].split(b"\0")[0].decode("latin-1")
        for i in range(0, len(packed), width)
    ]
    if not names:
        return []
    return [{name: _inner(parts, order, depth) for name in names} for _ in range(size)]


def _numbers(part: tuple[int, bytes], order: str) -> np.ndarray:
    kind, content = part
    if kind not in _NUMBERS:
        raise ValueError(f"element of type {kind} where numbers should be")
    return np.frombuffer(content, np.dtype(order + _NUMBERS[kind]))


def _text(part: tuple[int, bytes], order: str) -> str:
    kind, content = part
    if kind not in _TEXTS:
        raise ValueError(f"element of type {kind} where text should be")
    coding = _TEXTS[kind] + {"<": "-le", ">": "-be"}[order] * (kind in (4, 17))
    return content.decode(coding, "replace")


def field(record: Any, name: str) -> Any:
    """A field of a struct, or of a struct array with one element; else None."""
    if isinstance(record, list) and len(record) == 1:
        record = record[0]
    return record.get(name) if isinstance(record, dict) else None


def as_list(value: Any) -> list[Any]:
    """The elements of a struct array; none of anything else."""
    return value if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A plain number; None for anything else."""
    if isinstance(value, np.ndarray) and value.size == 1:
        return float(value.ravel()[0])
    return None


def text(value: Any) -> str:
    """Text; empty for anything else."""
    return value if isinstance(value, str) else ""
