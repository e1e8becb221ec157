"""JSON of users: whatever it contains, an error is a message and no traceback."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from input_pipeline.formats.annotations import Source
from input_pipeline.frames import is_file
from runtime import reading


def read_json(source: Source) -> Any | None:
    """What the file holds, or None after a report."""
    data = read_bytes(source)
    if data is None:
        return None
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        remedy = "correct it; a JSON file is UTF-8 text"
        source.problem("not JSON", "", error, remedy)
        return None
    if record is None:
        source.problem("not JSON", "", "null", "write the labels into it")
    return record


def read_bytes(source: Source) -> bytes | None:
    """The bytes of the file, or None after a report."""
    if not check_file(source):
        return None
    try:
        return reading.read_bytes(source.path)
    except OSError as error:
        source.problem("missing file", "", error, "make the file readable")
        return None


def check_file(source: Source) -> bool:
    """Whether the file can be read and holds something; else False, after a report."""
    if not is_file(source.path):
        remedy = "set --config.data.annotations to the annotation file"
        source.problem("missing file", "", "no such file", remedy)
        return False
    try:
        with reading.open_file(source.path) as file:
            holds = bool(file.read(1))
    except OSError as error:
        source.problem("missing file", "", error, "make the file readable")
        return False
    if not holds:
        source.problem("empty file", "", "0 bytes", "write the labels into it")
    return holds


def whole_number(value: Any) -> int | None:
    """``value`` where it is a whole number of 64 bits, else None.

    Examples:
        >>> whole_number(7), whole_number(7.0), whole_number(True), whole_number("7")
        (7, 7, None, None)
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        return None
    return value


def plain_numbers(values: list[Any]) -> np.ndarray:
    """(n,) float64 of a list; NaN for what is no number, and for all that overflow."""
    # Text is no number, even where Python could read one from it.
    numbers = [v if type(v) in (int, float) else np.nan for v in values]
    try:
        return np.array(numbers, np.float64)
    except OverflowError:
        return np.full(len(values), np.nan)
