"""Landmarks that do not fit in memory: shards of records, read by the row.

A folder holds ``landmarks.json`` (skeleton, samples by split and shard, how often
each joint is labelled) and files such as ``train-00000-of-00010.npy``, NumPy arrays
of :func:`record_dtype`. Rows are read with one system call each and nothing is
mapped, so that memory does not grow with the folder.

``--stage=landmarks`` writes the folder ``config.data.landmarks`` from the data set of
``config.data``. What does not fit in memory even once is written piece by piece::

    with LandmarkWriter("landmarks", skeleton) as writer:
        for keypoints, labelled, sample_ids in my_source:
            writer.add("train", keypoints, labelled, sample_ids)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.landmarks import Landmarks, make_landmarks, read_landmarks
from input_pipeline.settings import SPLITS, DataSettings, data_settings
from input_pipeline.skeleton import Skeleton

FORMAT = 1
INDEX = "landmarks.json"
SHARD_SIZE = 100_000


def record_dtype(num_joints: int) -> np.dtype:
    """One sample: id, crop (pixels), and what training sees (patch units).

    ``centre`` and ``half_side`` are those of the crop, ``mean`` is that of the
    labelled landmarks in the patch, ``W`` (P, 2) the landmarks less this mean, 0
    where not ``labelled``.
    """
    fields = [
        ("sample_id", "<i8"),
        ("centre", "<f4", (2,)),
        ("half_side", "<f4"),
        ("mean", "<f4", (2,)),
        ("W", "<f4", (num_joints, 2)),
        ("labelled", "?", (num_joints,)),
    ]
    return np.dtype(fields, align=True)


# --- arrays in shards ---------------------------------------------------------------


class ShardedArray:
    """A long array in ``.npy`` files, read from disk by the row.

    Args:
        files: in order; their arrays are one after the other.

    Raises:
        ValueError: a file is missing, is no ``.npy``, or is not like the others.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        headers = [_header(path) for path in self.files]
        for path, (shape, dtype, _) in zip(self.files, headers, strict=True):
            if (shape[1:], dtype) != (headers[0][0][1:], headers[0][1]):
                raise ValueError(
                    f"{path}: rows of {dtype} {shape[1:]}, but {self.files[0].name} "
                    f"has {headers[0][1]} {headers[0][0][1:]}; write the folder again"
                )
        self.counts = tuple(shape[0] for shape, _, _ in headers)
        self.dtype, self.row_shape = headers[0][1], headers[0][0][1:]
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.row_shape))
        self._ends = np.cumsum(self.counts)
        self._data_starts = [start for _, _, start in headers]
        self._open = [os.open(path, os.O_RDONLY) for path in self.files]
        weakref.finalize(self, _close_all, self._open)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, index: np.ndarray | slice) -> np.ndarray:
        """The rows of an index array of any shape, or of a slice without a step."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return self._range(start, max(start, stop))
        flat = np.asarray(index, np.int64).reshape(-1)
        if flat.size and not 0 <= flat.min() <= flat.max() < len(self):
            raise ValueError(f"rows {flat.min()}..{flat.max()} of {len(self)}")
        out = np.empty((flat.size, *self.row_shape), self.dtype)
        size, memory = self._row_bytes, out.reshape(-1).view(np.uint8).data
        shards = np.searchsorted(self._ends, flat, side="right").tolist()
        for i, (row, shard) in enumerate(zip(flat.tolist(), shards, strict=True)):
            first = int(self._ends[shard]) - self.counts[shard]
            at = self._data_starts[shard] + (row - first) * size
            self._read(shard, memory[i * size : (i + 1) * size], at)
        return out.reshape(*np.shape(index), *self.row_shape)

    def shard_range(self, shard: int) -> slice:
        """The rows that one file holds."""
        end = int(self._ends[shard])
        return slice(end - self.counts[shard], end)

    def _range(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, *self.row_shape), self.dtype)
        memory = out.reshape(-1).view(np.uint8).data
        done = 0
        for shard, end in enumerate(self._ends.tolist()):
            first = end - self.counts[shard]
            low, high = max(start, first), min(stop, end)
            if low < high:
                size = (high - low) * self._row_bytes
                at = self._data_starts[shard] + (low - first) * self._row_bytes
                self._read(shard, memory[done : done + size], at)
                done += size
        return out

    def _read(self, shard: int, into: memoryview, at: int) -> None:
        while len(into):
            count = os.preadv(self._open[shard], [into], at)
            if count == 0:
                raise ValueError(
                    f"{self.files[shard]} ends before its last row; write it again"
                )
            into, at = into[count:], at + count


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and where the rows start."""
    try:
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("not version 1.0 of the format")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            if fortran or not shape:
                raise ValueError("not an array of rows")
            return shape, dtype, file.tell()
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; write the folder again") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a usable .npy file ({error})") from error


