"""MATLAB files (``save -v7`` and older), read by SciPy in a process of its own."""

from __future__ import annotations

import json
from typing import Any

from input_pipeline.formats.annotations import Source
from input_pipeline.formats.apart import LIMITS, run_apart
from input_pipeline.formats.json_file import check_file

# A file may become text of so many times its size, beside what any file may.
_MOST_TEXT = (20, 2**24)
_PROGRAM = f"""
import json, sys, warnings
import scipy.io
{LIMITS}
warnings.simplefilter("ignore")
path, name, most = sys.argv[1], sys.argv[4], int(sys.argv[5])
names = [name for name, _, _ in scipy.io.whosmat(path)]
record = scipy.io.loadmat(path, variable_names=[name], simplify_cells=True)
found = names, record.get(name)
text = json.dumps(found, default=lambda a: a.tolist(), separators=",:")
if len(text) > most:
    raise MemoryError(str(len(text)) + " characters of numbers, more than " + str(most))
print(text)
"""


def read_mat(source: Source, variable: str) -> Any | None:
    """One variable of a ``.mat`` file, or None after a report.

    Numbers become lists without axes of length one, text a string, a struct a
    dictionary, a struct array or a cell array of structs a list.
    """
    if not check_file(source):
        return None
    each, more = _MOST_TEXT
    most = str(each * source.path.stat().st_size + more)
    try:
        names, value = json.loads(run_apart(_PROGRAM, source.path, variable, most))
    except (ValueError, RecursionError) as error:
        remedy = "save it in MATLAB with -v7, not -v7.3"
        source.problem("not a .mat file", "", error, remedy)
        return None
    if variable not in names or value is None:
        remedy = f"it needs the variable {variable!r}"
        source.problem("not a .mat file", "", f"it holds {sorted(names)}", remedy)
        return None
    return value


def field(record: Any, name: str) -> Any:
    """A field of a struct, or of a struct array with one element; else None."""
    if isinstance(record, list) and len(record) == 1:
        record = record[0]
    return record.get(name) if isinstance(record, dict) else None


def as_list(value: Any) -> list[Any]:
    """The elements of a struct array; none of anything else."""
    many = isinstance(value, list) and any(isinstance(v, dict) for v in value)
    return [value] if isinstance(value, dict) else value if many else []


def number(value: Any) -> float | None:
    """A plain number; None for anything else."""
    if isinstance(value, list):
        return number(value[0]) if len(value) == 1 else None
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain else None


def text(value: Any) -> str:
    """Text; empty for anything else."""
    return value if isinstance(value, str) else ""
