"""The last rows that went by, in several columns."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class RowMemory(nn.Module):
    """Remembers the newest rows, newest first; part of checkpoints.

    Args:
        size: Rows that are remembered.
        columns: An example of a row's entry, by name of the column: gives shape and type.
    """

    count: Tensor

    def __init__(self, size: int, columns: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = tuple(columns)
        for name, example in columns.items():
            self.register_buffer(name, torch.zeros((size, *example.shape), dtype=example.dtype))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def add(self, columns: Mapping[str, Tensor]) -> None:
        """Put new rows in front; the oldest fall out."""
        for name in self.names:
            buffer: Tensor = getattr(self, name)
            buffer.copy_(torch.cat([columns[name].to(buffer), buffer])[: len(buffer)])
        self.count.copy_((self.count + len(columns[self.names[0]])).clamp(max=len(getattr(self, self.names[0]))))

    def column(self, name: str) -> Tensor:
        """The entries of the rows that are there."""
        return getattr(self, name)[: int(self.count)]
