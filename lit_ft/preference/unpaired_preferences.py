"""Single answers to prompts, each desirable or not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.preference.answers import (
    CHAT,
    PLAIN,
    cut_alike,
    encode_answers,
    message,
    pair_sides,
    told_apart,
    warn_of_empty_answers,
)
from lit_ft.preference.batches import UnpairedPreferencesBatch
from lit_ft.sources.batching import Plan
from lit_ft.sources.layouts import read_tables
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.tables import Row
from lit_ft.sources.text_layouts import UNPAIRED, chosen_layout, marked
from lit_ft.tokens.segments import Encoded
from lit_ft.tokens.token_data import TokenData
from lit_ft.tokens.token_table import TokenTable, collate_padded


class UnpairedPreferences(TokenData):
    r"""Rows ``{"prompt", "completion", "label"}``: texts, or lists of messages; the label is true or false, 1 or 0.

    The prompt and the answer may be called otherwise, as for :class:`~lit_ft.data.Instructions`; in rows ``{"messages",
    "label"}`` the last turn is the answer. Rows ``{"prompt", "chosen", "rejected"}``, in all layouts of
    :class:`~lit_ft.data.Preferences`, are split into a desirable answer and one that is not. A line says which columns
    were read.

    A batch is ``{input_ids, attention_mask, weights, rows, desirable}``, see
    :class:`~lit_ft.preference.batches.UnpairedPreferencesBatch`. Answers are the first half of its rows; the second
    half, in the same order, has each of their prompts with the answer to another prompt, from which the divergence of
    policy and reference is estimated. That answer depends on the table alone (it is from the next row with another
    prompt), not on batch or epoch, so batches of one row are possible and log-probabilities can be cached. The budget
    ``tokens_per_batch`` is for both halves.

    If an answer makes an example too long, the oldest tokens of its prompt are cut, down to half of ``max_length``,
    then its end. An empty answer is kept, as ending at once may be intended, with a warning.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``.
        chat: Whether texts are put into the tokenizer's chat template; None if it has one. Messages always are.
        layout: Columns that are read, ``messages/label``; None chooses by the columns of the table.
        prompt: Column of the prompt, in a table whose columns are called otherwise.
        completion: Column of the answer beside it.
        label: Column that says whether the answer is desirable, beside them.
        system: Column of the system message beside them; None reads ``system``.

    See also: :class:`~lit_ft.methods.KTO`, :class:`~lit_ft.data.Preferences`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("answers.csv").write_text("prompt,completion,label\nHi,Hello!,true\n1+1=,3,false\n")
        >>> data = UnpairedPreferences("answers.csv", val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True), batch["desirable"]
        (['1+1=3', 'HiHello!', '1+1=Hello!', 'Hi3'], tensor([False,  True]))
    """

    batch: ClassVar[type] = UnpairedPreferencesBatch

    def __init__(
        self,
        path: str,
        chat: bool | None = False,
        layout: str | None = None,
        prompt: str | None = None,
        completion: str | None = None,
        label: str | None = None,
        system: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, packing=False, task_column=None, **kwargs)
        named = {"prompt": prompt, "completion": completion, "label": label, "system": system}
        self.layout = chosen_layout(layout, named, ("system",), UNPAIRED, marked)
        self.chat = chat
        self.labels: dict[str, list[bool]] = {}
        self.answers: dict[str, AnswerTable] = {}

    def cache_key(self) -> Sequence[str]:
        """The form of the prompt."""
        return [repr((PLAIN, CHAT, self.chat))]

    def setup(self, stage: str) -> None:
        """Read, split and tokenise; once, whatever the stage."""
        if self.answers:
            return
        super().setup(stage)
        for split, table in self.examples.items():
            self.answers[split] = answers = AnswerTable(table, self.labels[split], self.max_length)
            if answers.prompts < 2:
                allowed = f"more tokens: no two prompts of the {split} rows differ in those that are left of them"
                raise ConfigError("max_length", self.max_length, allowed)
        wanted, every = sum(self.labels["train"]), len(self.labels["train"])
        rank_zero_info(f"{wanted} of {every} training answers are desirable")

    def _tables(self) -> dict[str, list[Row]]:
        tables = super()._tables()
        places = {split: self._numbers(split, rows) for split, rows in tables.items()}
        tables = read_tables(tables, places, self.source.paths(), UNPAIRED, chosen=self.layout, hint=_hint)
        for split, rows in tables.items():
            rows, numbers = told_apart(rows, places[split], split)
            parts = [(side, n) for row, n in zip(rows, numbers, strict=True) for side in _answers(row, n, split)]
            tables[split], self.numbers[split] = [side for side, _ in parts], [n for _, n in parts]
            warn_of_empty_answers(tables[split], self.numbers[split], split)
            if len({repr(side["prompt"]) for side in tables[split]}) == 1:
                allowed = f"at least two prompts among the {split} rows: each borrows another's answer"
                raise ConfigError("path", self.source.path, allowed)
            self.labels[split] = [side.pop("label") for side in tables[split]]
        return tables

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Tokens and weights of each prompt with its answer."""
        found = encode_answers(rows, numbers, self.chat, tokenizer)
        return [cut_alike([example], self.max_length)[0] for example in found]

    def _buckets(self, split: str) -> Plan:
        return self.batching.by_length(self.answers[split].lengths, texts=2)

    def _loader(self, split: str, plan: Plan, training: bool, packed: bool = False) -> ResumableLoader:
        collate = partial(collate_answers, padding=self.padding)
        return self.batching.loader(self.answers[split], plan, collate, training)


