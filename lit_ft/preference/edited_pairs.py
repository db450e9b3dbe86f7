"""Generated pairs of answers that are more or less similar."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from lit_ft.core.checks import PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.preference.ches_filter import ChesFilter
from lit_ft.preference.preferences import Preferences
from lit_ft.sources.splits import SPLITS
from lit_ft.sources.tables import Row

LETTERS = "abcdefghijklmnop"


class EditedPairs(Preferences):
    """A random key as prompt, a random word as chosen answer, the word with some letters changed as rejected answer.

    Half of the pairs differ in ``few`` letters, the other half in all letters, so that their CHES scores differ.

    Args:
        pairs: Training pairs; validation has a quarter as many.
        length: Letters of a word.
        few: Letters that differ in half of the pairs, from 1 to ``length``.
        ches_filter: Leaves out training pairs by their CHES under the network before the first step.
        batch_size: Pairs of a batch.
        seed: Seed of pairs and order.

    See also: :class:`~lit_ft.methods.DPO`, :class:`~lit_ft.data.ChesFilter`.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = EditedPairs(pairs=4, length=4, batch_size=2)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)  # chosen, then rejected
        ['ikej:mghp', 'mlnc:bnai', 'ikej:mgho', 'mlnc:dibj']
    """

    def __init__(
        self,
        pairs: Annotated[int, Range(low=4)] = 128,
        length: PositiveInt = 8,
        few: PositiveInt = 1,
        ches_filter: ChesFilter | None = None,
        batch_size: PositiveInt = 32,
        seed: int = 0,
    ) -> None:
        checked(locals())
        if few > length:
            raise ConfigError("few", few, f"from 1 to the length {length}")
        super().__init__(
            path="generated", max_length=4 * length, ches_filter=ches_filter, batch_size=batch_size, seed=seed
        )
        self.count, self.length, self.few = pairs, length, few

    def _pair_rows(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for number, split in enumerate(SPLITS):
            draw = np.random.default_rng((self.seed, number))
            count = {"train": self.count, "val": self.count // 4}.get(split, 0)
            found[split] = [self._pair(draw, self.few if i % 2 else self.length) for i in range(count)]
        return found

    def _pair(self, draw: np.random.Generator, edits: int) -> Row:
        key, word = draw.integers(len(LETTERS), size=(2, self.length))
        other = word.copy()
        places = draw.choice(self.length, edits, replace=False)
        other[places] = (word[places] + draw.integers(1, len(LETTERS), size=edits)) % len(LETTERS)
        prompt, chosen, rejected = ("".join(LETTERS[i] for i in letters) for letters in (key, word, other))
        return {"prompt": f"{prompt}:", "chosen": chosen, "rejected": rejected}
