"""A queue of the latest rows, in several columns."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class RowMemory(nn.Module):
    """A queue of the newest rows, newest first; part of checkpoints.

    Args:
        size: Number of rows that are kept.
        columns: An example of an entry by name of its column, for shape and type.
        key: A column of integers that identifies rows: of a row that is added again, only the newest entry is kept.
            None keeps every entry.

    Example:
        >>> memory = RowMemory(size=2, columns={"row": torch.tensor(0)})
        >>> memory.add({"row": torch.tensor([1, 2])})
        >>> memory.add({"row": torch.tensor([3])})
        >>> memory.column("row")
        tensor([3, 1])
    """

    count: Tensor

    def __init__(self, size: int, columns: Mapping[str, Tensor], key: str | None = None) -> None:
        super().__init__()
        self.names, self.key = tuple(columns), key
        for name, example in columns.items():
            self.register_buffer(name, torch.zeros((size, *example.shape), dtype=example.dtype))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def add(self, columns: Mapping[str, Tensor]) -> None:
        """Add new rows in front; the oldest are dropped."""
        entries = {name: torch.cat([columns[name].to(self.column(name)), self.column(name)]) for name in self.names}
        if self.key is not None:
            newest = first_places(entries[self.key])
            entries = {name: entry[newest] for name, entry in entries.items()}
        for name, entry in entries.items():
            buffer: Tensor = getattr(self, name)
            count = min(len(entry), len(buffer))
            buffer[:count] = entry[:count]
        self.count.fill_(count)

    def column(self, name: str) -> Tensor:
        """The entries of a column, for the rows in the queue."""
        return getattr(self, name)[: int(self.count)]


def first_places(values: Tensor) -> Tensor:
    """The index of the first occurrence of each distinct value, ascending; shape (distinct values,).

    Example:
        >>> first_places(torch.tensor([5, 3, 5]))
        tensor([0, 1])
    """
    different, which = values.unique(return_inverse=True)
    places = torch.arange(len(values), device=values.device)
    return places.new_full(different.shape, len(values)).scatter_reduce(0, which, places, "amin").sort().values
