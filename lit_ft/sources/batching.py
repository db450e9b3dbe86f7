"""Plans of an epoch: which rows go together in a batch, and in which order, as a pure function of the epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lit_ft.core.errors import ConfigError

Plan = Callable[[int], list[list[int]]]
"""``plan(epoch)`` lists the batches of that epoch, each a list of row numbers; the same epoch gives the same list."""


def shuffled_batches(
    n: int, batch_size: int | None, seed: int = 0, shuffle: bool = True, drop_last: bool = False
) -> Plan:
    """Batches of equal size, freshly shuffled in every epoch.

    Args:
        n: Number of rows.
        batch_size: Rows in a batch; None puts all rows into one batch (full-batch gradient descent), in order.
        seed: The order is a function of ``(seed, epoch)`` alone.
        shuffle: False keeps the order of the rows.
        drop_last: Leave a shorter last batch out.

    See also: :func:`length_buckets`, :func:`homogeneous_batches`.

    Example:
        >>> plan = shuffled_batches(5, batch_size=2)
        >>> plan(0), plan(0) == plan(0), plan(1)
        ([[2, 4], [3, 0], [1]], True, [[1, 4], [3, 0], [2]])
        >>> shuffled_batches(5, batch_size=None)(0)
        [[0, 1, 2, 3, 4]]
    """
    _at_least_one("batch_size", batch_size)
    size = n if batch_size is None else batch_size

    def plan(epoch: int) -> list[list[int]]:
        mixed = shuffle and batch_size is not None
        order = np.random.default_rng((seed, epoch)).permutation(n) if mixed else np.arange(n)
        batches = [order[start : start + size].tolist() for start in range(0, n, size or 1)]
        return [batch for batch in batches if len(batch) == size] if drop_last else batches

    return plan


def homogeneous_batches(groups: Sequence[int], batch_size: int, seed: int = 0, drop_last: bool = False) -> Plan:
    """Batches of rows of one group each, freshly shuffled in every epoch; every epoch has the same number.

    Args:
        groups: Group of each row: for example its source, domain or class.
        batch_size: Rows in a batch.
        seed: The order is a function of ``(seed, epoch)`` alone.
        drop_last: Leave the shorter last batch of each group out.

    Example:
        >>> homogeneous_batches(groups=[0, 1, 0, 1, 0], batch_size=2)(0)
        [[4, 0], [3, 1], [2]]
    """
    _at_least_one("batch_size", batch_size)
    members = [np.flatnonzero(np.asarray(groups) == group) for group in sorted(set(groups))]

    def plan(epoch: int) -> list[list[int]]:
        draw = np.random.default_rng((seed, epoch))
        batches = []
        for rows in members:
            order = draw.permutation(rows)
            cut = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
            batches += [batch for batch in cut if len(batch) == batch_size or not drop_last]
        return [batches[i] for i in draw.permutation(len(batches))]

    return plan


def length_buckets(
    lengths: Sequence[int],
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    seed: int = 0,
    round_to: int = 8,
) -> Plan:
    """Batches of rows of about the same length, so that little is padded.

    Rows are ordered by length, rounded up to a multiple of ``round_to``; the order of rows of equal rounded length, and
    the order of the batches, are drawn anew in every epoch. The batch boundaries do not depend on the epoch: every
    epoch has the same number of batches (Lightning reads it once), and a token budget always holds.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows in a batch; give exactly one of this and ``tokens_per_batch``.
        tokens_per_batch: Budget of a batch, padding included: rows x longest row. A longer row is a batch of its own.
        seed: The order is a function of ``(seed, epoch)`` alone.
        round_to: Width of a length class in tokens: wider mixes more, 1 pads least. The budget counts a row as long as
            its class.

    Example:
        >>> lengths = [3, 60, 5, 58, 4, 30]
        >>> [[lengths[row] for row in batch] for batch in length_buckets(lengths, batch_size=2)(0)]
        [[5, 3], [58, 60], [4, 30]]
        >>> [[lengths[row] for row in batch] for batch in length_buckets(lengths, tokens_per_batch=64)(0)]
        [[5, 3, 4], [58], [30], [60]]
    """
    if (batch_size is None) == (tokens_per_batch is None):
        given = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch}
        raise ConfigError("batch_size", given, "exactly one of batch_size and tokens_per_batch")
    _at_least_one("batch_size", batch_size)
    _at_least_one("tokens_per_batch", tokens_per_batch)
    _at_least_one("round_to", round_to)
    exact = np.asarray(lengths, dtype=np.int64)
    classes = np.minimum(-(-exact // round_to) * round_to, exact.max(initial=0))
    cuts = _cuts(np.sort(classes), batch_size, tokens_per_batch)

    def plan(epoch: int) -> list[list[int]]:
        random = np.random.default_rng((seed, epoch))
        order = np.lexsort((random.random(len(classes)), classes))
        batches = [order[start:end].tolist() for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        return [batches[i] for i in random.permutation(len(batches))] if len(order) else []

    return plan


def _cuts(ascending: np.ndarray, batch_size: int | None, tokens_per_batch: int | None) -> list[int]:
    """Where rows in ascending order of length are cut; a pure function of the lengths."""
    if batch_size is not None:
        return list(range(batch_size, len(ascending), batch_size))
    cuts, start = [], 0
    for end, longest in enumerate(ascending):
        if end > start and (end - start + 1) * longest > tokens_per_batch:
            cuts.append(end)
            start = end
    return cuts


def _at_least_one(argument: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigError(argument, value, "a whole number of at least 1")
