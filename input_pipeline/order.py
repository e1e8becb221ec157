"""Which samples are in which batch, as a function of the seed and the step.

The rows of the training set are those of the main source, then those of each extra
source in turn. Of every ``BLOCK`` draws each source has its share, always in the same
places, and epoch e of a source is the e-th permutation drawn from the seed. A run can
therefore resume at any step without reading the steps before, and N hosts together read
what one host would.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

BLOCK = 1000  # draws in which every source has its share
# The permutations, the places of the sources and the augmentations (2) must not share
# random numbers.
_ORDER_STREAM = 1
_PLACES_STREAM = 3


@dataclasses.dataclass(frozen=True)
class Order:
    """The rows of each batch.

    Args:
        counts: rows of each source, the main one first.
        weights: how often each source is drawn, above 0, in any unit.
        batch_size: of this host.
        train: endless and shuffled; else one pass in row order.
        seed: of the shuffling.
        shard_index: which host this is.
        shard_count: how many there are; each takes its part of every batch.
        chosen: the only rows of one pass; None takes all of the main source.
    """

    counts: tuple[int, ...]
    weights: tuple[float, ...]
    batch_size: int
    train: bool
    seed: int
    shard_index: int = 0
    shard_count: int = 1
    chosen: tuple[int, ...] | None = None

    @property
    def num_steps(self) -> int:
        """Batches in one pass without shuffling, the last one padded."""
        return -(-len(self._pass) // (self.batch_size * self.shard_count))

    def counters(self, step: int) -> np.ndarray:
        """(B,) int64: the samples of a batch, counted from the start of the run."""
        start = (step * self.shard_count + self.shard_index) * self.batch_size
        return np.arange(start, start + self.batch_size, dtype=np.int64)

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(B,) int64 rows and (B,) float32 weights, 0 for what pads the last batch."""
        counters = self.counters(step)
        if not self.train:
            count = len(self._pass)
            weight = (counters < count).astype(np.float32)
            return self._pass[np.minimum(counters, count - 1)], weight
        sources, nth = self.draw(counters)
        rows, start = np.empty_like(counters), 0
        for source, count in enumerate(self.counts):
            mine = sources == source
            rows[mine] = start + _shuffled(nth[mine], count, self.seed, source)
            start += count
        return rows, np.ones(self.batch_size, np.float32)

    def draw(self, counters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source of each draw, and how many of that source came before it.

        Examples:
            >>> order = Order((9, 5), (1.0, 1.0), batch_size=4, train=True, seed=0)
            >>> source, nth = order.draw(np.arange(2000))
            >>> [int((source == s).sum()) for s in (0, 1)], nth[source == 1][-1].item()
            ([1000, 1000], 999)
        """
        block, slot = np.divmod(counters, BLOCK)
        source, before = (table[slot] for table in self._slots)
        return source, block * self.quotas[source] + before

    @functools.cached_property
    def quotas(self) -> np.ndarray:
        """(S,) draws of each source in a block: by largest remainders, none without."""
        exact = np.array(self.weights) / sum(self.weights) * BLOCK
        quotas = np.maximum(np.floor(exact), 1).astype(np.int64)
        while quotas.sum() < BLOCK:
            quotas[np.argmax(exact - quotas)] += 1
        while quotas.sum() > BLOCK:
            quotas[np.argmax(quotas)] -= 1
        return quotas

    @functools.cached_property
    def _slots(self) -> tuple[np.ndarray, np.ndarray]:
        """Source of each place in a block, and how often it came before in it."""
        rng = np.random.default_rng([self.seed, _PLACES_STREAM])
        source = rng.permutation(np.repeat(np.arange(len(self.weights)), self.quotas))
        before = np.zeros(BLOCK, np.int64)
        for s in range(len(self.weights)):
            mine = source == s
            before[mine] = np.arange(mine.sum())
        return source, before

    @functools.cached_property
    def _pass(self) -> np.ndarray:
        if self.chosen is not None:
            return np.array(self.chosen, np.int64)
        return np.arange(self.counts[0], dtype=np.int64)


def _shuffled(nth: np.ndarray, count: int, seed: int, source: int) -> np.ndarray:
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
