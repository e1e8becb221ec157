"""Batches of pictures and landmarks by tf.data, from what TFDS has prepared.

The order is a function of (seed, step): epoch e is the e-th permutation drawn from
the seed, and batches run through the epochs without a gap. So a run resumes at any
step without reading what came before, and N hosts together see what one would.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import augment as augment_lib
from input_pipeline.datasets.prepared import ensure_prepared
from input_pipeline.datasets.rendering import available_cores
from input_pipeline.landmarks import Landmarks, read_landmarks
from input_pipeline.settings import DataSettings, data_settings
from input_pipeline.tensorflow_setup import load_tensorflow, load_tfds, quiet

Batch = dict[str, np.ndarray]
# The epochs' permutations and the augmentations must not share random numbers.
_ORDER_STREAM = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which rows are in which batch.

    Args:
        count: N, the rows of the split.
        batch_size: of this host.
        train: endless and shuffled, or one pass in row order.
        seed: of the shuffling.
        shard_index: which host this is.
        shard_count: how many there are; each takes its part of every batch.
    """

    count: int
    batch_size: int
    train: bool
    seed: int
    shard_index: int = 0
    shard_count: int = 1

    @property
    def num_steps(self) -> int:
        """Batches in one pass without shuffling, the last one padded."""
        return -(-self.count // (self.batch_size * self.shard_count))

    def counters(self, step: int) -> np.ndarray:
        """(B,) int64: the samples of a batch, counted from the start of the run."""
        start = (step * self.shard_count + self.shard_index) * self.batch_size
        return np.arange(start, start + self.batch_size, dtype=np.int64)

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(B,) int64 rows and (B,) float32 weights, 0 for what pads the last batch."""
        counters = self.counters(step)
        if not self.train:
            weight = (counters < self.count).astype(np.float32)
            return np.minimum(counters, self.count - 1), weight
        epochs, places = np.divmod(counters, self.count)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = _permutation(self.count, self.seed, int(epoch))[
                places[chosen]
            ]
        return rows, np.ones(self.batch_size, np.float32)


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    rng = np.random.default_rng([seed, _ORDER_STREAM, epoch])
    return rng.permutation(count).astype(np.int64)


def image_batches(
    data: Mapping[str, Any] | DataSettings,
    split: str,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    train: bool,
    start_step: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
    augment: Mapping[str, Any] | None = None,
    num_threads: int = 0,
) -> Iterator[Batch]:
    """Batches of a split; the data set is prepared where it is not.

    Args:
        data: ``config.data``.
        split: ``"train"`` or ``"val"``.
        batch_size: B, samples in a batch of this host.
        image_size: S, side of the patch in pixels.
        seed: of the order and the augmentation.
        train: endless and shuffled; else one pass in row order, last batch padded.
        start_step: the first batch is that of this step.
        shard_index: which host this is.
        shard_count: how many hosts share a batch of ``B * shard_count``.
        augment: ``config.student.augment``; None leaves the plain crops.
        num_threads: that prepare batches; 0 takes all cores.

    Returns:
        An iterator of dictionaries: ``image`` (B, S, S, 3) uint8; ``keypoints``
        (B, P, 2) float32 patch coordinates of the augmented crop, 0 where not
        visible; ``visible`` (B, P) bool; ``row`` (B,) int32 in
        ``read_landmarks(data, split)``; ``flip`` (B,) bool; ``scale`` (B,) float32,
        by which lengths are larger than in the plain crop; ``weight`` (B,) float32,
        0 for padding.

    Raises:
        ValueError: bad data or settings; fewer samples than a training batch.
    """
    settings = data_settings(data)
    how = augment_lib.read_augmentation(augment)
    _check_numbers(batch_size, image_size, start_step, shard_index, shard_count)
    folder = ensure_prepared(settings).folder
    landmarks = read_landmarks(settings, split)
    plan = Plan(len(landmarks), batch_size, train, seed, shard_index, shard_count)
    if train and plan.count < batch_size * shard_count:
        raise ValueError(
            f"{split} has {plan.count} samples, fewer than a batch of "
            f"{batch_size * shard_count}; lower --config.student.batch_size or add data"
        )
    dataset = _dataset(
        _Source(folder, split),
        landmarks,
        plan,
        how,
        image_size=image_size,
        start_step=start_step,
        num_threads=num_threads or available_cores(),
    )
    return _iterate(dataset, folder)


def _check_numbers(
    batch_size: int,
    image_size: int,
    start_step: int,
    shard_index: int,
    shard_count: int,
) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("image_size", image_size, 1),
        ("start_step", start_step, 0),
        ("shard_count", shard_count, 1),
    ):
        if value < least:
            raise ValueError(f"{name} = {value} must be at least {least}")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index = {shard_index} must be in 0..{shard_count - 1}")


class _Source:
    """Random access to the stored samples of a split."""

    def __init__(self, folder: Path, split: str) -> None:
        tfds = load_tfds()
        with quiet():
            builder = tfds.builder_from_directory(str(folder))
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._records = builder.as_data_source(split, deserialize_method=raw)
        self._features = builder.info.features
        self._skip = {"image": tfds.decode.SkipDecoding()}

    def fetch(self, rows: np.ndarray) -> np.ndarray:
        """(B,) serialised samples."""
        return np.array(self._records.__getitems__(rows.tolist()), dtype=object)

    def parse(self, serialised: Any) -> tuple[Any, Any]:
        """The encoded picture and the row of one serialised sample (graph code)."""
        example = self._features.deserialize_example(serialised, decoders=self._skip)
        return example["image"], example["row"]


def _dataset(
    source: _Source,
    landmarks: Landmarks,
    plan: Plan,
    how: augment_lib.Augmentation,
    *,
    image_size: int,
    start_step: int,
    num_threads: int,
) -> Any:
    tf = load_tensorflow()

    def read(step: np.ndarray) -> tuple[np.ndarray, ...]:
        rows, weight = plan.rows(int(step))
        return source.fetch(rows), rows, plan.counters(int(step)), weight

    def read_batch(step: Any) -> tuple[Any, ...]:
        kinds = (tf.string, tf.int64, tf.int64, tf.float32)
        parts = tf.numpy_function(read, [step], kinds)
        for part in parts:
            part.set_shape([plan.batch_size])
        return tuple(parts)

    draw = _make_draw(source, landmarks, how, seed=plan.seed, image_size=image_size)
    end = np.iinfo(np.int64).max if plan.train else plan.num_steps
    dataset = tf.data.Dataset.range(start_step, end)
    dataset = dataset.map(read_batch).prefetch(2)
    dataset = dataset.flat_map(lambda *parts: tf.data.Dataset.from_tensor_slices(parts))
    dataset = dataset.map(draw, num_parallel_calls=num_threads, deterministic=True)
    dataset = dataset.batch(plan.batch_size, drop_remainder=True).prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = num_threads
    # The samples are what is worked on in parallel, not the parts of one.
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


def _make_draw(
    source: _Source,
    landmarks: Landmarks,
    how: augment_lib.Augmentation,
    *,
    seed: int,
    image_size: int,
) -> Any:
    """The tf.data map from a stored sample to what goes into a batch."""
    tf = load_tensorflow()
    permutation = landmarks.skeleton.flip_permutation
    tables = [landmarks.patch, landmarks.visible, landmarks.centre, landmarks.half_side]
    patches, visibles, centres, half_sides = [tf.constant(t) for t in tables]

    def draw(serialised: Any, row: Any, counter: Any, weight: Any) -> dict[str, Any]:
        encoded, stored_row = source.parse(serialised)
        # The order on disk is the order of the landmark table.
        with tf.control_dependencies([tf.debugging.assert_equal(stored_row, row)]):
            row = tf.identity(row)
        random = augment_lib.draw_augmentation(counter, seed, how)
        scale, angle, flip, gain = random
        matrix = augment_lib.patch_matrix(scale, angle, flip)
        keypoints, visible = augment_lib.augment_landmarks(
            patches[row], visibles[row], matrix, flip, permutation
        )
        image = augment_lib.draw_patch(
            encoded, centres[row], half_sides[row], matrix, gain, image_size
        )
        return {
            "image": image,
            "keypoints": keypoints,
            "visible": visible,
            "row": tf.cast(row, tf.int32),
            "flip": flip,
            "scale": scale,
            "weight": weight,
        }

    return draw


def _iterate(dataset: Any, folder: Path) -> Iterator[Batch]:
    failure = load_tensorflow().errors.OpError
    batches = dataset.as_numpy_iterator()
    # The threads of an iterator call Python to read. Left until the interpreter is
    # taken down, they would wait for it, and it for them, for ever.
    holder = [batches]
    atexit.register(holder.clear)
    unregister = atexit.unregister  # by now or never: at the very end it is gone
    del batches
    try:
        while holder:
            try:
                batch = next(holder[0])
            except StopIteration:
                return
            yield batch
    except failure as error:
        reason = str(error.message).splitlines()[0]
        raise ValueError(
            f"{folder}: prepared data cannot be read ({reason}); delete the folder, "
            "and it is prepared again"
        ) from error
    finally:
        holder.clear()
        unregister(holder.clear)