class AnswerTable:
    """Answers with their labels, each beside its prompt with the answer to another prompt.

    Args:
        examples: Prompts with answers; the answer begins at the first token with a weight.
        labels: Labels of the rows that the examples come from.
        max_length: Longest example in tokens.

    The attribute ``prompts`` is the number of different prompts, ``partners`` the example whose answer each borrows.

    Example:
        >>> examples = [Encoded([prompt, answer], [0.0, 1.0]) for prompt, answer in ((1, 5), (2, 6), (2, 7))]
        >>> table = AnswerTable(TokenTable.of(examples, rows=range(3)), labels=[True, False, True], max_length=8)
        >>> table.prompts, table.partners
        (2, [1, 0, 0])
        >>> own, borrowed, desirable = table[0]
        >>> own["input_ids"], borrowed["input_ids"], desirable
        (tensor([1, 5]), tensor([1, 6]), True)
    """

    def __init__(self, examples: TokenTable, labels: Sequence[bool], max_length: int) -> None:
        self.examples, self.labels, self.max_length = examples, labels, max_length
        self._prompts = [int((examples[i]["weights"] != 0).nonzero()[0]) for i in range(len(examples))]
        texts = [examples[i]["input_ids"][:n].numpy().tobytes() for i, n in enumerate(self._prompts)]
        self.prompts = len(set(texts))
        # from the back, over the table twice: the next row with another prompt, cyclically
        self.partners, other = [0] * len(texts), 0
        for i in reversed(range(2 * len(texts) - 1)):
            here, after = i % len(texts), (i + 1) % len(texts)
            other = after if texts[after] != texts[here] else other
            self.partners[here] = other

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
        """The answer, the same prompt with another answer, and whether the first is desirable."""
        own, other = self.examples[number], self.examples[self.partners[number]]
        prompt, start = self._prompts[number], self._prompts[self.partners[number]]
        borrowed = {
            name: torch.cat([own[name][:prompt], other[name][start:]])[: self.max_length]
            for name in ("input_ids", "weights")
        }
        return own, {**borrowed, "row": own["row"]}, self.labels[int(own["row"])]

    @property
    def lengths(self) -> list[int]:
        """Tokens of the longer of the two."""
        own = self.examples.lengths
        borrowed = [prompt + own[j] - self._prompts[j] for prompt, j in zip(self._prompts, self.partners, strict=True)]
        return [max(a, min(b, self.max_length)) for a, b in zip(own, borrowed, strict=True)]


def collate_answers(answers: Sequence[tuple[Any, Any, bool]], padding: int) -> dict[str, Tensor]:
    """Answers, then the borrowed ones, padded on the right together.

    Example:
        >>> examples = [Encoded([prompt, answer], [0.0, 1.0]) for prompt, answer in ((1, 5), (2, 6))]
        >>> table = AnswerTable(TokenTable.of(examples, rows=range(2)), labels=[True, False], max_length=8)
        >>> batch = collate_answers([table[0], table[1]], padding=0)
        >>> batch["input_ids"], batch["desirable"]
        (tensor([[1, 5],
                [2, 6],
                [1, 6],
                [2, 5]]), tensor([ True, False]))
    """
    batch = collate_padded([answer[0] for answer in answers] + [answer[1] for answer in answers], padding)
    return {**batch, "desirable": torch.tensor([answer[2] for answer in answers])}


def _hint(row: Row) -> str:
    known = "rows with prompt, completion and label, with messages and label, or with prompt, chosen and rejected"
    return f"{known}; --data.prompt, --data.completion and --data.label name other columns"


def _answers(row: Row, number: int, split: str) -> list[Row]:
    """Prompt, answer and label of a row; two of each for a pair."""
    place = f"{split} row {number}"
    if row.get("chosen") is not None:
        return [{**side, "label": i == 0} for i, side in enumerate(pair_sides(row, number, split))]
    prompt, answer = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(answer, str):
        answer = [message("assistant", answer)]
    elif isinstance(prompt, str) and isinstance(answer, list):
        prompt = [message("user", prompt)]
    if type(prompt) is not type(answer) or not isinstance(answer, (str, list)) or answer == []:
        raise ConfigError("path", sorted(row), f"texts or messages in prompt and completion, and label; see {place}")
    label = {"true": True, "1": True, "false": False, "0": False}.get(str(row.get("label")).lower().removesuffix(".0"))
    if label is None:
        raise ConfigError("path", f"label {row.get('label')!r}", f"true or false, 1 or 0, in {place}")
    return [{"prompt": prompt, "answer": answer, "label": label}]
