"""Files that are whole or absent: readers find the old file or the new one.

What a run reads again later has a digest: another file system, a bad disk or a hand
cannot change it unnoticed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from runtime.reading import most_growth, open_file, read_bytes

T = TypeVar("T")
LOCK, TEMPORARY = ".lock", ".tmp-[0-9]*-*"  # what `locked` and `replacing` make


class Damaged(ValueError):
    """A file that is not as it was written; the message names it and the remedy."""


def kept(read: Callable[[], T]) -> T | None:
    """What ``read`` returns; None, with a line, where a file is damaged.

    For what can be made again from other files.
    """
    try:
        return read()
    except Damaged as error:
        print(f"{error}; it is made again", file=sys.stderr, flush=True)
        return None


_REMEDIES = {
    errno.ENOSPC: "make room on the disk; the same command goes on from what is saved",
    errno.EDQUOT: "make room in your quota; the same command goes on",
    errno.EFBIG: "the system allows no larger files here (ulimit -f); raise the limit",
    errno.EACCES: "give permission for it, or choose another folder",
    errno.EPERM: "give permission for it, or choose another folder",
    errno.EROFS: "the file system can only be read; choose another folder",
    errno.ENOENT: "see whether the folder is still there, then give the command again",
    errno.ENOTDIR: "a file stands where a folder should be; choose another one",
    errno.EISDIR: "a folder stands where a file should be; choose another one",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk fails; copy what you need and use another one",
}


def explained(error: BaseException) -> str:
    """The message for a user; of the system's errors with the path and a remedy."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    remedy = _REMEDIES.get(error.errno or 0, "see to it and give the command again")
    return f"{error.filename or 'a file'}: {error.strerror}; {remedy}"


# --- one writer at a time -----------------------------------------------------------


@contextlib.contextmanager
def locked(
    folder: str | Path, *, unfinished: Sequence[str] = (), wait: bool = False
) -> Iterator[None]:
    """Holds ``folder`` for this process, and removes what killed ones left unfinished.

    The kernel frees the lock of a process that dies, so that a lock file which nobody
    holds is stale and taken over.

    Args:
        folder: made if absent.
        unfinished: patterns, relative to it, of files and folders that are being
            written; they are stale where nobody holds the folder, and removed.
        wait: until another process is done with it.

    Raises:
        ValueError: another process holds it; names host and process.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with _full_at(folder), contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(path.open("a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise ValueError(
                    f"{folder} is in use by {path.read_text() or 'another process'}; "
                    "wait until it ends, stop it, or choose another folder"
                ) from error
            # The one who held it may have removed the file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        for stale in [path for name in unfinished for path in folder.glob(name)]:
            remove(stale)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _full_at(folder: Path) -> Iterator[None]:
    """Names the folder where a full disk does not say what was written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            error.filename = str(folder)
        raise


