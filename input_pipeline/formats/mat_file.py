"""MATLAB files (``save -v7`` and older), read by SciPy.

SciPy reads in a process of its own with limited memory: a damaged file can make it
crash or ask for any amount, which must not end the program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from input_pipeline.formats.annotations import Source
from input_pipeline.formats.json_file import check_file

# A file may become text of so many times its size, and take so many times its size to
# read, beside what any file may.
_MOST_TEXT, _MOST_MEMORY = (20, 2**24), (150, 700 * 2**20)
_PROGRAM = """
import json, resource, sys, warnings
import scipy.io
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]),) * 2)
warnings.simplefilter("ignore")
names = [name for name, _, _ in scipy.io.whosmat(sys.argv[1])]
record = scipy.io.loadmat(
    sys.argv[1], variable_names=[sys.argv[2]], simplify_cells=True
)
value = record.get(sys.argv[2])
text = json.dumps((names, value), default=lambda a: a.tolist(), separators=",:")
if len(text) > int(sys.argv[4]):
    raise MemoryError(f"{len(text)} characters of numbers, more than {sys.argv[4]}")
print(text)
"""


def read_mat(source: Source, variable: str) -> Any | None:
    """One variable of a ``.mat`` file, or None after a report.

    Numbers become lists without axes of length one, text a string, a struct a
    dictionary, a struct array or a cell array of structs a list.
    """
    if not check_file(source):
        return None
    size = source.path.stat().st_size
    limits = [str(times * size + any) for times, any in (_MOST_MEMORY, _MOST_TEXT)]
    done = subprocess.run(
        [*(sys.executable, "-c", _PROGRAM), source.path, variable, *limits],
        capture_output=True,
        check=False,
        # Each thread of the linear algebra would count as memory.
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"its reader ended by {done.returncode}"
        remedy = "save it in MATLAB with -v7, not -v7.3"
        source.problem("not a .mat file", "", reason, remedy)
        return None
    try:
        names, value = json.loads(done.stdout)
    except RecursionError as error:
        source.problem("not a .mat file", "", error, "copy the file again")
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
