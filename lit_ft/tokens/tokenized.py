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

    Example:
        >>> rows = TokenRows(torch.tensor([5, 6, 7]), starts=torch.tensor([0, 2, 3]))
        >>> rows[0], rows[1], rows.lengths
        (tensor([5, 6]), tensor([7]), [2, 1])
    """

    def __init__(self, ids: Tensor, starts: Tensor) -> None:
        self.ids, self.starts = ids, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Tensor:
        """Token ids of one row, int64."""
        return self.ids[self.starts[row] : self.starts[row + 1]].long()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return (self.starts[1:] - self.starts[:-1]).tolist()


def tokenized(texts: Sequence[str], tokenizer: Any) -> TokenRows:
    """Every text as token ids, with the tokenizer's special tokens, not truncated; from the cache if it is there.

    A text that carries those at its beginning or end already gets them once.
    """
    before, after = around(tokenizer)
    texts = [text.removeprefix(before).removesuffix(after) for text in texts]
    digest = hashlib.sha256(tokenizer_fingerprint(tokenizer).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    folder = cached(f"tokens/{digest.hexdigest()[:32]}", lambda folder: _tokenize(texts, tokenizer, folder))
    saved = torch.load(folder / "tokens.pt", weights_only=True, mmap=True)
    return TokenRows(saved["ids"], saved["starts"])


def _tokenize(texts: Sequence[str], tokenizer: Any, folder: Path) -> None:
    rows: list[list[int]] = []
    for start in range(0, len(texts), _AT_ONCE):
        if len(texts) > _AT_ONCE:
            rank_zero_info(f"Tokenising rows {start} to {min(start + _AT_ONCE, len(texts))} of {len(texts)}, once")
        part = list(texts[start : start + _AT_ONCE])
        rows += tokenizer(part, truncation=False, padding=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
    starts = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    ids = torch.tensor([token for row in rows for token in row], dtype=torch.int32)
    torch.save({"ids": ids, "starts": starts}, folder / "tokens.pt")
