"""Pairs of answers to a prompt, one of them preferred."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.preference.answers import (
    CHAT,
    PLAIN,
    cut_alike,
    encode_answers,
    pair_hint,
    pair_sides,
    told_apart,
    warn_of_empty_answers,
    warn_of_repeated_prompts,
)
from lit_ft.preference.batches import PreferencesBatch
from lit_ft.preference.ches_filter import ChesFilter
from lit_ft.sources.batching import Plan
from lit_ft.sources.layouts import read_tables
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.splits import SPLITS, Share
from lit_ft.sources.tables import Row
from lit_ft.sources.text_layouts import PREFERENCES, chosen_layout, compared
from lit_ft.tokens.segments import Encoded
from lit_ft.tokens.token_data import TokenData
from lit_ft.tokens.token_table import TokenTable, collate_padded


class Preferences(TokenData):
    r"""Rows ``{"prompt", "chosen", "rejected"}``: texts, messages, or lists of messages.

    The prompt may also be a ``question``, an ``instruction`` (with its ``input``), ``conversations`` or ``messages``,
    with a ``system``, and the answers ``chosen_response`` and ``rejected_response`` or ``preferred_output`` and
    ``non_preferred_output``; a line says which columns were read. ``chosen`` and ``rejected`` may be whole
    conversations, also as texts with ``Human:`` and ``Assistant:``: then what they share at the beginning is the
    prompt, and a prompt beside them that stands in them is not read twice.

    Both answers follow the same prompt: if the longer one makes a pair too long, the oldest tokens of the prompt are
    cut from both alike, down to half of ``max_length``, then the ends of the answers. Equal answers are an error that
    names the row; pairs that lose an answer, or keep twice the same tokens, are left out, with a warning that counts
    them. An empty answer is kept, as ending at once may be intended, with a warning.

    A batch is ``{input_ids, attention_mask, weights, rows}`` with the chosen answers in the first half of the rows and
    the rejected ones, in the same order, in the second, so that one forward serves both; ``pair_weights`` has shape
    (pairs,), see :class:`~lit_ft.preference.batches.PreferencesBatch`. ``max_length`` limits a prompt with one answer,
    ``tokens_per_batch`` both answers of all pairs.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``.
        chat: Whether texts are put into the tokenizer's chat template; None if it has one. Messages always are.
        weight_column: Column with the weight of a pair, 0 or more; all weigh 1 by default.
        filter_column: Column with a score of each row, such as its CHES (see
            :class:`lit_ft.preference.ches.ChesScore`); needs ``drop_highest``.
        drop_highest: Share of the training rows with the highest scores that is left out, in [0, 1).
        ches_filter: Leaves out training pairs by their CHES under the network before the first step.
        batch_size: Pairs of a batch. A batch has pairs of similar length.
        layout: Columns that are read, ``question/chosen/rejected``; None chooses by the columns of the table.
        prompt: Column of the prompt, in a table whose columns are called otherwise.
        chosen: Column of the answer that is preferred, beside it.
        rejected: Column of the other answer, beside them.
        system: Column of the system message beside them; None reads ``system``.

    See also: :class:`~lit_ft.methods.DPO`, :class:`~lit_ft.data.UnpairedPreferences`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("pairs.csv").write_text("prompt,chosen,rejected\nHi,Hello!,Go.\n1+1=,2,3\n")
        >>> data = Preferences("pairs.csv", val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True), batch["pair_weights"]
        (['1+1=2', 'HiHello!', '1+1=3', 'HiGo.'], tensor([1., 1.]))
    """

    batch: ClassVar[type] = PreferencesBatch

    def __init__(
        self,
        path: str,
        chat: bool | None = False,
        weight_column: str | None = None,
        filter_column: str | None = None,
        drop_highest: Share = 0.0,
        ches_filter: ChesFilter | None = None,
        batch_size: PositiveInt = 4,
        layout: str | None = None,
        prompt: str | None = None,
        chosen: str | None = None,
        rejected: str | None = None,
        system: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, batch_size=batch_size, packing=False, task_column=None, **kwargs)
        checked(locals())
        named = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "system": system}
        self.layout = chosen_layout(layout, named, ("system",), PREFERENCES, compared)
        if (drop_highest > 0) != (filter_column is not None):
            raise ConfigError("drop_highest", drop_highest, "above 0 together with filter_column, else 0")
        self.chat, self.weight_column = chat, weight_column
        self.filter_column, self.drop_highest, self.ches_filter = filter_column, drop_highest, ches_filter
        self._kept: list[int] | None = None
        self.pair_weights: dict[str, list[float]] = {}
        self.pairs: dict[str, PairTable] = {}

    def required_columns(self) -> Sequence[str]:
        """The columns of weight and score."""
        return [column for column in (self.weight_column, self.filter_column) if column is not None]

    def cache_key(self) -> Sequence[str]:
        """The form of the prompt."""
        return [repr((PLAIN, CHAT, self.chat))]

    def setup(self, stage: str) -> None:
        """Read, filter, split and tokenise; once, whatever the stage."""
        if self.pairs:
            return
        super().setup(stage)
        for split, table in self.examples.items():
            self.pairs[split] = pairs = PairTable(table, self.pair_weights[split])
            left_out, every = len(pairs.weights) - len(pairs), len(pairs.weights)
            if left_out == every:
                raise ConfigError("max_length", self.max_length, f"more tokens: no {split} pair keeps two answers")
            if left_out:
                rank_zero_warn(
                    f"{left_out} of {every} {split} pairs are left out: both answers have the same tokens, or"
                    " max_length cuts one off altogether"
                )

    def _tables(self) -> dict[str, list[Row]]:
        """Two rows a pair: the chosen answer, then the rejected one."""
        tables, sides = self._pair_rows(), {}
        tables["train"] = self._filtered(tables["train"])
        for split in SPLITS:
            rows = tables.get(split, [])
            rows, self.numbers[split] = told_apart(rows, super()._numbers(split, rows), split)
            numbered = list(zip(rows, self.numbers[split], strict=True))
            self.pair_weights[split] = [self._weight(row, n) for row, n in numbered]
            sides[split] = [side for row, n in numbered for side in pair_sides(row, n, split)]
            twice = [n for _, n in numbered for _ in range(2)]
            warn_of_empty_answers(sides[split], twice, split)
            warn_of_repeated_prompts(sides[split], twice, split)
        return sides

    def _pair_rows(self) -> dict[str, list[Row]]:
        tables = super()._tables()
        numbers = {split: super(Preferences, self)._numbers(split, rows) for split, rows in tables.items()}
        return read_tables(tables, numbers, self.source.paths(), PREFERENCES, chosen=self.layout, hint=pair_hint)

    def _filtered(self, rows: list[Row]) -> list[Row]:
        if self.filter_column is None:
            return rows
        column: str = self.filter_column
        dropped = int(self.drop_highest * len(rows))
        numbers = super()._numbers("train", rows)
        scores = [_number(row, column, "filter_column", n) for row, n in zip(rows, numbers, strict=True)]
        order = sorted(range(len(rows)), key=scores.__getitem__)
        rank_zero_info(f"{dropped} of {len(rows)} training rows with the highest {self.filter_column} are left out")
        kept = sorted(order[: len(rows) - dropped])
        self.numbers["train"] = [numbers[i] for i in kept]
        return [rows[i] for i in kept]

    def _weight(self, row: Row, number: int) -> float:
        if self.weight_column is None:
            return 1.0
        weight = _number(row, self.weight_column, "weight_column", number)
        if weight < 0:
            raise ConfigError("weight_column", weight, f"a number of 0 or more in row {number}")
        return weight

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Tokens and weights of both sides of each pair, cut alike."""
        found = encode_answers(rows, numbers, self.chat, tokenizer)
        return [side for i in range(0, len(found), 2) for side in cut_alike(found[i : i + 2], self.max_length)]

    def _numbers(self, split: str, rows: Sequence[Row]) -> Sequence[int]:
        pairs = super()._numbers(split, rows[::2])
        return [number for number in pairs for _ in range(2)]

    def train_dataloader(self) -> ResumableLoader:
        """As for token data; with ``ches_filter`` the first call chooses the pairs, with the initial weights."""
        module = getattr(self.trainer, "lightning_module", None)
        if self.ches_filter is not None and getattr(module, "network", module) is None:
            rank_zero_warn("without weights, as here, there is no CHES: all pairs are kept")
        elif self.ches_filter is not None:
            pairs = self.pairs["train"]
            if self._kept is None:
                batches = self._loader("train", self._buckets("train"), training=False)
                self._kept = self.ches_filter.kept_rows(self.trainer, batches, self.seed)
                rank_zero_info(f"{len(self._kept)} of {len(pairs)} training pairs are kept by their CHES")
            chosen = set(self._kept)
            pairs.members = [member for member in pairs.members if member[2] in chosen]
        return super().train_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The kept pairs: they cannot be scored again after the first step."""
        return {} if self._kept is None else {"kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the kept pairs."""
        self._kept = state_dict.get("kept")

    def rows_of(self, split: str) -> PairTable:
        """The pairs."""
        return self.pairs[split]

    def source_row(self, split: str, number: int) -> int:
        """The row of the split that a pair was made of, from 0."""
        return self.pairs[split].members[number][2]

    def _buckets(self, split: str) -> Plan:
        return self.batching.by_length(self.pairs[split].lengths, texts=2)

    def _in_order(self, split: str) -> Plan:
        return self.batching.in_order(len(self.pairs[split]), self.pairs[split].lengths, texts=2)

    def _loader(self, split: str, plan: Plan, training: bool, packed: bool = False) -> ResumableLoader:
        collate = partial(collate_pairs, padding=self.padding)
        return self.batching.loader(self.pairs[split], plan, collate, training)


