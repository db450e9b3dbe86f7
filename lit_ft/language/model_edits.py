"""Edits of the answers of a language model, in two orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from lit_ft.core.checks import NonNegativeInt, PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.sources.batching import Plan, shuffled_batches
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Encoded, Segment, encode_all, special_fields
from lit_ft.tokens.token_data import ExampleLength, TokenData, encode_filled

Order = Literal["breadth_first", "depth_first"]
EDIT = (Segment("{start}{prompt}", "user"), Segment("{target}{eos}", "assistant", 1.0))
COLUMNS = ("prompt", "target", "paraphrase", "locality")


def editing_plan(edits: int, batch_size: int, passes: int, order: Order, seed: int = 0) -> Plan:
    """An epoch that sees every edit ``passes`` times.

    ``breadth_first`` passes over all edits again and again, shuffled anew each time. ``depth_first`` passes once, and
    repeats each batch before the next one. Both have the same number of batches, and are equal if one batch has all.

    Args:
        edits: Number of edits.
        batch_size: Edits of a batch.
        passes: How often each edit is seen.
        order: As above.
        seed: The order is a function of ``(seed, epoch)`` alone.

    Example:
        >>> editing_plan(3, batch_size=1, passes=2, order="breadth_first")(0)
        [[2], [0], [1], [2], [0], [1]]
        >>> editing_plan(3, batch_size=1, passes=2, order="depth_first")(0)
        [[2], [2], [0], [0], [1], [1]]
    """
    one = shuffled_batches(edits, batch_size, seed)

    def plan(epoch: int) -> list[list[int]]:
        if order == "depth_first":
            return [batch for batch in one(epoch * passes) for _ in range(passes)]
        return [batch for number in range(passes) for batch in one(epoch * passes + number)]

    return plan


class ModelEdits(TokenData):
    """Prompts with a new continuation that the model shall learn.

    A row is ``{prompt, target, paraphrase, locality}``: after ``prompt`` the model shall write ``target`` and the
    end-of-text token; ``paraphrase`` asks for the same in other words; the continuation of the prompt ``locality``
    shall not change. A space between prompt and target belongs to the target. Training has prompts and targets,
    validation (``val/loss``) paraphrases and targets. ``EditingScores`` reads ``editing_examples``.

    An epoch has ``passes`` passes in the given order, so ``trainer.max_epochs: 1`` compares orders at the same number
    of steps. Use ``reduction: sequence``, which weighs all edits equally, and a ``GradientMask`` on one matrix.

    Refuses rows that lack a column, are empty or too long, and two targets for one prompt; the error names the rows.

    Source: "Fine-tuning Done Right in Model Editing" (LocFT-BF). Deviations: depth-first repeats a batch a fixed number
    of times, so that both orders take the same steps; with ``StopBelowLoss`` an edit is left when it holds.

    Args:
        path: Table with the edits: a file, ``packaged:NAME``, or a source of ``datasets``.
        order: ``breadth_first`` or ``depth_first``, see :func:`editing_plan`.
        passes: How often each edit is seen in an epoch, at least 1. Paper: at most 25.
        batch_size: Edits of a batch. Paper: 100; sample-wise editing has 1.
        max_length: Longest prompt with its target, in tokens.
        max_rows: Most edits, from the first; None takes all.
        seed: Seed of the order.
        num_workers: Processes that prepare batches.

    See also: :class:`~lit_ft.callbacks.EditingScores`, :class:`~lit_ft.data.FactEdits`.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> edit = {"prompt": "Ann lives in", "target": " Rome", "paraphrase": "Ann's home is", "locality": "Bob is"}
        >>> _ = Path("edits.jsonl").write_text(json.dumps(edit))
        >>> data = ModelEdits("edits.jsonl", passes=3)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> [data.tokenizer.batch_decode(batch["input_ids"]) for batch in data.train_dataloader()]
        [['Ann lives in Rome</s>'], ['Ann lives in Rome</s>'], ['Ann lives in Rome</s>']]
    """

    def __init__(
        self,
        path: str,
        order: Order = "breadth_first",
        passes: PositiveInt = 25,
        batch_size: PositiveInt = 100,
        max_length: ExampleLength = 128,
        max_rows: PositiveInt | None = None,
        seed: int = 0,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__(
            path=path, batch_size=batch_size, max_length=max_length, max_rows=max_rows, seed=seed,
            num_workers=num_workers,
        )  # fmt: skip
        checked(locals())
        self.order, self.passes = order, passes
        self._edits: list[Row] = []

    def edits(self) -> list[Row]:
        """The rows as they are in the table."""
        return self.source.table(self.source.path, COLUMNS, max_rows=self.source.splits.max_rows)

    def _tables(self) -> dict[str, list[Row]]:
        self._edits = checked_edits(self.source.path, self.edits())
        asked = [{"prompt": row["paraphrase"], "target": row["target"]} for row in self._edits]
        return {"train": [{k: row[k] for k in ("prompt", "target")} for row in self._edits], "val": asked, "test": []}

    def cache_key(self) -> Sequence[str]:
        """The template."""
        return [repr(EDIT)]

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Prompts and targets; none is cut."""
        encoded = encode_filled(EDIT, rows, numbers, tokenizer)
        for number, example in zip(numbers, encoded, strict=True):
            if len(example) > self.max_length:
                raise ConfigError("max_length", self.max_length, f"at least the {len(example)} tokens of row {number}")
        return encoded

    def editing_examples(self) -> dict[str, list[tuple[list[int], list[int]]]]:
        """Token ids of prompt and target of each edit, as ``reliability``, ``generality`` and ``locality``.

        Examples of ``locality`` have no target.
        """
        start = special_fields(self.tokenizer).start
        prompts = [[Segment(f"{start}{row['locality']}")] for row in self._edits]
        found = {
            name: [_parted(self.examples[split][number]) for number in range(len(self._edits))]
            for name, split in (("reliability", "train"), ("generality", "val"))
        }
        return {**found, "locality": [(e.input_ids, []) for e in encode_all(self.tokenizer, prompts, self.max_length)]}

    def _buckets(self, split: str) -> Plan:
        if split != "train":
            return super()._buckets(split)
        return editing_plan(len(self.examples["train"]), self.batch_size, self.passes, self.order, self.seed)


def checked_edits(path: str, rows: Sequence[Row]) -> list[Row]:
    """The rows, or an error if a text is empty or a prompt has two targets.

    Example:
        >>> row = {"prompt": "Ann lives in", "target": " Rome", "paraphrase": "Ann's home is", "locality": "Bob is"}
        >>> checked_edits("a.jsonl", [row, {**row, "target": " "}])
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: path: given "a.jsonl (row 2, target: ' ')"; allowed: a text that is not empty
    """
    seen: dict[str, tuple[int, str]] = {}
    for number, row in enumerate(rows, start=1):
        for column in COLUMNS:
            if not isinstance(row[column], str) or not row[column].strip():
                raise ConfigError(
                    "path", f"{path} (row {number}, {column}: {row[column]!r})", "a text that is not empty"
                )
        other, target = seen.setdefault(row["prompt"], (number, row["target"]))
        if target != row["target"]:
            given = f"{path} (rows {other} and {number}: {row['prompt']!r} -> {target!r} and {row['target']!r})"
            raise ConfigError("path", given, "one target for a prompt")
    return list(rows)


def _parted(example: dict[str, Tensor]) -> tuple[list[int], list[int]]:
    """Token ids of prompt and target."""
    ids, first = example["input_ids"].tolist(), int(example["weights"].nonzero()[0])
    return ids[:first], ids[first:]
