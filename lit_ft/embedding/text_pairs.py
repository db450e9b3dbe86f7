"""Texts that belong together, for embeddings."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lit_ft.core.checks import PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.embedding.batch import PairsBatch
from lit_ft.sources.batching import homogeneous_batches, shuffled_batches
from lit_ft.sources.class_names import labelled
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.table_data import TableData
from lit_ft.sources.tables import Row
from lit_ft.sources.truth import check_verdicts
from lit_ft.tokens.segments import Encoded, Segment, encode_all, fill, special_fields
from lit_ft.tokens.token_table import warn_of_cuts
from lit_ft.tokens.tokenizer_of import tokenizer_of

ANCHORS = ("anchor", "query", "prompt")
POSITIVES = ("positive", "document", "completion")
ECHO = [
    Segment("{start}Rewrite the sentence: "),
    Segment("{text}"),
    Segment(", rewritten sentence: "),
    Segment("{text}", embed=True),
]


class TextPairs(TableData):
    r"""Rows with an anchor, a positive and, optionally, hard negatives.

    A batch is ``{input_ids, attention_mask, pool_mask, keys}``: the texts of the first column, then those of the next
    (padded on the right together), and ``keys`` of shape (rows, columns), equal for equal texts. With ``label`` it also
    has ``labels`` of shape (rows,). See :class:`~lit_ft.embedding.batch.PairsBatch`.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``.
        anchor: Column of the first text; None takes the first existing one of ``anchor``, ``query`` and ``prompt``.
        positive: Column of the text that matches it; None takes ``positive``, ``document`` or ``completion`` alike.
        negatives: Columns of hard negatives: texts similar to the anchor that do not match it.
        label: Column of the class of a row, for mining, or of its domain, for experts.
        template: Segments of a text, with ``{text}`` in place of the text and ``embed: true`` on the pooled ones; None
            is the text with the tokenizer's own special tokens, all pooled. ``echo`` repeats the text and pools the
            second occurrence, which has seen the whole text even where attention is causal (A2).
        max_length: Longest text in tokens; each copy of an echo is cut alike.
        homogeneous: Whether all rows of a batch, and so all negatives, have the same ``label``, in validation too.
        batch_size: Rows of a batch. The other rows of the batch are the negatives: larger is better, see
            ``chunk_size`` of ``SentenceEmbedding``; accumulation does not help.

    Source of the echo: J. M. Springer et al., Repetition Improves Language Model Embeddings, 2024, arXiv:2402.15449.

    See also: :class:`~lit_ft.methods.SentenceEmbedding`, :class:`~lit_ft.data.LabelTriplets`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("pairs.csv").write_text("anchor,positive\ncat,kitten\ndog,puppy\ncow,calf\ncat,tom\n")
        >>> data = TextPairs("pairs.csv", batch_size=4, val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
        ['dog', 'cow', 'cat', 'cat', 'puppy', 'calf', 'kitten', 'tom']
        >>> tuple(batch["keys"].shape), len(batch["keys"][:, 0].unique())  # equal texts have equal keys
        ((4, 2), 3)
    """

    batch: ClassVar[type] = PairsBatch

    def __init__(
        self,
        path: str,
        anchor: str | None = None,
        positive: str | None = None,
        negatives: list[str] | None = None,
        label: str | None = None,
        template: str | list[Segment] | None = None,
        max_length: PositiveInt = 128,
        homogeneous: bool = False,
        batch_size: Annotated[int, Range(low=2)] = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            path=path, max_length=max_length, batch_size=batch_size, test_path=None, test_fraction=0.0,
            tokens_per_batch=None, **kwargs,
        )  # fmt: skip
        checked(locals())
        if homogeneous and label is None:
            raise ConfigError("homogeneous", True, "false without a label")
        self.homogeneous = homogeneous
        self.anchor, self.positive, self.negatives, self.label = anchor, positive, list(negatives or []), label
        self.columns: list[str] = []
        self.template = checked_template(template)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.class_names: list[str] = []  # of the label, where there is one
        self.numbers: dict[str, list[int]] = {}  # of rows in their table, from 1

    def setup(self, stage: str) -> None:
        """Read, split and tokenise; once, whatever the stage."""
        if self.rows:
            return
        tokenizer = tokenizer_of(self)
        self.tokenizer, self.padding = tokenizer, tokenizer.pad_token_id or 0
        tables = self._tables()
        labels: dict[str, list[int]] = {}
        if self.label:
            self.class_names, labels = labelled(tables, self.numbers, self.label)
        for split in ("train", "val"):
            rows = tables[split][: self.source.splits.limit(split)]
            self.rows[split] = self._encoded(rows, tokenizer, labels.get(split), split)

    def _tables(self) -> dict[str, list[Row]]:
        """Rows of each split; sets ``columns``."""
        known = self.source.table(self.source.path, max_rows=1)[0]
        first = self.anchor or next((name for name in ANCHORS if name in known), ANCHORS[0])
        second = self.positive or next((name for name in POSITIVES if name in known), POSITIVES[0])
        self.columns = [first, second, *self.negatives]
        tables, self.numbers = self.source.read([*self.columns, *([self.label] if self.label else [])], plain=True)
        read = {name for name in (*self.columns, self.label, self.source.only) if name is not None}
        for split, rows in tables.items():
            check_verdicts(rows, self.numbers[split], read, self.source.path)
        return tables

    def _encoded(
        self, rows: Sequence[Row], tokenizer: Any, labels: list[int] | None, split: str
    ) -> list[dict[str, Any]]:
        texts = [str(row[column]) for row in rows for column in self.columns]
        encoded = encode_texts(tokenizer, texts, self.template, self.max_length)
        whole = whole_lengths(tokenizer, texts, encoded, self.template, self.max_length)
        warn_of_cuts(whole, self.max_length, split, "texts")
        width = len(self.columns)
        for i, text in enumerate(encoded):
            if not any(text.embed):
                number = self.numbers[split][i // width] if split in self.numbers else i // width + 1
                given = f"{self.columns[i % width]} of {split} row {number}"
                raise ConfigError("path", given, "a text with at least one token that is pooled")
        return [
            {
                "texts": encoded[i * width : (i + 1) * width],
                "keys": [text_key(str(row[column])) for column in self.columns],
                "label": None if labels is None else labels[i],
            }
            for i, row in enumerate(rows)
        ]

    @property
    def longest_text(self) -> int:
        """Tokens of the longest text, the template included; known after ``setup``."""
        return max((len(text) for rows in self.rows.values() for row in rows for text in row["texts"]), default=0)

    def train_dataloader(self) -> ResumableLoader:
        """Freshly shuffled in every epoch, whole batches only, so that all have the same number of negatives."""
        rows = self.rows["train"]
        if self.homogeneous:
            domains = [row["label"] for row in rows]
            name, size = min(Counter(domains).items(), key=lambda item: item[1])
            if size < self.batch_size:
                rank_zero_warn(
                    f"batches have {size} rows in place of batch_size = {self.batch_size}: as many as {self.label} ="
                    f" {self.class_names[name]!r} has"
                )
            size = min(size, self.batch_size)
            return self._loader(rows, homogeneous_batches(domains, size, self.seed, drop_last=True), True)
        size = min(self.batch_size, len(rows))
        return self._loader(rows, shuffled_batches(len(rows), size, self.seed, drop_last=True), True)

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Rows in order, or where batches are homogeneous one label after another; an empty list without rows."""
        rows = self.rows["val"]
        if not rows:
            return []
        if not self.homogeneous:
            return self._loader(rows, self.batching.in_order(len(rows)), False)
        plan = homogeneous_batches([row["label"] for row in rows], self.batch_size, self.seed)
        return self._loader(rows, lambda epoch: plan(0), False)

    def predict_dataloader(self) -> ResumableLoader:
        """The training rows in order."""
        rows = self.rows["train"]
        return self._loader(rows, self.batching.in_order(len(rows)), False)

    def place_of(self, number: int) -> dict[str, Any]:
        """Where a row of ``predict_dataloader`` is from: its number in its table, from 1."""
        return {"row": self.numbers["train"][number]}

    def _loader(self, rows: list[dict[str, Any]], plan: Any, training: bool) -> ResumableLoader:
        return self.batching.loader(rows, plan, partial(collate_related, padding=self.padding), training)


def checked_template(template: str | Sequence[Any] | None) -> list[Segment] | None:
    """The segments of a template, the name ``echo`` included.

    Example:
        >>> "".join(segment.text for segment in checked_template("echo"))
        '{start}Rewrite the sentence: {text}, rewritten sentence: {text}'
    """
    if template is None:
        return None
    if isinstance(template, str):
        if template != "echo":
            raise ConfigError("template", template, "echo, a list of segments, or null")
        return list(ECHO)
    segments = [s if isinstance(s, Segment) else Segment(**s) for s in template]  # type: ignore[arg-type]
    if not any(s.embed and "{text}" in s.text for s in segments):
        raise ConfigError("template", template, "at least one segment with {text} and embed: true")
    return segments


def encode_texts(
    tokenizer: Any, texts: Sequence[str], template: Sequence[Segment] | None, max_length: int
) -> list[Encoded]:
    """Tokens of each text, with a mark on those that are pooled.

    Args:
        tokenizer: Tokenizer of ``transformers``.
        texts: The texts.
        template: Segments with ``{text}``; None is the text with the tokenizer's special tokens.
        max_length: Longest text in tokens, special tokens included; with a template, longest copy of the text.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> template = [Segment("query: "), Segment("{text}", embed=True)]
        >>> (text,) = encode_texts(byte_tokenizer(), ["abcdef"], template, max_length=4)
        >>> len(text), sum(text.embed)
        (11, 4)
    """
    if not texts:
        return []
    if template is None:
        found = tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
        return [Encoded(ids, [0.0] * len(ids), [""] * len(ids), [True] * len(ids)) for ids in found]
    cut = [replace(s, max_tokens=s.max_tokens or max_length) if "{text}" in s.text else s for s in template]
    specials = special_fields(tokenizer)
    return encode_all(tokenizer, [fill(cut, {"text": text}, specials, i) for i, text in enumerate(texts, start=1)])


def whole_lengths(
    tokenizer: Any,
    texts: Sequence[str],
    encoded: Sequence[Encoded],
    template: Sequence[Segment] | None,
    max_length: int,
) -> list[int]:
    """Tokens of each text before ``max_length`` cut it; only texts that fill it are tokenised once more.

    Args:
        tokenizer: The tokenizer.
        texts: The texts.
        encoded: What :func:`encode_texts` made of them.
        template: As given to it.
        max_length: As given to it.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> texts = ["abcdef", "ab"]
        >>> whole_lengths(byte_tokenizer(), texts, encode_texts(byte_tokenizer(), texts, None, 4), None, 4)
        [6, 2]
    """
    sizes = [sum(one.embed) for one in encoded]
    full = [i for i, size in enumerate(sizes) if size >= max_length]
    if full:
        some = [texts[i] for i in full]
        found = tokenizer(some, add_special_tokens=template is None, return_attention_mask=False, verbose=False)
        for i, ids in zip(full, found["input_ids"], strict=True):
            sizes[i] = len(ids)
    return sizes


def text_key(text: str) -> int:
    """A number that is equal for equal texts.

    Example:
        >>> text_key("cat") == text_key("cat"), text_key("cat") == text_key("Cat")
        (True, False)
    """
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little", signed=True)


def padded(texts: Sequence[Encoded], padding: int) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``pool_mask`` of shape (texts, tokens), padded on the right.

    Example:
        >>> texts = [Encoded([5, 6], [0.0, 0.0], ["", ""], [False, True]), Encoded([7], [0.0], [""], [True])]
        >>> padded(texts, padding=0)
        {'input_ids': tensor([[5, 6],
                [7, 0]]), 'attention_mask': tensor([[1, 1],
                [1, 0]]), 'pool_mask': tensor([[0, 1],
                [1, 0]])}
    """
    length = max(len(text) for text in texts)

    def fill_up(rows: list[list[Any]], value: int) -> Tensor:
        return torch.tensor([[int(x) for x in row] + [value] * (length - len(row)) for row in rows])

    return {
        "input_ids": fill_up([text.input_ids for text in texts], padding),
        "attention_mask": fill_up([[1] * len(text) for text in texts], 0),
        "pool_mask": fill_up([text.embed for text in texts], 0),
    }


def collate_related(rows: Sequence[dict[str, Any]], padding: int) -> dict[str, Tensor]:
    """All anchors, then all positives, then the negatives.

    Example:
        >>> def text(token):
        ...     return Encoded([token], [0.0], [""], [True])
        >>> rows = [{"texts": [text(5), text(6)], "keys": [1, 2], "label": None},
        ...         {"texts": [text(7), text(8)], "keys": [3, 4], "label": None}]
        >>> batch = collate_related(rows, padding=0)
        >>> batch["input_ids"].flatten(), batch["keys"]
        (tensor([5, 7, 6, 8]), tensor([[1, 2],
                [3, 4]]))
    """
    columns = range(len(rows[0]["texts"]))
    batch = padded([row["texts"][column] for column in columns for row in rows], padding)
    batch["keys"] = torch.tensor([row["keys"] for row in rows])
    if rows[0]["label"] is not None:
        batch["labels"] = torch.tensor([row["label"] for row in rows])
    return batch
