"""Batches of pictures and landmarks by tf.data, from what TFDS has prepared.

The order is a function of (seed, step): epoch e is the e-th permutation drawn from
the seed, and batches run through the epochs without a gap. So a run resumes at any
step without reading what came before, and N hosts together see what one would.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline import augment as augment_lib
from input_pipeline.landmarks import Landmarks, read_landmarks
from input_pipeline.mixture import Mixture, extra_sources_of, joined
from input_pipeline.settings import DataSettings, data_settings
from input_pipeline.sources.prepared import ensure_prepared
from input_pipeline.sources.rendering import available_cores
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
        extra: rows of the further sources, which come after the first N.
        mixture: how often each source is drawn; None where there is one.
        chosen: (n,) the only rows of one pass; None takes all N.
    """

    count: int
    batch_size: int
    train: bool
    seed: int
    shard_index: int = 0
    shard_count: int = 1
    extra: tuple[int, ...] = ()
    mixture: Mixture | None = None
    chosen: np.ndarray | None = None

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
            rows = np.minimum(counters, self.count - 1)
            return rows if self.chosen is None else self.chosen[rows], weight
        ones = np.ones(self.batch_size, np.float32)
        if self.mixture is None:
            return _shuffled(counters, self.count, self.seed), ones
        sources, nth = self.mixture.draw(counters)
        rows, start = np.empty_like(counters), 0
        for source, count in enumerate((self.count, *self.extra)):
            mine = sources == source
            rows[mine] = start + _shuffled(nth[mine], count, self.seed, source)
            start += count
        return rows, ones


def _shuffled(nth: np.ndarray, count: int, seed: int, source: int = 0) -> np.ndarray:
    """The rows that the ``nth`` draws from ``count`` rows give, epoch after epoch."""
    epochs, places = np.divmod(nth, count)
    rows = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        order = _permutation(count, (seed, int(epoch), source))
        rows[chosen] = order[places[chosen]]
    return rows


@functools.lru_cache(maxsize=8)
def _permutation(count: int, key: tuple[int, int, int]) -> np.ndarray:
    seed, epoch, source = key
    # The main source's order is the same with and without others beside it.
    stream = [seed, _ORDER_STREAM, epoch, *([source] if source else [])]
    return np.random.default_rng(stream).permutation(count).astype(np.int64)


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
    rows: Sequence[int] | None = None,
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
        rows: only these rows of one pass, in this order.

    Returns:
        An iterator of dictionaries: ``image`` (B, S, S, 3) uint8; ``keypoints``
        (B, P, 2) float32 patch coordinates of the augmented crop, 0 where not
        labelled; ``labelled`` (B, P) bool; ``row`` (B,) int32 in
        ``read_landmarks(data, split)``, and in training after it in
        ``mixture.read_extra(data)``; ``flip`` (B,) bool; ``scale`` (B,) float32,
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
    source = _Source(folder, split)
    plan = Plan(len(landmarks), batch_size, train, seed, shard_index, shard_count)
    if rows is not None:
        chosen = np.asarray(rows, np.int64)
        plan = dataclasses.replace(plan, count=len(chosen), chosen=chosen)
    if train and settings.extra_sources:
        landmarks, source, plan = _with_extra(settings, landmarks, source, plan)
    if train and plan.count < batch_size * shard_count:
        raise ValueError(
            f"{split} has {plan.count} samples, fewer than a batch of "
            f"{batch_size * shard_count}; lower --config.student.batch_size or add data"
        )
    drawer = _Drawer(source, landmarks, plan, how, image_size)
    dataset = _dataset(
        drawer, start_step=start_step, num_threads=num_threads or available_cores()
    )
    return _iterate(dataset, folder)


def _with_extra(
    settings: DataSettings, main: Landmarks, stored: _Source, plan: Plan
) -> tuple[Landmarks, _Sources, Plan]:
    """Landmarks, pictures and order of the main source and those beside it."""
    parts, folders, weights = [main], [stored], [settings.weight]
    for _, source in extra_sources_of(settings, main.skeleton):
        folders.append(_Source(ensure_prepared(source).folder, "train"))
        weights.append(source.weight)
        parts.append(read_landmarks(source, "train"))
    counts = tuple(len(part) for part in parts)
    mixture = Mixture(tuple(weights), plan.seed)
    mixed = dataclasses.replace(plan, extra=counts[1:], mixture=mixture)
    return joined(parts), _Sources(tuple(folders), counts), mixed


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
        self._parse = load_tensorflow().train.Example.FromString

    def pictures(self, rows: np.ndarray) -> list[bytes]:
        """The encoded picture of each row."""
        wanted = rows.tolist()
        parsed = map(self._parse, self._records.__getitems__(wanted))
        features = [example.features.feature for example in parsed]
        for row, feature in zip(wanted, features, strict=True):
            stored = feature["row"].int64_list.value[0]
            if stored != row:  # the order on disk is the order of the landmark table
                raise ValueError(f"sample {stored} where sample {row} should be")
        return [feature["image"].bytes_list.value[0] for feature in features]


