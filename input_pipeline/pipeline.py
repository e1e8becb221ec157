"""Batches of pictures and landmarks by tf.data, from data that TFDS has prepared."""

from __future__ import annotations

import atexit
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from input_pipeline.augment import (
    Augmentation,
    augment_landmarks,
    draw_augmentation,
    draw_patch,
    patch_matrix,
)
from input_pipeline.decoding import DecodeError, Encoded, Memory
from input_pipeline.landmarks import Landmarks
from input_pipeline.order import Order
from input_pipeline.tensorflow_setup import load_tensorflow, load_tfds, quiet

Batch = dict[str, np.ndarray]
# Of the pictures that are drawn again and again, encoded and decoded: decoding takes
# most of the time of a batch of small ones.
KEPT_BYTES = 2**29
Picture = bytes | np.ndarray | Encoded
_KINDS = {  # the parts of a batch
    "image": np.uint8,
    "keypoints": np.float32,
    "labelled": np.bool_,
    "row": np.int32,
    "flip": np.bool_,
    "scale": np.float32,
    "weight": np.float32,
}


def batches(
    stored: Sequence[tuple[Path, str]],
    landmarks: Landmarks,
    order: Order,
    *,
    image_size: int,
    augmentation: Augmentation,
    start_step: int,
    num_threads: int,
) -> Iterator[Batch]:
    """The batches that ``Dataset.pictures`` describes.

    Args:
        stored: folder and split of each source that TFDS has prepared.
        landmarks: of all sources, one after the other.
        order: which rows are in which batch.
        image_size: side of the patch in pixels.
        augmentation: how the samples are changed.
        start_step: the first batch is that of this step.
        num_threads: that prepare batches.
    """
    memory = Memory(KEPT_BYTES if order.train else 0)  # the others are read once
    splits = [_Split(folder, split, memory) for folder, split in stored]
    drawer = Drawer(splits, landmarks, order, augmentation, image_size)
    failures: list[Exception] = []
    dataset = _dataset(drawer, failures, start_step=start_step, threads=num_threads)
    return _iterate(dataset, failures)


class Source(Protocol):
    """Pictures by their row, as `draw_patch` takes them; ``folder`` names them."""

    @property
    def folder(self) -> Path: ...

    def pictures(self, rows: list[int]) -> Sequence[Picture]: ...


class _Split:
    """Random access to the pictures of one split that TFDS has prepared."""

    def __init__(self, folder: Path, split: str, memory: Memory) -> None:
        self.folder, self._memory = folder, memory
        self._kept: dict[int, Encoded] = {}
        tfds = load_tfds()
        try:
            with quiet():
                builder = tfds.builder_from_directory(str(folder))
                raw = tfds.decode.DeserializeMethod.RAW_BYTES
                self._records = builder.as_data_source(split, deserialize_method=raw)
        except (MemoryError, OSError):
            raise
        except Exception as error:  # of TFDS or protobuf: a file is bad
            raise damaged(folder, error) from error
        self._parse = load_tensorflow().train.Example.FromString

    def pictures(self, rows: list[int]) -> list[Encoded]:
        """The picture of each row."""
        found = {row: self._kept[row] for row in rows if row in self._kept}
        missing = [row for row in rows if row not in found]
        read = self._read(missing) if missing else []
        for row, encoded in zip(missing, read, strict=True):
            kept = self._memory.take(len(encoded))
            found[row] = Encoded(encoded, self._memory if kept else None)
            if kept:
                self._kept[row] = found[row]
        return [found[row] for row in rows]

    def _read(self, rows: list[int]) -> list[bytes]:
        try:
            parsed = map(self._parse, self._records.__getitems__(rows))
            features = [example.features.feature for example in parsed]
            found = [feature["row"].int64_list.value[0] for feature in features]
            if found != rows:  # the order on disk is that of the landmark table
                raise ValueError(f"samples {found} where samples {rows} should be")
            return [feature["image"].bytes_list.value[0] for feature in features]
        except (MemoryError, OSError):
            raise  # says nothing about what is stored
        except Exception as error:  # of the reader or the parser: what is there is bad
            raise damaged(self.folder, error) from error


