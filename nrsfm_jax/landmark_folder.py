"""Landmarks that do not fit in memory: a folder of arrays, read by the row.

``W.npy`` (N, P, 2) float32, ``visible.npy`` (N, P) bool, ``sample_ids.npy`` (N,)
int64 and, once :func:`write_em_pose` has run, ``em_pose.npy`` (N, P, 3) float32; all
with the conventions of :func:`nrsfm_jax.train.fit`. NumPy maps them into memory, so
that a batch costs the pages of its rows and nothing grows with N::

    folder = landmark_folder.open_folder("landmarks")
    some = landmark_folder.random_rows(folder, 4000, seed=0)
    shape = fit_shapes(some["W"], some["visible"], key=key)
    folder = landmark_folder.write_em_pose(
        folder, lambda W, visible: expected_pose(shape, W, visible)[0]
    )
    stream = landmark_folder.batches(folder, batch_size=128, seed=0)
    with contextlib.closing(stream):
        state = train.fit_stream(stream, state, objective=objective)
    landmark_folder.reconstruct(folder, teacher, "out", "train")
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from nrsfm_jax import teacher as teacher_files

Batch = dict[str, np.ndarray]
# (n, P, 3) of (W, visible) of some rows: see `gaussian_mixture.expected_pose`.
PoseOf = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class LandmarkFolder:
    """The mapped arrays of a folder; ``em_pose`` is None where there is none."""

    path: Path
    W: Float[np.ndarray, "n p 2"]
    visible: Bool[np.ndarray, "n p"]
    sample_ids: Int[np.ndarray, " n"]
    em_pose: Float[np.ndarray, "n p 3"] | None

    def __len__(self) -> int:
        return len(self.sample_ids)

    def rows(self, index: Any) -> Batch:
        """Some rows in memory, ready for a step."""
        visible = np.array(self.visible[index])
        if self.em_pose is None:
            return {"W": np.array(self.W[index]), "visible": visible}
        pose = np.array(self.em_pose[index])
        return {"W": pose[..., :2], "visible": visible, "em_depth": pose[..., 2]}


def open_folder(path: str | Path) -> LandmarkFolder:
    """Maps the arrays of a folder.

    Raises:
        ValueError: an array is missing, or of another type or shape than the others.
    """
    path = Path(path)
    wanted = {"W": np.float32, "visible": np.bool_, "sample_ids": np.int64}
    arrays: dict[str, Any] = {"em_pose": None}
    if (path / "em_pose.npy").exists():
        wanted["em_pose"] = np.float32
    for name, dtype in wanted.items():
        file = path / f"{name}.npy"
        if not file.exists():
            raise ValueError(f"{file} does not exist; {path} needs {sorted(wanted)}")
        arrays[name] = np.load(file, mmap_mode="r")
        if arrays[name].dtype != dtype:
            raise ValueError(
                f"{file} is {arrays[name].dtype}; save it as {np.dtype(dtype)}"
            )
    visible = arrays["visible"].shape
    shapes = {
        "W": (*visible, 2),
        "sample_ids": visible[:1],
        "em_pose": (*visible, 3),
    }
    for name, shape in shapes.items():
        if arrays[name] is not None and arrays[name].shape != shape:
            raise ValueError(
                f"{path / name}.npy has shape {arrays[name].shape}, but visible.npy "
                f"{visible} asks for {shape}"
            )
    return LandmarkFolder(path, **arrays)


def write_em_pose(
    folder: LandmarkFolder, pose_of: PoseOf, *, chunk: int = 4096
) -> LandmarkFolder:
    """Writes what the EM expects of all samples, and opens the folder again.

    Args:
        folder: without or with an older ``em_pose``.
        pose_of: landmarks, missing ones filled in, and depth of some rows.
        chunk: rows in memory at a time.
    """
    temporary = folder.path / f".em_pose.{os.getpid()}.npy"
    pose = np.lib.format.open_memmap(
        temporary, mode="w+", dtype=np.float32, shape=(*folder.visible.shape, 3)
    )
    for start in range(0, len(folder), chunk):
        rows = slice(start, start + chunk)
        pose[rows] = pose_of(np.array(folder.W[rows]), np.array(folder.visible[rows]))
    pose.flush()
    os.replace(temporary, folder.path / "em_pose.npy")
    return open_folder(folder.path)


def random_rows(folder: LandmarkFolder, count: int, *, seed: int) -> Batch:
    """``count`` different rows at most, for the EM."""
    rng = np.random.default_rng(seed)
    index = rng.choice(len(folder), min(count, len(folder)), replace=False)
    return folder.rows(np.sort(index))


def batches(
    folder: LandmarkFolder,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    ahead: int = 16,
) -> Generator[Batch, None, None]:
    """Endless random batches for ``fit_stream``, read ahead by a thread.

    The batch of a step depends on ``seed`` and the step alone: a run that starts
    again at ``start_step`` sees what it would have seen. Close the iterator to end
    the thread.

    Raises:
        ValueError: fewer samples than a batch; or what reading raised.
    """
    if len(folder) < batch_size:
        raise ValueError(
            f"{folder.path} holds {len(folder)} samples, fewer than "
            f"batch_size={batch_size}"
        )

    def read(step: int) -> Batch:
        rng = np.random.default_rng((seed, step))
        # In the order of the disk; a step does not ask for the order of its samples.
        return folder.rows(np.sort(rng.integers(len(folder), size=batch_size)))

    return _read_ahead(read, start_step, ahead)


def _read_ahead(
    read: Callable[[int], Batch], step: int, ahead: int
) -> Generator[Batch, None, None]:
    ready: queue.Queue[Batch | Exception] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: Batch | Exception) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                break

    def work() -> None:
        following = step
        try:
            while not stop.is_set():
                put(read(following))
                following += 1
        except Exception as error:  # raised again where the batch is asked for
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def reconstruct(
    folder: LandmarkFolder,
    teacher: teacher_files.Teacher,
    output: str | Path,
    split: str,
    *,
    shard_size: int = 100_000,
) -> list[Path]:
    """Cameras and codes of all samples, a file for every ``shard_size`` of them.

    The files ``{split}-00000-of-00010.safetensors`` hold what ``{split}.safetensors``
    would; :func:`nrsfm_jax.teacher.load_reconstruction` reads either.
    """
    count = -(-len(folder) // shard_size)
    Path(output).mkdir(parents=True, exist_ok=True)
    written = []
    for i in range(count):
        rows = slice(i * shard_size, (i + 1) * shard_size)
        batch = folder.rows(rows)
        shard = teacher.reconstruct(
            batch["W"], batch["visible"], np.array(folder.sample_ids[rows])
        )
        path = Path(output) / teacher_files.shard_name(split, i, count)
        teacher_files.save_arrays(path, dataclasses.asdict(shard))
        written.append(path)
    return written
