"""Packing documents into rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lit_ft.core.errors import ConfigError


def best_fit(lengths: Sequence[int], capacity: int, order: Sequence[int] | None = None) -> list[list[int]]:
    """Pack documents into rows of ``capacity`` tokens: best fit, longest first.

    Each document goes into the fullest row that still has room for it. Rows are listed in the order in which they were
    opened, the documents of a row in the order in which they were added.

    Args:
        lengths: Tokens of each document, none longer than ``capacity``.
        capacity: Tokens of a row.
        order: Tie-break among documents of one length: a permutation of their numbers.

    Example:
        >>> best_fit([3, 5, 2, 4], capacity=7)
        [[1, 2], [3, 0]]
    """
    longest = max(lengths, default=0)
    if longest > capacity:
        raise ConfigError("capacity", capacity, f"at least {longest}, the tokens of the longest document")
    rank = np.arange(len(lengths)) if order is None else np.argsort(np.asarray(order))
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]  # by room left
    rooms = _Rooms()
    for document in np.lexsort((rank, -np.asarray(lengths, dtype=np.int64))).tolist():
        length = lengths[document]
        room = rooms.smallest_from(length)
        if room is None:
            rows.append([document])
            row, left = len(rows) - 1, capacity - length
        else:
            row, left = open_rows[room].pop(), room - length
            rows[row].append(document)
            if not open_rows[room]:
                rooms.remove(room)
        open_rows[left].append(row)
        rooms.add(left)
    return rows


class _Rooms:
    """The sizes of free room that exist, as a bit mask: the smallest that fits is found in one step."""

    def __init__(self) -> None:
        self.bits = 0

    def add(self, room: int) -> None:
        self.bits |= 1 << room

    def remove(self, room: int) -> None:
        self.bits &= ~(1 << room)

    def smallest_from(self, length: int) -> int | None:
        fitting = self.bits >> length
        return None if not fitting else length + (fitting & -fitting).bit_length() - 1


def pack_positions(lengths: Sequence[int]) -> torch.Tensor:
    """Positions that restart at 0 with each document.

    Example:
        >>> pack_positions([3, 2])
        tensor([0, 1, 2, 0, 1])
    """
    return torch.cat([torch.arange(length) for length in lengths])
