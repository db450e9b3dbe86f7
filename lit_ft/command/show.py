"""A batch as a person reads it: tokens coloured by whether they are learned, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_ft.command.row_names import class_line, row_names

_GREY, _GREEN, _YELLOW, _RED, _END = "\033[90m", "\033[32m", "\033[33m", "\033[31m", "\033[0m"
_ROWS = 4


def render_batch(
    batch: Mapping[str, Tensor], tokenizer: Any, colour: bool = True, rows: int = _ROWS, data: Any = None
) -> str:
    """The first rows of a batch, tokens that are learned in colour, and what share of the batch they are.

    Grey is read and not learned, green has weight 1, yellow another positive weight, red a negative one. ``⏎`` ends a
    line of the text. Runs of one weight other than 0 and 1 are followed by it, as ``{0.25}``. A document of a packed
    row begins with ``▌``; padding is left out.

    Of texts to be embedded, what is pooled takes the place of what is learned. Questions with options show one option a
    row, of which the answer is scored.

    Args:
        batch: ``input_ids``, and where there are any ``weights``, ``pool_mask``, ``attention_mask``, ``position_ids``.
        tokenizer: Turns ids into text.
        colour: Whether to colour; else learned tokens stand in brackets.
        rows: How many rows to show.
        data: The data module that the batch is from, for the names of classes and the numbers of rows.
    """
    used = "learned" if "pool_mask" not in batch else "pooled"
    ids, weights = batch["input_ids"], batch.get("weights", batch.get("pool_mask"))
    weights = ids.new_zeros(ids.shape).float() if weights is None else weights
    if ids.dim() == 3:  # options: those that a question lacks have no weight, and what follows the answer is padding
        names, used = _options(batch["labels"], weights), "scored"
        ids, weights = ids[weights.any(-1)], weights[weights.any(-1)]
        real = (weights != 0).flip(1).cumsum(1).flip(1) > 0
    else:
        names, real = row_names(batch, data), _real(batch, ids)
    learned, total = int((weights != 0).sum()), int(real.sum())
    what = "the label is learned" if not learned and "labels" in batch else f"{learned} of {total} tokens are {used}"
    share = f"{what}, {1 - total / max(1, ids.numel()):.0%} of the batch is padding"
    lines = [f"{next(iter(ids.shape))} rows of {ids.shape[1]} tokens; {share}", *class_line(data)]
    for number, name in names[:rows]:
        starts = batch["position_ids"][number] == 0 if "position_ids" in batch else None
        lines.append(f"--- {name}")
        lines.append(_row(ids[number], weights[number], real[number], starts, tokenizer, colour))
    if len(ids) > rows:
        lines.append(f"... and {len(ids) - rows} more rows")
    return "\n".join(lines)


def _options(labels: Tensor, weights: Tensor) -> list[tuple[int, str]]:
    return [
        (row, f"question {question}, option {option}{' (right)' * (option == labels[question].item())}")
        for row, (question, option) in enumerate(weights.any(-1).nonzero().tolist())
    ]


def _real(batch: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """Which tokens are no padding: of packed rows, padding is a run of documents of one token at the end."""
    if "attention_mask" in batch:
        return batch["attention_mask"].bool()
    if "position_ids" not in batch:
        return ids == ids
    lonely = batch["position_ids"] == 0
    lonely[:, :-1] &= batch["position_ids"][:, 1:] == 0
    return ~(lonely.flip(1).cumprod(1).flip(1).bool())


def _row(ids: Tensor, weights: Tensor, real: Tensor, starts: Tensor | None, tokenizer: Any, colour: bool) -> str:
    pieces: list[str] = []
    place, end = 0, len(ids)
    while place < end:
        if not real[place]:
            place += 1
            continue
        if starts is not None and starts[place]:
            pieces.append("▌")
        weight, stop = weights[place].item(), place + 1
        while (
            stop < end and real[stop] and weights[stop].item() == weight and not (starts is not None and starts[stop])
        ):
            stop += 1
        text = tokenizer.decode(ids[place:stop], skip_special_tokens=False).replace("\n", "⏎\n")
        pieces.append(_run(text, weight, colour))
        place = stop
    return "".join(pieces)


def _run(text: str, weight: float, colour: bool) -> str:
    note = "" if weight in (0, 1) else f"{{{weight:g}}}"
    if not colour:
        return f"[{text}]{note}" if weight else text
    chosen = _GREY if weight == 0 else _GREEN if weight == 1 else _YELLOW if weight > 0 else _RED
    return f"{chosen}{text}{note}{_END}"
