"""Texts as token ids, tokenised once and cached."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lit_ft.running.cache import cached
from lit_ft.tokens.segments import around

_AT_ONCE = 10_000


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 over all that determines the tokens of a text, the special tokens and the chat template."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is not None:
        # padding and truncation are set by whoever called last; they are no property of the tokenizer
        kept = core.padding, core.truncation
        core.no_padding()
        core.no_truncation()
        parts = core.to_str()
        if kept[0]:
            core.enable_padding(**kept[0])
        if kept[1]:
            core.enable_truncation(**kept[1])
    else:
        parts = repr(sorted(tokenizer.get_vocab().items()))
    # a base model and its chat model may differ in nothing but which token ends a text, and how a chat is written
    template, special = getattr(tokenizer, "chat_template", None), sorted(tokenizer.special_tokens_map.items())
    return hashlib.sha256(f"{type(tokenizer).__name__} {parts} {template} {special}".encode()).hexdigest()


class TokenRows:
    """Rows of token ids of various lengths, in one flat tensor.

    Args:
        ids: All tokens, one row after the other.
        starts: Where each row starts, and finally where the last one ends.
        types: Of each token, which text of a pair it is of; None where the tokenizer does not tell.

    Example:
        >>> rows = TokenRows(torch.tensor([5, 6, 7]), starts=torch.tensor([0, 2, 3]))
        >>> rows[0], rows[1], rows.lengths
        (tensor([5, 6]), tensor([7]), [2, 1])
    """

    def __init__(self, ids: Tensor, starts: Tensor, types: Tensor | None = None) -> None:
        self.ids, self.starts, self.types = ids, starts, types

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Tensor:
        """Token ids of one row, int64."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.ids[self.starts[row] : self.starts[row + 1]].long()

    def types_of(self, row: int) -> Tensor | None:
        """Types of the tokens of one row, int64."""
        return None if self.types is None else self.types[self.starts[row] : self.starts[row + 1]].long()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return self.sizes.tolist()

    @property
    def sizes(self) -> Tensor:
        """Tokens of each row, as a tensor."""
        return self.starts[1:] - self.starts[:-1]


def tokenized(texts: Sequence[str], tokenizer: Any, seconds: Sequence[str] | None = None) -> TokenRows:
    """Every text as token ids, with the tokenizer's special tokens, not truncated; from the cache if it is there.

    A text that carries those at its beginning or end already gets them once.

    Args:
        texts: One text a row.
        tokenizer: A tokenizer of ``transformers``.
        seconds: The second text of each row, where rows are pairs; they are joined as the tokenizer joins pairs.
    """
    before, after = around(tokenizer)
    columns = [texts] if seconds is None else [texts, seconds]
    columns = [[text.removeprefix(before).removesuffix(after) for text in column] for column in columns]
    digest = hashlib.sha256(tokenizer_fingerprint(tokenizer).encode())
    for column in columns:
        digest.update(b"pair" if column is not columns[0] else b"")
        for text in column:
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    folder = cached(f"tokens/{digest.hexdigest()[:32]}", lambda folder: _tokenize(columns, tokenizer, folder))
    saved = torch.load(folder / "tokens.pt", weights_only=True, mmap=True)
    return TokenRows(saved["ids"], saved["starts"], saved.get("types"))


def _tokenize(columns: Sequence[Sequence[str]], tokenizer: Any, folder: Path) -> None:
    rows: list[list[int]] = []
    types: list[list[int]] = []
    total = len(columns[0])
    for start in range(0, total, _AT_ONCE):
        if total > _AT_ONCE:
            rank_zero_info(f"Tokenising rows {start} to {min(start + _AT_ONCE, total)} of {total}, once")
        part = [list(column[start : start + _AT_ONCE]) for column in columns]
        found = tokenizer(*part, truncation=False, padding=False, return_attention_mask=False, verbose=False)
        rows += found["input_ids"]
        types += found.get("token_type_ids", []) if len(columns) > 1 else []
    starts = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    saved = {"ids": torch.tensor([token for row in rows for token in row], dtype=torch.int32), "starts": starts}
    if types:
        saved["types"] = torch.tensor([kind for row in types for kind in row], dtype=torch.int8)
    torch.save(saved, folder / "tokens.pt")


class ShortenedRows(Sequence[tuple[Tensor, ...]]):
    """The ids, and where there are any the types, of rows of at most ``max_length`` tokens, cut when they are used.

    A text loses its end, of a pair the longer text loses it first; a special token that closes a text is kept.

    Args:
        tokens: Whole rows, from :func:`tokenized`.
        tokenizer: The tokenizer.
        max_length: Most tokens of a row, special tokens included.
        texts: The texts of pairs, which the tokenizer cuts itself.
        seconds: The second text of each pair.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> words = byte_tokenizer()
        >>> rows = tokenized(["abcdef", "a"], words, ["xy", "z"])
        >>> [words.decode(ids) for (ids,) in ShortenedRows(rows, words, 5, ["abcdef", "a"], ["xy", "z"])]
        ['abcxy', 'az']
    """

    def __init__(
        self,
        tokens: TokenRows,
        tokenizer: Any,
        max_length: int,
        texts: Sequence[str] = (),
        seconds: Sequence[str] | None = None,
    ) -> None:
        self.tokens, self.max_length = tokens, max_length
        self.closing = {tokenizer.sep_token_id, tokenizer.eos_token_id} - {None}
        self.pairs: dict[int, tuple[Tensor, ...]] = {}
        if seconds is None:
            return
        for number in (tokens.sizes > max_length).nonzero().flatten().tolist():
            found = tokenizer(
                texts[number], seconds[number], truncation="longest_first", max_length=max_length, verbose=False
            )
            parts = [found["input_ids"], *([found["token_type_ids"]] if tokens.types is not None else [])]
            self.pairs[number] = tuple(torch.tensor(part) for part in parts)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sizes(self) -> Tensor:
        """Tokens of each row, as they are cut."""
        return self.tokens.sizes.clamp(max=self.max_length)

    def __getitem__(self, row: Any) -> Any:
        """Ids and types of one row, int64."""
        if row in self.pairs:
            return self.pairs[row]
        ids, types = self.tokens[row], self.tokens.types_of(row)
        if len(ids) > self.max_length:
            last = ids[-1:]
            closed = last.item() in self.closing
            ids = torch.cat([ids[: self.max_length - 1], last]) if closed else ids[: self.max_length]
        return (ids,) if types is None else (ids, types)
