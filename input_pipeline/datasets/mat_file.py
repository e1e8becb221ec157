"""MATLAB files through SciPy, which is needed for nothing else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from input_pipeline.datasets.annotations import Source
from input_pipeline.datasets.json_file import read_bytes


def read_mat(source: Source, variable: str) -> Any | None:
    """One variable of a ``.mat`` file, or None after a report.

    Raises:
        ValueError: SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError(
            f"{source.path}: reading .mat needs SciPy; pip install 'nrsfm-distill"
            "[readers]', or pip install scipy"
        ) from error
    data = read_bytes(source)
    if data is None:
        return None
    try:
        record = loadmat(
            io.BytesIO(data),
            struct_as_record=False,
            squeeze_me=True,
            chars_as_strings=True,
        )
    except Exception as error:  # the parser fails in many ways on what is no .mat
        remedy = "copy the file again; save it in MATLAB with -v7, not -v7.3"
        source.problem("not a .mat file", "", repr(error), remedy)
        return None
    if variable not in record:
        names = sorted(name for name in record if not name.startswith("__"))
        remedy = f"it needs the variable {variable!r}"
        source.problem("not a .mat file", "", f"it holds {names}", remedy)
        return None
    return record[variable]


def field(record: Any, name: str) -> Any:
    """A field of a MATLAB struct; None where it is absent or this is no struct."""
    return getattr(record, name, None) if hasattr(record, "_fieldnames") else None


def as_list(value: Any) -> list[Any]:
    """The elements of a struct array, of which SciPy gives one as itself."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        return list(value.ravel())
    return [value]


def number(value: Any) -> float | None:
    """A plain number; None for anything else."""
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iuf":
        return float(value.ravel()[0])
    return None


def text(value: Any) -> str:
    """Text; empty for anything else."""
    return str(value) if isinstance(value, str) else ""
