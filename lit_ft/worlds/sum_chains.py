"""Generated sums with chains of steps as answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from lit_ft.core.checks import NonNegativeInt, PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Encoded, Segment
from lit_ft.tokens.token_data import TokenData, encode_filled

TermCount = Annotated[int, Range(low=3)]  # a wrong step needs one before it and one behind it
TEMPLATE = [Segment("{start}{question}{given}", "user"), Segment("{answer}{eos}", "assistant", 1.0)]


def chain(digits: Sequence[int]) -> list[int]:
    """Running sums modulo ten.

    Example:
        >>> chain([3, 8, 5])
        [3, 1, 6]
    """
    return [int(total) % 10 for total in np.cumsum(digits)]


class SumChains(TokenData):
    """Questions such as ``3+8+5=`` with their running sums modulo ten, ``3;1;6``: a derivation with its result.

    In training and validation the whole chain is the target. In the test the beginning of a chain is given, and the
    last given step is wrong, so that only the question tells the true result.

    Args:
        chains: Training questions.
        terms: Numbers of terms of a question, drawn uniformly, each at least 3.
        asked: Questions of validation and of the test each.
        batch_size: Questions of a batch.
        seed: Seed of the questions and of the order.

    See also: :class:`~lit_ft.methods.MaskedThought`.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = SumChains(chains=2, terms=[4], asked=2)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> data.tokenizer.batch_decode(next(iter(data.train_dataloader()))["input_ids"], skip_special_tokens=True)
        ['3+0+0+0=3;3;3;3', '8+6+5+2=8;4;9;1']
        >>> batch = next(iter(data.test_dataloader()))  # the last of the given steps is wrong
        >>> ids, given = batch["input_ids"][0], batch["weights"][0] == 0
        >>> data.tokenizer.decode(ids[given]), data.tokenizer.decode(ids[~given])
        ('8+1+4+1=8;2;', '3;4</s>')
    """

    def __init__(
        self,
        chains: PositiveInt = 200,
        terms: list[TermCount] = [6],  # noqa: B006  never changed
        asked: PositiveInt = 200,
        batch_size: PositiveInt = 16,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(path="generated", batch_size=batch_size, seed=seed)
        checked(locals())
        if not terms:
            raise ConfigError("terms", terms, "at least one number")
        self.chains, self.terms, self.asked = chains, list(terms), asked

    def cache_key(self) -> Sequence[str]:
        """Nothing: the tokens depend on the rows alone."""
        return []

    def _tables(self) -> dict[str, list[Row]]:
        draws = [np.random.default_rng((self.seed, part)) for part in range(3)]
        return {
            "train": [self._row(draws[0]) for _ in range(self.chains)],
            "val": [self._row(draws[1]) for _ in range(self.asked)],
            "test": [self._row(draws[2], begun=True) for _ in range(self.asked)],
        }

    def _row(self, draw: np.random.Generator, begun: bool = False) -> Row:
        digits = draw.integers(10, size=draw.choice(self.terms)).tolist()
        steps = chain(digits)
        given: list[int] = []
        if begun:
            last = int(draw.integers(1, len(steps) - 1))
            given = [*steps[:last], (steps[last] + int(draw.integers(1, 10))) % 10]
        return {
            "question": f"{'+'.join(map(str, digits))}=",
            "given": "".join(f"{step};" for step in given),
            "answer": ";".join(map(str, steps[len(given) :])),
        }

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Questions, the given steps of the chain, and the other steps."""
        return encode_filled(TEMPLATE, rows, numbers, tokenizer)
