from itertools import chain

import numpy as np
import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.sources.batching import length_buckets, shuffled_batches


def rows(batches):
    return list(chain.from_iterable(batches))


def test_every_row_appears_once_in_an_epoch_and_epochs_differ():
    plan = shuffled_batches(23, 5, seed=3)
    first, second = plan(0), plan(1)
    assert sorted(rows(first)) == list(range(23)) == sorted(rows(second))
    assert first != second
    assert plan(0) == first == shuffled_batches(23, 5, seed=3)(0)
    assert shuffled_batches(23, 5, seed=4)(0) != first
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 3]


def test_order_drop_last_and_full_batch():
    assert shuffled_batches(7, 3, shuffle=False)(4) == [[0, 1, 2], [3, 4, 5], [6]]
    assert shuffled_batches(7, 3, shuffle=False, drop_last=True)(0) == [[0, 1, 2], [3, 4, 5]]
    assert shuffled_batches(4, None)(9) == [[0, 1, 2, 3]]
    assert shuffled_batches(0, 3)(0) == []


@pytest.mark.parametrize("budget", [{"batch_size": 8}, {"tokens_per_batch": 200}])
def test_buckets_keep_every_row_and_the_same_number_of_batches(budget):
    lengths = np.random.default_rng(0).integers(1, 150, size=301)
    plan = length_buckets(lengths, **budget, seed=5)
    epochs = [plan(epoch) for epoch in range(6)]
    assert all(sorted(rows(batches)) == list(range(301)) for batches in epochs)
    assert len({len(batches) for batches in epochs}) == 1
    assert epochs[0] != epochs[1]
    assert plan(3) == epochs[3]


def test_buckets_keep_the_budget_and_pad_little():
    lengths = np.random.default_rng(1).geometric(1 / 30, size=2000)
    plan = length_buckets(lengths, tokens_per_batch=256, seed=0)
    for batch in plan(2):
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 256
    padded = sum(len(batch) * lengths[batch].max() for batch in plan(2))
    unsorted = sum(len(b) * lengths[b].max() for b in shuffled_batches(2000, 8)(0))
    assert padded < 1.25 * lengths.sum() < unsorted
    # batches are not taken in order of length
    means = [lengths[batch].mean() for batch in plan(2)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3


def test_rows_of_like_length_meet_different_rows_in_every_epoch():
    plan = length_buckets([20] * 64, batch_size=8, seed=0)
    together = [set(next(batch for batch in plan(epoch) if 0 in batch)) for epoch in range(5)]
    assert len(set().union(*together)) > 20


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="exactly one"):
        length_buckets([1, 2])
    with pytest.raises(ConfigError, match="exactly one"):
        length_buckets([1, 2], batch_size=1, tokens_per_batch=5)
    with pytest.raises(ConfigError, match="batch_size"):
        shuffled_batches(5, 0)
    with pytest.raises(ConfigError, match="tokens_per_batch"):
        length_buckets([1], tokens_per_batch=0)
