"""Examples as tokens with weights, made once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.running.cache import cached
from lit_ft.tokens.bins import best_fit
from lit_ft.tokens.segments import Encoded

_AT_ONCE = 5_000
_FORMAT = 6  # raised when the same rows would give other tokens than before


class TokenTable:
    """Examples of various lengths in flat tensors.

    Args:
        ids: Token ids of all examples.
        weights: Weight of each token as a target.
        starts: Where each example begins, and the end of the last.
        rows: Number of the row that each example comes from, counted from 0.
        tasks: Number of the task of each example; None where there are no tasks.

    Example:
        >>> table = TokenTable.of([Encoded([5, 6, 7], [0.0, 1.0, 1.0]), Encoded([8, 9], [0.0, 1.0])], rows=[0, 1])
        >>> table[1]
        {'input_ids': tensor([8, 9]), 'weights': tensor([0., 1.]), 'row': tensor(1)}
        >>> len(table), table.lengths, table.starts
        (2, [3, 2], tensor([0, 3, 5]))
    """

    def __init__(self, ids: Tensor, weights: Tensor, starts: Tensor, rows: Tensor, tasks: Tensor | None = None) -> None:
        self.ids, self.weights, self.starts, self.rows, self.tasks = ids, weights, starts, rows, tasks
        self._starts: list[int] = starts.tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """``input_ids``, ``weights``, ``row`` and, where there are any, ``task`` of one example."""
        place = slice(self._starts[number], self._starts[number + 1])
        example = {"input_ids": self.ids[place].long(), "weights": self.weights[place], "row": self.rows[number]}
        return example if self.tasks is None else {**example, "task": self.tasks[number]}

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return (self.starts[1:] - self.starts[:-1]).tolist()

    @classmethod
    def of(cls, examples: Sequence[Encoded], rows: Sequence[int], tasks: Sequence[int] | None = None) -> TokenTable:
        """A table of these examples, with the number of the row and of the task of each."""
        return cls(
            torch.tensor(list(chain.from_iterable(e.input_ids for e in examples)), dtype=torch.int32),
            torch.tensor(list(chain.from_iterable(e.weights for e in examples)), dtype=torch.float32),
            torch.tensor([0, *(len(e) for e in examples)]).cumsum(0),
            torch.tensor(rows, dtype=torch.int64),
            None if tasks is None else torch.tensor(tasks, dtype=torch.int64),
        )


def token_table(
    rows: Sequence[Any],
    make: Callable[[Sequence[Any], Sequence[int]], list[Encoded]],
    key: Sequence[str],
    split: str,
    max_length: int,
    numbers: Sequence[int],
    tasks: Sequence[int] | None = None,
) -> TokenTable:
    """Encode rows once and cache the result; examples without a target are left out, with a warning that counts them.

    Args:
        rows: Rows to encode.
        make: ``make(rows, numbers)`` encodes some rows.
        key: Everything else that the tokens depend on: tokenizer, template, settings.
        split: Name of the split, for messages.
        max_length: Longest example in tokens, for messages.
        numbers: Numbers of the rows, for messages.
        tasks: Number of the task of each row.

    Example:
        >>> def make(rows, numbers):
        ...     return [Encoded(list(row.encode()), [0.0] + [1.0] * (len(row) - 1)) for row in rows]
        >>> table = token_table(["ab", "a", "abc"], make, ["bytes"], "train", max_length=8, numbers=[1, 2, 3])
        >>> table.lengths, table.rows  # "a" has no target: nothing predicts a first token
        ([2, 3], tensor([0, 2]))
    """
    digest = hashlib.sha256("\0".join([str(_FORMAT), *key]).encode("utf-8", "surrogatepass"))
    for row in rows:
        text = json.dumps(row, sort_keys=True, default=str)
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    folder = cached(f"examples/{digest.hexdigest()[:32]}", lambda folder: _encode(rows, numbers, make, folder))
    saved = torch.load(folder / "examples.pt", weights_only=True, mmap=True)
    left_out = sorted(set(range(len(rows))) - set(saved["rows"].tolist()))
    if left_out:
        named = list(dict.fromkeys(str(numbers[place]) for place in left_out))
        some = ", ".join(named[:5]) + (" ..." if len(named) > 5 else "")
        if len(left_out) == len(rows):
            longest = int(saved["whole"].max())
            allowed = f"rows with a target; those of {split} rows {some} are all cut off by it, or weigh 0"
            allowed += f" ({longest} keeps all whole)" if longest > max_length else ""
            raise ConfigError("max_length", max_length, allowed)
        rank_zero_warn(
            f"{len(left_out)} of {len(rows)} {split} examples have no target and are left out (cut off by max_length,"
            f" or all weights are 0): rows {some}"
        )
    warn_of_cuts(saved["whole"].tolist(), max_length, split)
    chosen = None if tasks is None else torch.tensor(tasks)[saved["rows"]]
    return TokenTable(saved["ids"], saved["weights"], saved["starts"], saved["rows"], chosen)


def _encode(
    rows: Sequence[Any],
    numbers: Sequence[int],
    make: Callable[[Sequence[Any], Sequence[int]], list[Encoded]],
    folder: Path,
) -> None:
    examples: list[Encoded] = []
    for start in range(0, len(rows), _AT_ONCE):
        if len(rows) > _AT_ONCE:
            rank_zero_info(f"Tokenising rows {start} to {min(start + _AT_ONCE, len(rows))} of {len(rows)}, once")
        some = numbers[start : start + _AT_ONCE]
        examples += checked_weights(make(rows[start : start + _AT_ONCE], some), some)
    kept = [number for number, example in enumerate(examples) if example.has_targets]
    table = TokenTable.of([examples[number] for number in kept], kept)
    saved = {name: getattr(table, name) for name in ("ids", "weights", "starts", "rows")}
    saved["whole"] = torch.tensor([len(example) + example.cut for example in examples])
    torch.save(saved, folder / "examples.pt")


def warn_of_cuts(lengths: Sequence[int], max_length: int, split: str, what: str = "examples") -> None:
    """Warn how many examples are cut, and which limits would keep most and all of them.

    Args:
        lengths: Tokens of each example before it is cut.
        max_length: The limit.
        split: Name of the split, for the message.
        what: What they are, for the message.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as found:
        ...     warnings.simplefilter("always")
        ...     warn_of_cuts([3, 9, 4, 12], max_length=4, split="train")
        >>> str(found[0].message)
        '2 of 4 train examples are longer than max_length = 4 and are cut, which loses 46 % of all tokens: 12 keeps all'
    """
    long = sum(length > max_length for length in lengths)
    if long:
        most = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]
        longest = max(lengths)
        enough = f"{most} keeps 95 % whole, {longest} all" if max_length < most < longest else f"{longest} keeps all"
        share = sum(length - max_length for length in lengths if length > max_length) / sum(lengths)
        rank_zero_warn(
            f"{long} of {len(lengths)} {split} {what} are longer than max_length = {max_length} and are cut, which"
            f" loses {100 * share:.2g} % of all tokens: {enough}"
        )


def checked_weights(examples: list[Encoded], numbers: Sequence[int]) -> list[Encoded]:
    """The examples, or an error if one of their weights is not finite.

    Example:
        >>> checked_weights([Encoded([5, 6], [0.0, float("nan")])], numbers=[7])
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: weight: given nan; allowed: a finite number; see row 7
    """
    for example, number in zip(examples, numbers, strict=True):
        if not math.isfinite(sum(example.weights)):
            wrong = next(weight for weight in example.weights if not math.isfinite(weight))
            raise ConfigError("weight", wrong, f"a finite number; see row {number}")
    return examples


def collate_padded(examples: Sequence[dict[str, Tensor]], padding: int) -> dict[str, Tensor]:
    """Pad on the right to the longest example.

    The result has ``input_ids``, ``attention_mask``, ``weights`` of shape (rows, tokens), and ``rows`` and, with tasks,
    ``tasks`` of shape (rows,).

    See also: :func:`collate_packed`.

    Example:
        >>> table = TokenTable.of([Encoded([5, 6, 7], [0.0, 1.0, 1.0]), Encoded([8, 9], [0.0, 1.0])], rows=[0, 1])
        >>> batch = collate_padded([table[0], table[1]], padding=0)
        >>> batch["input_ids"]
        tensor([[5, 6, 7],
                [8, 9, 0]])
        >>> batch["weights"]
        tensor([[0., 1., 1.],
                [0., 1., 0.]])
    """
    lengths = torch.tensor([len(e["input_ids"]) for e in examples])
    batch = {
        "input_ids": _padded([e["input_ids"] for e in examples], padding),
        "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        "weights": _padded([e["weights"] for e in examples], 0),
        "rows": torch.stack([e["row"] for e in examples]),
    }
    if "task" in examples[0]:
        batch["tasks"] = torch.stack([e["task"] for e in examples])
    return batch


def collate_packed(examples: Sequence[dict[str, Tensor]], padding: int, capacity: int) -> dict[str, Tensor]:
    """Several examples in one row, with positions that restart at 0 for each, and no mask.

    The result has ``input_ids``, ``position_ids``, ``weights`` and, with tasks, ``tasks`` of shape (rows, tokens), and
    ``rows`` of shape (examples,). Each padding token has position 0, as a document of its own.

    See also: :func:`collate_padded`, :func:`~lit_ft.tokens.packing.packed_batches`.

    Example:
        >>> table = TokenTable.of([Encoded([5, 6, 7], [0.0, 1.0, 1.0]), Encoded([8, 9], [0.0, 1.0])], rows=[0, 1])
        >>> batch = collate_packed([table[0], table[1]], padding=0, capacity=6)
        >>> batch["input_ids"], batch["position_ids"]
        (tensor([[5, 6, 7, 8, 9]]), tensor([[0, 1, 2, 0, 1]]))
    """
    packed = best_fit([len(e["input_ids"]) for e in examples], capacity)

    def rows_of(name: str, fill: int) -> Tensor:
        return _padded([torch.cat([examples[i][name] for i in row]) for row in packed], fill)

    examples = [{**e, "positions": torch.arange(len(e["input_ids"]))} for e in examples]
    batch = {
        "input_ids": rows_of("input_ids", padding),
        "position_ids": rows_of("positions", 0),
        "weights": rows_of("weights", 0),
        "rows": torch.stack([e["row"] for e in examples]),
    }
    if "task" in examples[0]:
        examples = [{**e, "task": e["task"].expand(len(e["input_ids"]))} for e in examples]
        batch["tasks"] = rows_of("task", 0)
    return batch


def _padded(rows: list[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