class PairTable:
    """The pairs of a table of sides, without those that lack a side or have two equal ones.

    Args:
        sides: Chosen and rejected answers in turn.
        weights: Weight of each pair.

    Example:
        >>> sides = [Encoded([1, token], [0.0, 1.0]) for token in (5, 6, 7, 7)]
        >>> table = PairTable(TokenTable.of(sides, rows=range(4)), weights=[1.0, 0.5])
        >>> len(table), table.members  # the sides of the second pair are equal
        (1, [(0, 1, 0)])
    """

    def __init__(self, sides: TokenTable, weights: Sequence[float]) -> None:
        self.sides, self.weights = sides, weights
        place = {row: i for i, row in enumerate(sides.rows.tolist())}
        pairs = [(place.get(2 * n), place.get(2 * n + 1), n) for n in range(len(weights))]
        self.members = [(a, b, n) for a, b, n in pairs if a is not None and b is not None and self._differ(a, b)]

    def _differ(self, first: int, second: int) -> bool:
        return not torch.equal(self.sides[first]["input_ids"], self.sides[second]["input_ids"])

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, number: int) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
        """Both sides, and the weight of the pair."""
        first, second, pair = self.members[number]
        row = torch.tensor(pair)
        return {**self.sides[first], "row": row}, {**self.sides[second], "row": row}, self.weights[pair]

    @property
    def lengths(self) -> list[int]:
        """Tokens of the longer side."""
        each = self.sides.lengths
        return [max(each[first], each[second]) for first, second, _ in self.members]


def collate_pairs(pairs: Sequence[tuple[Any, Any, float]], padding: int) -> dict[str, Tensor]:
    """Chosen answers, then rejected ones, padded on the right together.

    Example:
        >>> sides = [Encoded([1, token], [0.0, 1.0]) for token in (5, 6, 7, 8)]
        >>> table = PairTable(TokenTable.of(sides, rows=range(4)), weights=[1.0, 0.5])
        >>> batch = collate_pairs([table[0], table[1]], padding=0)
        >>> batch["input_ids"][:, 1], batch["rows"], batch["pair_weights"]
        (tensor([5, 7, 6, 8]), tensor([0, 1, 0, 1]), tensor([1.0000, 0.5000]))
    """
    batch = collate_padded([pair[0] for pair in pairs] + [pair[1] for pair in pairs], padding)
    return {**batch, "pair_weights": torch.tensor([pair[2] for pair in pairs])}


def _number(row: Row, column: str, argument: str, number: int) -> float:
    """A finite number in a column."""
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(argument, row[column], f"a column of numbers; see row {number}")
    return value