def shard_files(folder: Path, stem: str, count: int) -> list[Path]:
    """``{stem}-00000-of-00010.npy`` and so on."""
    return [folder / f"{stem}-{i:05d}-of-{count:05d}.npy" for i in range(count)]


def write_array(
    path: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: Any
) -> None:
    """Writes a ``.npy`` file part by part; it is whole or not there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    with open(partial, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)
    os.replace(partial, path)


# --- landmarks ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LandmarkShards:
    """One split of a folder.

    Args:
        skeleton: names and structure of the P landmarks.
        records: of :func:`record_dtype`.
        labelled: (P,) in how many samples each joint is labelled.
    """

    skeleton: Skeleton
    records: ShardedArray
    labelled: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    def landmarks(self) -> Landmarks:
        """All of them in memory, as any other data set is read."""
        rows = self.records.rows(slice(None))
        half = rows["half_side"][:, None, None]
        patch = rows["W"] + rows["mean"][:, None]
        pixels = patch * half + rows["centre"][:, None]
        return Landmarks(
            skeleton=self.skeleton,
            sample_ids=rows["sample_id"].astype(np.int64),
            keypoints=np.where(rows["labelled"][..., None], pixels, np.float32(0)),
            labelled=np.ascontiguousarray(rows["labelled"]),
            centre=np.ascontiguousarray(rows["centre"]),
            half_side=np.ascontiguousarray(rows["half_side"]),
            names=tuple(f"sample {i}" for i in rows["sample_id"].tolist()),
        )


def open_split(folder: str | Path, split: str) -> LandmarkShards:
    """Opens the shards of a split.

    Raises:
        ValueError: no such folder or split, or shards that do not fit the index.
    """
    folder = Path(folder).expanduser()
    index = _read_index(folder)
    if split not in index["splits"]:
        raise ValueError(
            f"{folder / INDEX}: has no split {split!r}, only "
            f"{sorted(index['splits'])}; write the folder with both"
        )
    entry = index["splits"][split]
    skeleton = Skeleton.from_dict(index["skeleton"])
    records = ShardedArray(shard_files(folder, split, len(entry["shards"])))
    wanted = record_dtype(skeleton.num_joints)
    if list(records.counts) != entry["shards"] or records.dtype != wanted:
        raise ValueError(
            f"{folder}: the {split} shards hold {list(records.counts)} rows of "
            f"{records.dtype.itemsize} bytes, {INDEX} says {entry['shards']} of "
            f"{wanted.itemsize}; write the folder again"
        )
    return LandmarkShards(skeleton, records, np.array(entry["labelled"], np.int64))


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} does not exist; write the folder by --stage=landmarks"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); write it again") from error
    if index.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format is {index.get('format')!r}, this version reads {FORMAT}"
        )
    return index


class LandmarkWriter:
    """Writes a folder of landmark shards from pieces of any size.

    Args:
        folder: must not hold landmarks yet.
        skeleton: of all samples.
        padding: side of the crops over the longer side of the box.
        shard_size: samples in a file.

    Raises:
        ValueError: the folder is taken.
    """

    def __init__(
        self,
        folder: str | Path,
        skeleton: Skeleton,
        *,
        padding: float = 1.25,
        shard_size: int = SHARD_SIZE,
    ) -> None:
        self.folder = Path(folder).expanduser()
        if (self.folder / INDEX).exists():
            raise ValueError(
                f"{self.folder} holds landmarks already; delete it or choose another "
                "config.data.landmarks"
            )
        self._skeleton, self._padding = skeleton, padding
        self._shard_size = shard_size
        self._parts = self.folder / f".partial.{os.getpid()}"
        self._splits: dict[str, dict[str, Any]] = {}
        self._waiting: dict[str, list[np.ndarray]] = {}
        self._parts.mkdir(parents=True)

    def add(
        self,
        split: str,
        keypoints: np.ndarray,
        labelled: np.ndarray,
        sample_ids: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
    ) -> None:
        """Appends samples.

        Args:
            split: ``"train"`` or ``"val"``.
            keypoints: (n, P, 2) pixels.
            labelled: (n, P) bool.
            sample_ids: (n,) numbers, unique in the split.
            boxes: (n, 4) of persons; by default those of the landmarks.

        Raises:
            ValueError: a landmark that is not finite, a crop without area, other
                shapes.
        """
        labelled = np.asarray(labelled, bool)
        shape = (len(sample_ids), self._skeleton.num_joints)
        if labelled.shape != shape or np.shape(keypoints) != (*shape, 2):
            raise ValueError(
                f"keypoints have shape {np.shape(keypoints)} and labelled "
                f"{labelled.shape}; {len(sample_ids)} samples of the skeleton "
                f"{self._skeleton.name!r} need {(*shape, 2)} and {shape}"
            )
        bad = np.flatnonzero((~np.isfinite(keypoints).all(-1) & labelled).any(1))
        if bad.size:
            raise ValueError(
                f"sample {sample_ids[bad[0]]}: a landmark is not finite; mark it as "
                "not labelled or leave the sample out"
            )
        self.add_landmarks(
            split,
            make_landmarks(
                skeleton=self._skeleton,
                sample_ids=np.asarray(sample_ids),
                keypoints=np.where(labelled[..., None], keypoints, 0.0),
                labelled=labelled,
                boxes=boxes,
                names=tuple(f"sample {i}" for i in sample_ids),
                padding=self._padding,
            ),
        )

    def add_landmarks(self, split: str, landmarks: Landmarks) -> None:
        """Appends what a reader gave."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} must be one of {SPLITS}")
        W, mean = landmarks.centred
        records = np.zeros(len(landmarks), record_dtype(self._skeleton.num_joints))
        for name, values in (
            *(("sample_id", landmarks.sample_ids), ("centre", landmarks.centre)),
            *(("half_side", landmarks.half_side), ("mean", mean), ("W", W)),
            ("labelled", landmarks.labelled),
        ):
            records[name] = values
        entry = self._splits.setdefault(split, {"shards": [], "labelled": 0})
        entry["labelled"] = entry["labelled"] + landmarks.labelled.sum(0)
        waiting = self._waiting.setdefault(split, [])
        waiting.append(records)
        while sum(map(len, waiting)) >= self._shard_size:
            whole = np.concatenate(waiting)
            self._write(split, whole[: self._shard_size])
            waiting[:] = [whole[self._shard_size :]]

    def close(self) -> None:
        """Writes the last shards, gives all their names, and the index last."""
        for split, waiting in self._waiting.items():
            if any(map(len, waiting)):
                self._write(split, np.concatenate(waiting))
        for split, entry in self._splits.items():
            count = len(entry["shards"])
            for i, path in enumerate(shard_files(self.folder, split, count)):
                os.replace(self._parts / f"{split}-{i}.npy", path)
            entry["labelled"] = np.asarray(entry["labelled"]).tolist()
        index = {
            "format": FORMAT,
            "skeleton": self._skeleton.to_dict(),
            "splits": self._splits,
        }
        temporary = self._parts / INDEX
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.folder / INDEX)
        self._parts.rmdir()

    def __enter__(self) -> LandmarkWriter:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._parts)

    def _write(self, split: str, records: np.ndarray) -> None:
        shards = self._splits[split]["shards"]
        path = self._parts / f"{split}-{len(shards)}.npy"
        write_array(path, [records], records.shape, records.dtype)
        shards.append(len(records))


def write_folder(data: Mapping[str, Any] | DataSettings) -> str:
    """Writes ``config.data.landmarks`` from the data set that ``config.data`` names.

    Both splits are read into memory once. Returns a line that says what was written.

    Raises:
        ValueError: no folder is named, it is taken, or the data set has a problem.
    """
    settings = data_settings(data)
    if not settings.landmarks or settings.name == "landmarks":
        raise ValueError(
            "--stage=landmarks writes the folder config.data.landmarks "
            f"({settings.landmarks!r}) from another data set: set it, and "
            "config.data.name to that of the data set"
        )
    splits = {split: read_landmarks(settings, split) for split in SPLITS}
    skeleton = splits["train"].skeleton
    with LandmarkWriter(settings.landmarks, skeleton) as writer:
        for split, landmarks in splits.items():
            writer.add_landmarks(split, landmarks)
    counts = ", ".join(f"{len(marks)} {split}" for split, marks in splits.items())
    return f"{settings.landmarks}: {counts} samples"
