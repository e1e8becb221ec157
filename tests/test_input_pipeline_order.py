"""Order of the samples: shares of the sources, epochs, hosts, one padded pass."""

import numpy as np
import pytest

from input_pipeline.order import BLOCK, Order


def _order(counts=(10, 7, 4), weights=None, **changes) -> Order:
    options = {"batch_size": 8, "train": True, "seed": 5} | changes
    return Order(counts, weights or (1.0,) * len(counts), **options)


def test_every_source_has_its_share():
    order = _order((9, 9, 9), (1.0, 2.0, 0.001), seed=3)
    assert order.quotas.tolist() == [333, 666, 1]
    for start in (0, 7 * BLOCK):
        source, _ = order.draw(np.arange(start, start + BLOCK))
        assert np.bincount(source).tolist() == [333, 666, 1]
    # Mixed, not one source after the other.
    source, _ = order.draw(np.arange(60))
    assert 10 < (source == 0).sum() < 32


def test_draws_of_a_source_count_up():
    source, nth = _order((9, 9), (1.0, 3.0)).draw(np.arange(3 * BLOCK))
    for s in (0, 1):
        np.testing.assert_array_equal(nth[source == s], np.arange((source == s).sum()))


def test_every_row_comes_once_an_epoch():
    order = _order()
    rows = np.concatenate([order.rows(step)[0] for step in range(400)])
    for first, count in ((0, 10), (10, 7), (17, 4)):
        mine = rows[(rows >= first) & (rows < first + count)]
        epochs = mine[: len(mine) // count * count].reshape(-1, count)
        assert len(epochs) > 80
        assert (np.sort(epochs, axis=1) == np.arange(first, first + count)).all()
        assert len({tuple(epoch) for epoch in epochs}) > 10


@pytest.mark.parametrize("counts", [(13,), (10, 7, 4)])
def test_hosts_share_the_draws_of_one(counts):
    whole = _order(counts, batch_size=6).rows(33)[0]
    for shards in (2, 3):
        parts = [
            _order(counts, batch_size=6 // shards, shard_index=i, shard_count=shards)
            for i in range(shards)
        ]
        rows = np.concatenate([part.rows(33)[0] for part in parts])
        np.testing.assert_array_equal(rows, whole)


def test_a_batch_larger_than_the_data_runs_into_the_next_epoch():
    rows, weight = _order((3,), batch_size=8).rows(0)
    assert np.bincount(rows[:6]).tolist() == [2, 2, 2]
    assert weight.tolist() == [1.0] * 8


def test_one_pass_is_in_row_order_and_padded():
    order = _order((5,), batch_size=2, train=False)
    batches = [order.rows(step) for step in range(order.num_steps)]
    assert [rows.tolist() for rows, _ in batches] == [[0, 1], [2, 3], [4, 4]]
    assert batches[2][1].tolist() == [1, 0]
    chosen = _order((5,), batch_size=2, train=False, chosen=(4, 1, 3))
    assert chosen.num_steps == 2
    assert [chosen.rows(s)[0].tolist() for s in (0, 1)] == [[4, 1], [3, 3]]