def damaged(folder: Path, error: Exception) -> ValueError:
    """The error of prepared data that is not what was written."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ValueError(
        f"{folder}: prepared data cannot be read ({reason}); delete the folder, and it "
        "is prepared again"
    )


@dataclasses.dataclass(frozen=True)
class Drawer:
    """Makes a batch of what is stored; a function of the step alone."""

    splits: Sequence[Source]
    landmarks: Landmarks
    order: Order
    how: Augmentation
    image_size: int

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        table, (rows, weight) = self.landmarks, self.order.rows(step)
        first = int(self.order.counters(step)[0])
        change = draw_augmentation(first, len(rows), self.order.seed, self.how)
        matrix = patch_matrix(change.scale, change.angle, change.flip)
        keypoints, labelled = augment_landmarks(
            table.patch[rows],
            table.labelled[rows],
            matrix,
            change.flip,
            table.skeleton.flip_permutation,
        )
        image = np.empty((len(rows), *(self.image_size,) * 2, 3), np.uint8)
        for i, (encoded, folder) in enumerate(self._pictures(rows)):
            try:
                draw_patch(
                    encoded,
                    table.centre[rows[i]],
                    float(table.half_side[rows[i]]),
                    matrix[i],
                    change.gain[i],
                    self.image_size,
                    out=image[i],
                )
            except DecodeError as error:  # it did decode when it was prepared
                raise damaged(folder, error) from error
        return {
            "image": image,
            "keypoints": keypoints,
            "labelled": labelled,
            "row": rows.astype(np.int32),
            "flip": change.flip,
            "scale": change.scale,
            "weight": weight,
        }

    def _pictures(self, rows: np.ndarray) -> list[tuple[Picture, Path]]:
        """The picture of each row, and the folder that it is from."""
        found: list[tuple[Picture, Path]] = [(b"", Path())] * len(rows)
        start = 0
        for split, count in zip(self.splits, self.order.counts, strict=True):
            mine = np.flatnonzero((rows >= start) & (rows < start + count))
            pictures = (
                split.pictures((rows[mine] - start).tolist()) if mine.size else []
            )
            for place, picture in zip(mine.tolist(), pictures, strict=True):
                found[place] = picture, split.folder
            start += count
        return found


def _dataset(
    drawer: Drawer, failures: list[Exception], *, start_step: int, threads: int
) -> Any:
    """The tf.data pipeline; what Python raises in it is added to ``failures``."""
    tf = load_tensorflow()

    def draw(step: np.ndarray) -> list[np.ndarray]:
        try:
            batch = drawer.draw(int(step))
        except Exception as error:
            failures.append(error)  # TensorFlow passes on no more than its text
            raise
        return [batch[name] for name in _KINDS]

    def draw_batch(step: Any) -> dict[str, Any]:
        parts = tf.numpy_function(draw, [step], list(_KINDS.values()))
        return dict(zip(_KINDS, parts, strict=True))

    order = drawer.order
    end = np.iinfo(np.int64).max if order.train else order.num_steps
    dataset = tf.data.Dataset.range(start_step, end)
    dataset = dataset.map(draw_batch, num_parallel_calls=threads, deterministic=True)
    dataset = dataset.prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    # Batches are worked on in parallel, not the parts of one.
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


def _iterate(dataset: Any, failures: list[Exception]) -> Iterator[Batch]:
    tensorflow_error = load_tensorflow().errors.OpError
    iterator = dataset.as_numpy_iterator()
    # The threads of an iterator call Python to read. Left until the interpreter is
    # taken down, they would wait for it, and it for them, for ever.
    holder = [iterator]
    atexit.register(holder.clear)
    unregister = atexit.unregister  # by now or never: at the very end it is gone
    del iterator
    try:
        while holder:
            try:
                batch = next(holder[0])
            except StopIteration:
                return
            yield batch
    except tensorflow_error:
        if failures:
            raise failures[0] from None
        raise
    finally:
        holder.clear()
        unregister(holder.clear)
