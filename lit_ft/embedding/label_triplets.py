"""Triplets from labelled texts: an anchor, another text of its class, and one of another class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.errors import ConfigError
from lit_ft.embedding.text_pairs import TextPairs
from lit_ft.sources.class_names import class_name, labelled
from lit_ft.sources.splits import SPLITS
from lit_ft.sources.tables import Row


class LabelTriplets(TextPairs):
    r"""Every text is the anchor of one triplet; its positive and its negative are drawn once, within its split.

    With ``near``, negatives are harder: they share the value of that column (such as a topic that groups classes) with
    the anchor if there are such texts. Texts without a positive or a negative are left out, with a warning that counts
    them. Batches are those of ``TextPairs`` with one negative, for ``Triplet`` or ``InBatchContrastive``; under the
    latter, positives of other rows may have the anchor's class.

    Args:
        path: Table with the rows.
        text: Column of the text.
        target: Column of the class.
        near: Column that an anchor and its negative share; None draws from all other classes.

    See also: :class:`~lit_ft.data.TextPairs`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("texts.csv").write_text("text,label\ncat,animal\ndog,animal\noak,plant\nelm,plant\n")
        >>> data = LabelTriplets("texts.csv", batch_size=2, val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.batch_decode(batch["input_ids"].view(3, 2, -1)[:, 0])  # one triplet
        ['dog', 'cat', 'elm']
    """

    def __init__(
        self,
        path: str,
        text: str = "text",
        target: str = "label",
        near: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            path=path, anchor=None, positive=None, negatives=None, label=None, homogeneous=False, val_path=None,
            **kwargs,
        )  # fmt: skip
        self.text, self.target, self.near = text, target, near

    def _tables(self) -> dict[str, list[Row]]:
        self.columns = ["anchor", "positive", "negative"]
        tables, numbers = self.source.read([self.text, self.target, *([self.near] if self.near else [])], plain=True)
        _, classes = labelled(tables, numbers, self.target, "target")
        found = {}
        for number, split in enumerate(SPLITS):
            triplets = self._triplets(tables[split], classes[split], number)
            found[split] = list(triplets.values())
            self.numbers[split] = [numbers[split][row] for row in triplets]
        return found

    def _triplets(self, rows: Sequence[Row], classes: Sequence[int], split: int) -> dict[int, Row]:
        topics = [self._topic(row) for row in rows]
        draw = np.random.default_rng((self.seed, split))
        found: dict[int, Row] = {}
        by_class, by_topic = _members(classes), _members(topics)
        for i, row in enumerate(rows):
            positives = [j for j in by_class[classes[i]] if rows[j][self.text] != row[self.text]]
            others = [j for j in by_topic[topics[i]] if classes[j] != classes[i]]
            others = others or [j for j in range(len(rows)) if classes[j] != classes[i]]
            if positives and others:
                texts = [row, rows[int(draw.choice(positives))], rows[int(draw.choice(others))]]
                found[i] = dict(zip(self.columns, (str(other[self.text]) for other in texts), strict=True))
        if len(found) < len(rows):
            rank_zero_warn(
                f"{len(rows) - len(found)} of {len(rows)} {SPLITS[split]} texts have no positive or negative"
            )
        if not found and SPLITS[split] == "train":
            raise ConfigError("target", self.target, "a column with two classes, one of them of two different texts")
        return found

    def _topic(self, row: Row) -> Any:
        return None if self.near is None else class_name(row[self.near])


def _members(values: Sequence[Any]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for place, value in enumerate(values):
        found.setdefault(value, []).append(place)
    return found
