"""Generated sums whose answers are chains of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from lit_ft.core.checks import PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.sources.tables import Row
from lit_ft.tokens.segments import Encoded, Segment
from lit_ft.tokens.token_data import TokenData, encode_filled

TermCount = Annotated[int, Range(low=3)]  # a wrong step needs one before it and one behind it
TEMPLATE = [Segment("{start}{question}{given}", "user"), Segment("{answer}{eos}", "assistant", 1.0)]


def chain(digits: Sequence[int]) -> list[int]:
    """Running sums modulo ten."""
    return [int(total) % 10 for total in np.cumsum(digits)]


class SumChains(TokenData):
    """Questions such as ``3+8+5=`` with their running sums modulo ten, ``3;1;6``: a derivation, its result at the end.

    Training and validation ask for the whole chain. In the test a chain has been begun, and the last of the steps that
    are given is wrong, so that the true result follows from the question alone.

    Args:
        chains: Of the training.
        terms: Numbers of terms that occur, each at least 3.
        asked: Questions of validation and of the test.
        batch_size: Questions of a batch.
        seed: Seed of the questions and of the order.
    """

    def __init__(
        self,
        chains: PositiveInt = 200,
        terms: list[TermCount] = [6],  # noqa: B006  never changed
        asked: PositiveInt = 200,
        batch_size: PositiveInt = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(path="generated", batch_size=batch_size, seed=seed)
        checked(locals())
        if not terms:
            raise ConfigError("terms", terms, "at least one number")
        self.chains, self.terms, self.asked = chains, list(terms), asked

    def cache_key(self) -> Sequence[str]:
        """Nothing: the rows are all there is."""
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
        """Questions, what is given of the chain, and the rest of it."""
        return encode_filled(TEMPLATE, rows, numbers, tokenizer)