@dataclasses.dataclass(frozen=True)
class _Sources:
    """Several of them, with their rows one after the other."""

    sources: tuple[_Source, ...]
    counts: tuple[int, ...]

    def pictures(self, rows: np.ndarray) -> list[bytes]:
        """The encoded picture of each row."""
        found: list[bytes] = [b""] * len(rows)
        start = 0
        for source, count in zip(self.sources, self.counts, strict=True):
            mine = np.flatnonzero((rows >= start) & (rows < start + count))
            if mine.size:
                pictures = source.pictures(rows[mine] - start)
                for place, picture in zip(mine.tolist(), pictures, strict=True):
                    found[place] = picture
            start += count
        return found


@dataclasses.dataclass(frozen=True)
class _Drawer:
    """Makes a batch of what is stored; a function of the step alone."""

    source: _Source | _Sources
    landmarks: Landmarks
    plan: Plan
    how: augment_lib.Augmentation
    image_size: int

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        table, (rows, weight) = self.landmarks, self.plan.rows(step)
        first = int(self.plan.counters(step)[0])
        change = augment_lib.draw_augmentation(
            first, len(rows), self.plan.seed, self.how
        )
        matrix = augment_lib.patch_matrix(change.scale, change.angle, change.flip)
        keypoints, labelled = augment_lib.augment_landmarks(
            self.patch[rows],
            table.labelled[rows],
            matrix,
            change.flip,
            table.skeleton.flip_permutation,
        )
        image = np.empty((len(rows), *(self.image_size,) * 2, 3), np.uint8)
        for i, encoded in enumerate(self.source.pictures(rows)):
            row = rows[i]
            augment_lib.draw_patch(
                encoded,
                table.centre[row],
                float(table.half_side[row]),
                matrix[i],
                change.gain[i],
                self.image_size,
                out=image[i],
            )
        return {
            "image": image,
            "keypoints": keypoints,
            "labelled": labelled,
            "row": rows.astype(np.int32),
            "flip": change.flip,
            "scale": change.scale,
            "weight": weight,
        }

    @functools.cached_property
    def patch(self) -> np.ndarray:
        """(N, P, 2) landmarks of all samples in their plain patches."""
        return self.landmarks.patch

    def signature(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and type of each part of a batch."""
        batch, joints, size = self.plan.batch_size, self.patch.shape[1], self.image_size
        return {
            "image": ((batch, size, size, 3), np.uint8),
            "keypoints": ((batch, joints, 2), np.float32),
            "labelled": ((batch, joints), np.bool_),
            "row": ((batch,), np.int32),
            "flip": ((batch,), np.bool_),
            "scale": ((batch,), np.float32),
            "weight": ((batch,), np.float32),
        }


def _dataset(drawer: _Drawer, *, start_step: int, num_threads: int) -> Any:
    tf = load_tensorflow()
    signature = drawer.signature()

    def draw(step: np.ndarray) -> list[np.ndarray]:
        batch = drawer.draw(int(step))
        return [batch[name] for name in signature]

    def draw_batch(step: Any) -> dict[str, Any]:
        kinds = [kind for _, kind in signature.values()]
        parts = tf.numpy_function(draw, [step], kinds)
        for part, (shape, _) in zip(parts, signature.values(), strict=True):
            part.set_shape(shape)
        return dict(zip(signature, parts, strict=True))

    plan = drawer.plan
    end = np.iinfo(np.int64).max if plan.train else plan.num_steps
    dataset = tf.data.Dataset.range(start_step, end)
    dataset = dataset.map(
        draw_batch, num_parallel_calls=num_threads, deterministic=True
    )
    dataset = dataset.prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = num_threads
    # Batches are worked on in parallel, not the parts of one.
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


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
