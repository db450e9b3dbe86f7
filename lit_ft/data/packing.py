"""Several documents in one row, none of which sees another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.data.batching import Plan


def best_fit(lengths: Sequence[int], capacity: int, order: Sequence[int] | None = None) -> list[list[int]]:
    """Documents put into rows of ``capacity`` tokens: best fit, longest first.

    Each document goes into the fullest row that still has room for it. Rows, and documents in a row, are listed in the
    order in which they were begun.

    Args:
        lengths: Tokens of each document, none longer than ``capacity``.
        capacity: Tokens of a row.
        order: Tie-break among documents of one length: a permutation of their numbers.
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


def packed_batches(lengths: Sequence[int], capacity: int, rows_per_batch: int, seed: int = 0) -> Plan:
    """Batches of rows full of documents: a batch lists documents, which :func:`pack` puts into the same rows again.

    Which documents of one length share a row, and the order of the rows, are drawn anew in every epoch; the number of
    batches stays the same.

    Args:
        lengths: Tokens of each document.
        capacity: Tokens of a row.
        rows_per_batch: Rows of a batch.
        seed: The order is a function of ``(seed, epoch)`` alone.
    """

    def plan(epoch: int) -> list[list[int]]:
        random = np.random.default_rng((seed, epoch))
        rows = best_fit(lengths, capacity, random.permutation(len(lengths)).tolist())
        order = random.permutation(len(rows)).tolist()
        batches = [order[start : start + rows_per_batch] for start in range(0, len(rows), rows_per_batch)]
        return [[document for row in batch for document in rows[row]] for batch in batches]

    return plan


def pack_positions(lengths: Sequence[int]) -> torch.Tensor:
    """Positions that begin again at 0 with each document."""
    return torch.cat([torch.arange(length) for length in lengths])


@torch.no_grad()
def check_packing(network: nn.Module, vocabulary: int, tolerance: float = 1e-3) -> float:
    """Refuse a network that lets packed documents see each other: compares two documents packed and alone.

    Documents are told apart by positions that begin again, without a mask and without a cache. Networks that ignore
    positions (recurrent ones, some attention kernels) leak.

    Args:
        network: A causal language model.
        vocabulary: Number of words.
        tolerance: Largest difference of logits that counts as rounding, for float32.

    Returns:
        The largest difference.
    """
    parameter = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(0, vocabulary, (1, n), generator=generator).to(parameter.device) for n in (5, 7)]
    positions = pack_positions([5, 7])[None].to(parameter.device)
    mode = network.training
    network.eval()
    try:
        alone = torch.cat([network(input_ids=ids, use_cache=False).logits for ids in documents], 1).float()
        packed = network(input_ids=torch.cat(documents, 1), position_ids=positions, use_cache=False).logits.float()
    finally:
        network.train(mode)
    difference = (alone - packed).abs().max().item()
    allowed = tolerance if parameter.dtype == torch.float32 else 0.05 * alone.abs().max().item()
    if not difference <= allowed:
        raise ConfigError(
            "packing",
            f"{type(network).__name__} (logits differ by {difference:.2g} between packed and alone)",
            "false for this network: its documents would see each other",
        )
    rank_zero_info(f"Packing check: packed and alone differ by {difference:.1g}")
    return difference
