"""Several sources of examples in one stream, in chosen proportions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch

from lit_ft.core.checks import NonNegativeInt, PositiveFloat, PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError, nearest
from lit_ft.sources.batching import Plan, length_buckets
from lit_ft.sources.splits import SPLITS
from lit_ft.sources.tables import Row
from lit_ft.tokens.token_data import TokenData
from lit_ft.tokens.token_table import TokenTable


def mixture_counts(
    sizes: Sequence[int],
    total: int | None = None,
    cap: int | None = None,
    temperature: float = 1.0,
    weights: Sequence[float] | None = None,
) -> list[int]:
    r"""Rows of each source in an epoch: in proportion to :math:`\min(n_s,K)^{1/T}\,w_s`, rounded to whole numbers.

    Args:
        sizes: :math:`n_s`, rows of each source.
        total: Rows of an epoch; None takes the sum of :math:`\min(n_s,K)`.
        cap: K; None is no cap.
        temperature: T, at least 1: 1 is in proportion to the sizes, a large T takes the same of each.
        weights: :math:`w_s`, 1 each by default.

    Example:
        >>> mixture_counts([1000, 100, 10]), mixture_counts([1000, 100, 10], cap=100)
        ([1000, 100, 10], [100, 100, 10])
        >>> mixture_counts([1000, 100, 10], total=300, temperature=1e9)  # all alike
        [100, 100, 100]
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
    """``count`` row numbers from position ``start`` of an endless stream that has every row once in each pass.

    Args:
        rows: Rows of the source.
        start: Position in the stream.
        count: Number of row numbers.
        key: The order of a pass is a function of it and of the number of the pass.

    Example:
        >>> passes(rows=3, start=0, count=6, key=(0,))
        [2, 0, 1, 2, 0, 1]
        >>> passes(rows=3, start=2, count=2, key=(0,))  # goes on there
        [1, 2]
    """
    first, last = start // rows, (start + count - 1) // rows if count else -1
    stream = [n for number in range(first, last + 1) for n in np.random.default_rng((*key, number)).permutation(rows)]
    return [int(n) for n in stream[start - first * rows :][:count]]


def mixture_plan(
    lengths: Sequence[Sequence[int]], counts: Sequence[int], batch_size: int, homogeneous: bool = False, seed: int = 0
) -> Plan:
    """Batches of rows of similar length from several sources, which follow one another in the data.

    Epoch e goes on in each source where epoch e - 1 ended: no row is repeated before all rows of its source were used.
    The number of batches is the same in every epoch.

    Args:
        lengths: Tokens of each row of each source.
        counts: Rows of each source in an epoch.
        batch_size: Rows of a batch.
        homogeneous: Whether a batch holds one source.
        seed: The order is a function of ``(seed, epoch)`` alone.

    Example:
        >>> plan = mixture_plan([[9, 9, 9, 9], [5, 5]], counts=[2, 2], batch_size=2, homogeneous=True)
        >>> plan(0), plan(1)  # rows 0 to 3 are of the first source, 4 and 5 of the second
        ([[5, 4], [0, 2]], [[4, 5], [3, 1]])
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
    r"""Mixes sources of language examples; the name of its source is the task of an example.

    The number of rows of each source in an epoch is that of ``mixture_counts``; an epoch goes on in each source where
    the last one ended, so that no row is repeated before all rows of its source were used. All of it is a function of
    (seed, epoch), so a resumed run sees the same batches. A batch has ``tasks`` (see
    :class:`~lit_ft.tokens.batch.LanguageBatch`) for losses that balance tasks; validation has the validation rows of
    all sources.

    Args:
        sources: Data modules such as ``Instructions`` or ``ManyShot`` by name, each with its own template and rows;
            their batch sizes and orders are not used.
        weights: Factor on the share of a source, by its name; 1 by default.
        cap: Most rows that count in the share of a source; None is no cap.
        temperature: At least 1: 1 mixes in proportion to the (capped) rows, larger values more evenly.
        rows_per_epoch: None takes the sum of the capped rows.
        homogeneous: Whether a batch holds one source.
        batch_size: Examples of a batch.
        seed: Seed of the order.
        num_workers: Processes that prepare batches.

    Refuses sources that corrupt or pair their examples when a batch is made (``MixtureOfDenoisers``, ``Preferences``).

    See also: :func:`mixture_counts`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.language.instructions import Instructions
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("sums.csv").write_text("prompt,completion\n1+1=,2\n1+2=,3\n2+2=,4\n2+3=,5\n")
        >>> _ = Path("texts.csv").write_text("text\nOne.\nTwo.\n")
        >>> sources = {name: Instructions(f"{name}.csv", val_fraction=0.0) for name in ("sums", "texts")}
        >>> data = Mixture(sources, weights={"texts": 2.0})
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> data.counts(), next(iter(data.train_dataloader()))["tasks"]
        ({'sums': 3, 'texts': 3}, tensor([1, 0, 0, 0, 1, 1]))
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
        self._attach()
        for source in self.sources.values():
            source.setup(stage)
        for split in SPLITS:
            found = {name: s.examples[split] for name, s in self.sources.items() if split in s.examples}
            if found:
                self.examples[split] = joined(found, self.task_names)
        self._checked = False

    def _attach(self) -> None:
        """Hand the trainer on, or the tokenizer where there is none."""
        for source in self.sources.values():
            source.trainer, source.tokenizer = self.trainer, self.tokenizer

    def _tables(self) -> dict[str, list[Row]]:
        """The rows of all sources."""
        self._attach()
        found = [source._tables() for source in self.sources.values()]
        return {split: [row for tables in found for row in tables.get(split, [])] for split in SPLITS}

    def place_of(self, number: int) -> dict[str, Any]:
        """Where a row of ``predict_dataloader`` is from: its source, and its number in the table of that, from 1."""
        for name, source in self.sources.items():
            rows = len(source.examples.get(self.predicted, ()))
            if number < rows:
                row = source.source_row(self.predicted, number)
                return {"source": name, "row": source._numbers(self.predicted, range(row + 1))[row]}  # type: ignore[arg-type]
            number -= rows
        raise IndexError(number)

    def whole_answer(self, split: str, row: int) -> list[int] | None:
        """As of the source that the row is from."""
        for source in self.sources.values():
            rows = len(source.examples.get(split, ()))
            if row < rows:
                return source.whole_answer(split, source.source_row(split, row))
            row -= rows
        return None

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
    """Tables one after another; the task of an example is the number of its table's name.

    Example:
        >>> from lit_ft.tokens.segments import Encoded
        >>> sums = TokenTable.of([Encoded([5, 6], [0.0, 1.0])], rows=[0])
        >>> texts = TokenTable.of([Encoded([7, 8, 9], [0.0, 1.0, 1.0])], rows=[0])
        >>> table = joined({"sums": sums, "texts": texts}, names=["sums", "texts"])
        >>> table[1]["input_ids"], table.tasks
        (tensor([7, 8, 9]), tensor([0, 1]))
    """
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
