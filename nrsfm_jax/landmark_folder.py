"""The teacher's samples streamed from disk, in memory bounded by a batch.

A :class:`Split` joins the landmarks of a folder with what the EM expects of them,
both read by the row. The rows of a step are those that training in memory would
draw (:func:`draw_rows`), so that both end with the same teacher.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nrsfm_jax import teacher as teacher_files

Batch = Mapping[str, Any]
T = TypeVar("T")
READ_AT_ONCE = 4096  # rows
DRAWN_AT_ONCE = 64  # steps


@runtime_checkable
class Rows(Protocol):
    """A long array on disk; `input_pipeline.landmark_shards.ShardedArray` is one."""

    def __len__(self) -> int: ...

    def rows(self, index: Any) -> np.ndarray:
        """The rows of an index array or a slice."""
        ...


@dataclasses.dataclass(frozen=True)
class Split:
    """The samples of a split.

    Attributes:
        records: rows with the fields ``W``, ``labelled`` and ``sample_id``.
        pose: (N, P, 3) rows of what the EM expects: landmarks, missing ones filled
            in, and depth. None trains without the EM, on the landmarks as they are.
    """

    records: Rows
    pose: Rows | None = None

    def __len__(self) -> int:
        return len(self.records)

    def rows(self, index: Any) -> dict[str, np.ndarray]:
        """Some rows in memory, ready for a step."""
        records = self.records.rows(index)
        labelled = np.ascontiguousarray(records["labelled"])
        if self.pose is None:
            return {"W": np.ascontiguousarray(records["W"]), "labelled": labelled}
        pose = self.pose.rows(index)
        return {"W": pose[..., :2], "labelled": labelled, "em_depth": pose[..., 2]}

    def some(self, count: int) -> dict[str, np.ndarray]:
        """Every n-th row, ``count`` at most."""
        return self.rows(np.arange(0, len(self), -(-len(self) // count)))


def draw_rows(
    key: Key[Array, ""], step: Any, *, batch_size: int, count: int
) -> Int[Array, " b"]:
    """The rows of the batch of a step: uniform, with replacement."""
    return jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, count)


def step_rows(
    key: Key[Array, ""], *, batch_size: int, count: int, start_step: int
) -> Iterator[Int[np.ndarray, " b"]]:
    """:func:`draw_rows` of every step from ``start_step`` on, on the host."""
    while True:
        steps = np.arange(start_step, start_step + DRAWN_AT_ONCE, dtype=np.int32)
        yield from np.asarray(_draw_steps(key, steps, batch_size, count))
        start_step += DRAWN_AT_ONCE


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw_steps(
    key: Key[Array, ""],
    steps: Int[Array | np.ndarray, " s"],
    batch_size: int,
    count: int,
) -> Int[Array, "s b"]:
    one = functools.partial(draw_rows, batch_size=batch_size, count=count)
    return jax.vmap(one, in_axes=(None, 0))(key, steps)


def batches(
    split: Split,
    *,
    batch_size: int,
    key: Key[Array, ""],
    start_step: int = 0,
    part: slice = slice(None),
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches for ``fit_stream``.

    The batch of a step depends on ``key`` and the step alone: a run that starts
    again at ``start_step`` sees what it would have seen.

    Args:
        split: the samples.
        batch_size: of all processes together.
        key: of the order.
        start_step: the first batch is that of this step.
        part: of every batch, which this process reads.

    Raises:
        ValueError: fewer samples than a batch.
    """
    if len(split) < batch_size:
        raise ValueError(
            f"{len(split)} samples are fewer than batch_size={batch_size}; lower "
            "config.teacher.batch_size"
        )
    drawn = step_rows(
        key, batch_size=batch_size, count=len(split), start_step=start_step
    )
    return (split.rows(rows[part]) for rows in drawn)


def call_sizes(start: int, stop: int, *, chunk: int, most: int) -> Iterator[int]:
    """Steps of each call from ``start`` to ``stop``, no call across a chunk's end.

    Examples:
        >>> list(call_sizes(3, 12, chunk=5, most=4))
        [2, 4, 1, 2]
    """
    while start < stop:
        end = min(start - start % chunk + chunk, stop, start + most)
        yield end - start
        start = end


def stacked(
    batches: Iterator[Batch], sizes: Iterable[int], *, most: int, done: int = 0
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """For each size as many batches in one, (B, most, ...), what is over left 0.

    ``done`` is the number of steps before.

    Raises:
        ValueError: the batches end too early.
    """
    for size in sizes:
        arrays: dict[str, np.ndarray] = {}
        for i in range(size):
            batch = next(batches, None)
            if batch is None:
                raise ValueError(
                    f"the stream of batches ended before step {done + i + 1}; give "
                    "an endless one or fewer steps"
                )
            for name, values in batch.items():
                if name not in arrays:
                    shape = (len(values), most, *values.shape[1:])
                    arrays[name] = np.zeros(shape, values.dtype)
                arrays[name][:, i] = values
        done += size
        yield size, arrays


def read_ahead(items: Iterator[T], *, ahead: int = 2) -> Generator[T, None, None]:
    """The same items, made by a thread while the caller works on earlier ones.

    Close the generator to end the thread.

    Raises:
        Exception: what the iterator raised, where the item was due.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
    stop = threading.Event()

    def put(kind: str, item: Any = None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, item), timeout=0.1)
                break

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    return
            put("end")
        except Exception as error:  # raised again where the item is asked for
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
    finally:
        stop.set()
        thread.join()


def pose_parts(
    records: Rows,
    rows: slice,
    pose_of: Callable[
        [Float[np.ndarray, "n p 2"], Bool[np.ndarray, "n p"]],
        Float[np.ndarray, "n p 3"],
    ],
) -> Iterator[Float[np.ndarray, "n p 3"]]:
    """What the EM expects of a range of rows, ``READ_AT_ONCE`` at a time."""
    for start in range(rows.start, rows.stop, READ_AT_ONCE):
        some = records.rows(slice(start, min(start + READ_AT_ONCE, rows.stop)))
        yield pose_of(
            np.ascontiguousarray(some["W"]), np.ascontiguousarray(some["labelled"])
        )


def reconstruct(
    split: Split,
    teacher: teacher_files.Teacher,
    output: str | Path,
    name: str,
    *,
    shard_size: int = 32_768,
    process: int = 0,
    processes: int = 1,
) -> list[Path]:
    """Cameras and codes of all samples, a file for every ``shard_size`` of them.

    The files ``{name}-00000-of-00010.safetensors`` hold what ``{name}.safetensors``
    would; :func:`nrsfm_jax.teacher.load_reconstruction` reads either.

    Args:
        split: the samples.
        teacher: trained.
        output: folder of the files.
        name: of the split.
        shard_size: samples in a file, and so in memory.
        process: writes every ``processes``-th file, from this one on.
        processes: how many share the work.

    Returns:
        The paths of all files.
    """
    count = -(-len(split) // shard_size)
    Path(output).mkdir(parents=True, exist_ok=True)
    paths = [
        Path(output) / teacher_files.shard_name(name, i, count) for i in range(count)
    ]
    for i in range(process, count, processes):
        rows = slice(i * shard_size, min((i + 1) * shard_size, len(split)))
        batch = split.rows(rows)
        sample_ids = split.records.rows(rows)["sample_id"]
        shard = teacher.reconstruct(
            batch["W"], batch["labelled"], np.array(sample_ids, np.int64)
        )
        teacher_files.save_arrays(paths[i], vars(shard))
    return paths
