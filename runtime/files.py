"""Files that are whole or absent: readers find the old file or the new one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` and renames it to ``path`` at the end.

    Its name has the suffix of ``path``. On an error it is removed, and what stood at
    ``path`` stays. The body may make a folder instead of a file; then ``path`` must
    not be a folder with files in it. Parent folders are made.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('whole', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, record: Any) -> None:
    """Writes JSON; arrays become lists, NaN and infinities become null."""
    text = json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_npz(path: str | Path, **arrays: Any) -> None:
    """Writes an ``.npz``."""
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def write_rows(path: str | Path, start: int, values: np.ndarray, *, count: int) -> None:
    """Writes the rows from ``start`` on of an ``.npy`` of ``count`` rows; 0 makes it.

    The file is not whole before the last rows are written.
    """
    shape = (count, *values.shape[1:])
    # Mapped anew for each part: written pages count as memory while they are mapped.
    mode = "r+" if start else "w+"
    whole = np.lib.format.open_memmap(path, mode, values.dtype, shape)
    whole[start : start + len(values)] = values


def write_arrays(
    path: str | Path,
    arrays: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file."""
    # The library's save_file gives mode 0600 whatever the umask, and writes memory as
    # it lies: a transposed view would be scrambled.
    ordered = {k: np.array(v, order="C") for k, v in arrays.items()}
    with replacing(path) as temporary:
        text = dict(metadata) if metadata else None
        temporary.write_bytes(safetensors.numpy.save(ordered, text))


def read_json(path: str | Path, *, remedy: str = "run the stage before it") -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; {remedy}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); delete it and run its stage again"
        ) from error


def read_arrays(
    path: str | Path, *, remedy: str = "run the stage before it"
) -> dict[str, np.ndarray]:
    """Reads a safetensors file.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        return safetensors.numpy.load_file(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; {remedy}") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file; never unpickles.

    Raises:
        ValueError: the file is missing or is not an ``.npz`` of plain arrays.
    """
    try:
        # Opened here: numpy leaves a file open that is no zip after all.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing file; correct its path") from error
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable .npz of plain arrays ({error}); write it again"
        ) from error


def plain(value: Any) -> Any:
    """``value`` in terms that JSON knows."""
    if hasattr(value, "to_dict"):  # ConfigDict
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        return plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)