def remove(path: Path) -> None:
    """Removes a file or a folder, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- writing ------------------------------------------------------------------------


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
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as file:  # on the disk before it has the name
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk does not say where
        with contextlib.suppress(OSError):
            remove(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    with replacing(path) as temporary:
        # Names of files need not be text; JSON reads what is written for their bytes.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, record: Any, *, sealed: bool = False) -> None:
    """Writes JSON; arrays become lists, NaN and infinities become null.

    ``sealed`` adds the ``digest`` of a record, which :func:`read_json` compares.
    """
    record = plain(record)
    if sealed:
        record["digest"] = digest_of_record(record)
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def digest_of_record(record: Any) -> str:
    """Of plain values, as JSON has them."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def digest_of_file(path: str | Path) -> str:
    """Of the bytes of a file, in little memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest_of_array(values: np.ndarray) -> str:
    """Of the bytes of an array, as they lie in C order, its shape and its dtype."""
    digest = hashlib.sha256(f"{values.dtype}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


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
    """Writes a safetensors file, with a digest of every array and of ``metadata``."""
    # The library's save_file gives mode 0600 whatever the umask, and writes memory as
    # it lies: a transposed view would be scrambled.
    ordered = {k: np.array(v, order="C") for k, v in arrays.items()}
    text = dict(metadata or {})
    text["digests"] = json.dumps(_digests(ordered, text))
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.numpy.save(ordered, text))


def _digests(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> dict[str, str]:
    digests = {name: digest_of_array(values) for name, values in arrays.items()}
    return digests | {"": digest_of_record(dict(metadata))}


# --- reading ------------------------------------------------------------------------


def read_json(path: str | Path, *, remedy: str = "run the stage before it") -> Any:
    """Reads a JSON file; of a sealed record compares the digest, which is left out.

    Raises:
        ValueError: the file is missing.
        Damaged: it is not JSON, or not as it was written.
    """
    path = Path(path)
    again = "delete it and run its stage again"
    try:
        record = json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path} does not exist; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is not valid JSON ({error}); {again}") from error
    digest = record.pop("digest", None) if isinstance(record, dict) else None
    if digest not in (None, digest_of_record(record)):
        raise Damaged(f"{path} is not as it was written; {again}")
    return record


def read_arrays(
    path: str | Path, *, remedy: str = "run the stage before it"
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file by :func:`write_arrays`.

    Raises:
        ValueError: the file is missing.
        Damaged: it is not a safetensors file, or not as it was written.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; {remedy}")
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved = json.loads(metadata.pop("digests", "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise Damaged(
            f"{path} is not a safetensors file ({error}); run its stage again or copy "
            "it again"
        ) from error
    found = _digests(arrays, metadata)
    wrong = [n for n in {**saved, **found} if saved.get(n) != found.get(n)]
    if wrong:
        raise Damaged(
            f"{path}: {wrong[0] or 'its metadata'} not as it was written, or by "
            "another program or version; run its stage again or copy it again"
        )
    return arrays, metadata


def read_npz(
    path: str | Path, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an ``.npz`` file, those of ``names`` or all; never unpickles.

    Raises:
        ValueError: the file is missing.
        Damaged: it is not an ``.npz`` of plain arrays, not as it was written, or would
            take much more memory than it has bytes.
    """
    try:
        # Opened here: numpy leaves a file open that is no zip after all.
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(open_file(path))
            if not zipfile.is_zipfile(opened):  # numpy would advise to unpickle it
                raise ValueError("it is no zip archive")
            opened.seek(0)
            file = stack.enter_context(np.load(opened, allow_pickle=False))
            wanted = [key for key in file.files if names is None or key in names]
            members = {m.filename.removesuffix(".npy"): m for m in file.zip.infolist()}
            size = sum(members[key].file_size for key in wanted)
            if size > (most := most_growth(path)):
                raise ValueError(f"it would take {size} bytes, more than {most}")
            return {key: file[key] for key in wanted}
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing file; correct its path") from error
    except Exception as error:
        raise Damaged(
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


# --- folders of results ------------------------------------------------------------


@contextlib.contextmanager
def own_outputs(
    folder: str | Path,
    names: Sequence[str],
    *,
    about: str = "about.json",
    inputs: Iterable[str | Path] = (),
) -> Iterator[Path]:
    """Yields an empty folder; at the end its files take their places in ``folder``.

    They replace what an earlier call wrote, and nothing else: the body writes a JSON
    record ``about`` beside its other files, the names of all of them are added to it
    as ``files``, and only what the record in ``folder`` lists is removed. Other files
    of the folder stay. On an error nothing changes. After a kill at any moment the
    record lists all that was written, so that the next call may replace it.

    ::

        with own_outputs(out, ("poses.json", "overlays"), inputs=pictures) as folder:
            write_json(folder / "poses.json", poses)
            write_json(folder / "about.json", {"format": 1})

    Args:
        folder: made if absent.
        names: of the files and folders in it that the body may write besides
            ``about``; ``*`` stands for any letters.
        about: name of the record.
        inputs: files that are read; none may lie in ``folder``.

    Raises:
        ValueError: before the body, an input lies in the folder, something stands
            under one of the names that no earlier call wrote, or another process
            writes to the folder.
    """
    folder, claimed = Path(folder), (*names, about)
    within = [p for p in inputs if folder.resolve() in Path(p).resolve().parents]
    if within:
        raise ValueError(
            f"{folder} holds the input {within[0]}; write to a folder of its own"
        )
    _own_files(folder, claimed, about)
    place, new = folder / ".writing", not folder.exists()
    temporary = place / "new"
    try:
        with locked(place, unfinished=(temporary.name,)), _full_at(folder):
            for stale in folder.glob(TEMPORARY.removesuffix("*") + about):
                remove(stale)
            try:
                temporary.mkdir()
                yield temporary
                _publish(temporary, folder, claimed, about)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    finally:
        for empty in (place, *([folder] if new else [])):
            with contextlib.suppress(OSError):  # there is something in it
                empty.rmdir()


def _own_files(folder: Path, claimed: Sequence[str], about: str) -> list[str]:
    """What an earlier call wrote; ValueError where there is more under its names."""
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise ValueError(f"{folder} is not a folder; choose another one")
        return []
    record, why = None, f"no {about} beside it lists it"
    if (folder / about).is_file():
        try:
            record = read_json(folder / about)
        except ValueError as error:  # damaged, or a file of somebody else
            why = str(error)
    listed = record.get("files") if isinstance(record, dict) else None
    own = listed if isinstance(listed, list) and about in listed else []
    own = {name for name in own if isinstance(name, str)}
    found = [
        path.relative_to(folder).as_posix()
        for name in sorted(os.listdir(folder))
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in claimed)
        for path in _files_in(folder / name)
    ]
    foreign = [name for name in found if name not in own]
    if foreign:
        raise ValueError(
            f"{folder / foreign[0]} was not written by an earlier run ({why}) and "
            "would be replaced"
            + (f", like {len(foreign) - 1} more" if len(foreign) > 1 else "")
            + "; move it away, or write to another folder"
        )
    return found


def _files_in(path: Path) -> Iterator[Path]:
    """The files below a path, or itself; links are not followed."""
    if not path.is_dir() or path.is_symlink():
        yield path
        return
    for child in sorted(path.iterdir()):
        yield from _files_in(child)


def _publish(temporary: Path, folder: Path, claimed: Sequence[str], about: str) -> None:
    """Puts new files in the places of the old ones; the record goes first and last."""
    new = [path.relative_to(temporary).as_posix() for path in _files_in(temporary)]
    old = _own_files(folder, claimed, about)
    record = read_json(temporary / about)
    both = sorted({*new, *old})
    write_json(folder / about, {"incomplete": True, "files": both})
    write_json(temporary / about, record | {"files": sorted(new)})
    for name in (n for n in old if n != about):
        (folder / name).unlink()
        for empty in (folder / name).parents[: name.count("/")]:
            with contextlib.suppress(OSError):
                empty.rmdir()
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == about):
        path.replace(folder / path.name)
