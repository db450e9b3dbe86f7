"""The k largest of many scores, exactly, without sorting and without a copy of the scores."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError

Score = Callable[[int, int], Tensor]  # (start, stop) of the flat tensor -> scores of these entries

_CHUNK = 1 << 21


def budgets(density: float, sizes: Sequence[int], what: str = "entries") -> list[int]:
    """How many entries of each group a density selects, rounded to the nearest.

    Args:
        density: A share in (0, 1].
        sizes: The size of each group.
        what: Name of the entries in the error.

    Raises:
        ConfigError: The density selects nothing in any group.

    Example:
        >>> budgets(0.1, [100, 4])
        [10, 0]
    """
    numbers = [round(density * size) for size in sizes]
    if not any(numbers):
        largest = max(sizes, default=0)
        raise ConfigError(
            "density", density, f"a share that selects something: 1 of {largest} {what} is {1 / max(1, largest):.2g}"
        )
    return numbers


def top_masks(scores: Mapping[str, Score], shapes: Mapping[str, torch.Size], number: int) -> dict[str, Tensor]:
    """Masks of the ``number`` entries with the largest scores over all tensors together.

    Two counting passes over 16 bits of the score each, as float32, find the exact threshold. Entries at the threshold
    are taken in the order of the tensors and of their entries until the budget is met, so that the result is
    deterministic. Besides the masks (one byte per entry) it needs memory for one chunk of scores only; each score is
    computed three times.

    Args:
        scores: Computes scores of a range of entries, for each tensor.
        shapes: The shape of each tensor.
        number: Number of entries that are selected.

    Raises:
        ConfigError: A score is not a number.

    Example:
        >>> scores = torch.tensor([1.0, 3.0, 2.0, 3.0])
        >>> top_masks({"w": lambda start, stop: scores[start:stop]}, {"w": scores.shape}, number=3)
        {'w': tensor([False,  True,  True,  True])}
    """
    high = torch.zeros(1 << 16, dtype=torch.int64)
    for _, keys in _keys(scores, shapes):
        high += torch.bincount((keys >> 16) + (1 << 15), minlength=1 << 16)
    bucket, above = _bucket(high, number)
    low = torch.zeros(1 << 16, dtype=torch.int64)
    for _, keys in _keys(scores, shapes):
        inside = keys[(keys >> 16) == bucket - (1 << 15)]
        low += torch.bincount(inside & 0xFFFF, minlength=1 << 16)
    position, more = _bucket(low, number - above)
    threshold = ((bucket - (1 << 15)) << 16) + position
    ties = number - above - more
    masks = {name: torch.zeros(shape.numel(), dtype=torch.bool) for name, shape in shapes.items()}
    for (name, start), keys in _keys(scores, shapes):
        mask = masks[name][start : start + len(keys)]
        torch.gt(keys, threshold, out=mask)
        if ties:
            equal = (keys == threshold).nonzero().flatten()[:ties]
            mask[equal] = True
            ties -= len(equal)
    return {name: mask.view(shapes[name]) for name, mask in masks.items()}


def _bucket(counts: Tensor, number: int) -> tuple[int, int]:
    """The bucket that holds the entry of rank ``number`` from above, and how many lie in higher buckets."""
    from_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, number))
    return len(counts) - 1 - place, int(from_above[place - 1]) if place else 0


def _keys(scores: Mapping[str, Score], shapes: Mapping[str, torch.Size]) -> Iterator[tuple[tuple[str, int], Tensor]]:
    """Integers that sort as the scores do, chunk by chunk."""
    for name, shape in shapes.items():
        for start in range(0, shape.numel(), _CHUNK):
            score = scores[name](start, min(start + _CHUNK, shape.numel())).detach().cpu().float() + 0.0  # -0 is 0
            if score.isnan().any():
                raise ConfigError("scores", f"NaN in {name}", "numbers")
            bits = score.view(torch.int32)
            yield (name, start), torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
