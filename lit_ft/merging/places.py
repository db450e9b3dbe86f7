"""Where a tensor stands in its network, from the names alone."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorPlace:
    """Where one tensor stands.

    Args:
        name: Its name.
        stack: What stands before the number of its block (``encoder.block``); None outside of blocks.
        block: Number of its block, from 0; None outside of blocks.
        blocks: Number of blocks of that stack; 0 outside of blocks.
    """

    name: str
    stack: str | None = None
    block: int | None = None
    blocks: int = 0

    @property
    def depth(self) -> float | None:
        """0 in the first block, 1 in the last (and in the only one); None outside of blocks."""
        if self.block is None:
            return None
        return self.block / (self.blocks - 1) if self.blocks > 1 else 1.0


def places(names: Iterable[str]) -> dict[str, TensorPlace]:
    """The place of each name.

    A stack is a prefix behind which whole blocks are numbered from 0 without a gap; only the outermost one counts. An
    encoder-decoder has two.

    Example:
        >>> found = places(["embed.weight", "h.0.mlp.weight", "h.1.mlp.weight", "h.2.mlp.0.weight", "norm.weight"])
        >>> [(place.block, place.depth) for place in found.values()]
        [(None, None), (0, 0.0), (1, 0.5), (2, 1.0), (None, None)]
    """
    names = list(names)
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        for prefix, number in _numbered(name):
            numbers[prefix].add(int(number))
    stacks = {prefix: len(found) for prefix, found in numbers.items() if 1 < len(found) == max(found) + 1}
    return {name: _place(name, stacks) for name in names}


def _numbered(name: str) -> list[tuple[str, str]]:
    """What stands before each number that is followed by more than the tensor's own name, and the number."""
    found = re.finditer(r"(?:^|(?<=\.))(\d+)(?=\.[^.]+\.)", name)
    return [(name[: match.start()].rstrip("."), match.group(1)) for match in found]


def _place(name: str, stacks: dict[str, int]) -> TensorPlace:
    for prefix, number in _numbered(name):
        if prefix in stacks:
            return TensorPlace(name, prefix, int(number), stacks[prefix])
    return TensorPlace(name)
