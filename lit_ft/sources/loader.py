"""A loader that can be stopped between any two batches and continued as if nothing had happened.

What a batch holds, and any random draw made while it is put together, is a function of ``(seed, epoch, number of the
batch)``: not of the number of workers, not of the global random state, which is never drawn from.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from lit_ft.core.errors import ConfigError
from lit_ft.sources.batching import Plan, length_buckets, shuffled_batches


class PlannedSampler(DistributedSampler):
    """Yields this process's batches of the current epoch, each as ``(key, row numbers)``.

    It is a ``DistributedSampler``, so that Lightning does not replace it under DDP and sets its epoch. Every process
    gets the same number of batches, because unequal numbers hang in the collectives of DDP: for training the first
    batches of the epoch are repeated at the end, for evaluation the largest batches are cut in two, which repeats no
    row.

    Args:
        batches: The plan: ``batches(epoch)`` lists all batches of an epoch over all processes, the same number in each.
        seed: Part of the key from which randomness in a batch is drawn.
        training: Whether batches may be repeated to give every process equally many.
        num_replicas: Number of processes; None asks ``torch.distributed`` at each use, so that a loader that is built
            before the process group exists is divided among the processes as well.
        rank: Number of this process; None asks ``torch.distributed``.

    See also: :func:`make_loader`.

    Example:
        >>> plan = shuffled_batches(5, batch_size=2, shuffle=False)
        >>> [list(PlannedSampler(plan, num_replicas=2, rank=rank)) for rank in range(2)]
        [[((0, 0, 0), [0, 1]), ((0, 0, 2), [4])], [((0, 0, 1), [2, 3]), ((0, 0, 3), [0, 1])]]
    """

    def __init__(
        self,
        batches: Plan,
        seed: int = 0,
        training: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        plan = batches(0)
        super().__init__(plan, num_replicas=1, rank=0, shuffle=False, seed=seed)  # type: ignore[arg-type]
        self.batches, self.training, self.first = batches, training, 0
        self._place = num_replicas, rank
        self._count = len(plan)

    def place(self) -> tuple[int, int]:
        """Number of processes, and which one this is."""
        world, rank = self._place
        running = distributed.is_available() and distributed.is_initialized()
        return (
            world if world is not None else distributed.get_world_size() if running else 1,
            rank if rank is not None else distributed.get_rank() if running else 0,
        )

    def __len__(self) -> int:
        """Batches of this process in an epoch, the same in every process."""
        return -(-self._count // self.place()[0])

    def __iter__(self) -> Iterator[tuple[tuple[int, int, int], list[int]]]:
        """The batches from number ``self.first`` on; it and the epoch are read when the first batch is requested."""
        world, rank = self.place()
        plan = self.batches(self.epoch)
        if len(plan) != self._count:
            raise ValueError(f"epoch {self.epoch} has {len(plan)} batches, epoch 0 has {self._count}")
        plan = self._whole(plan, world)
        for number in range(rank + self.first * world, len(plan), world):
            yield (self.seed, self.epoch, number), plan[number]

    def numbers(self, position: int) -> list[int]:
        """The numbers of the rows of a batch of this process, by its position in the epoch."""
        world, rank = self.place()
        return self._whole(self.batches(self.epoch), world)[rank + position * world]

    def of_one_epoch(self) -> PlannedSampler:
        """The batches of the first epoch, in every epoch."""
        return PlannedSampler(partial(_of_epoch_0, self.batches), self.seed, self.training, *self._place)

    def _whole(self, plan: list[list[int]], world: int) -> list[list[int]]:
        """The plan with a number of batches that is a multiple of the number of processes."""
        missing = -len(plan) % world if plan else 0
        if self.training:
            return plan + [plan[i % len(plan)] for i in range(missing)]
        plan = list(plan)
        for _ in range(missing):
            largest = max(range(len(plan)), key=lambda i: len(plan[i]))
            rows = plan[largest]
            if len(rows) < 2:
                allowed = f"at least one for each of {world} processes"
                raise ConfigError("rows for evaluation", len(plan), allowed)
            plan[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
        return plan


def _of_epoch_0(batches: Plan, epoch: int) -> list[list[int]]:
    return batches(0)


class ResumableLoader(DataLoader):
    """A ``DataLoader`` over a :class:`PlannedSampler` that counts the batches it has yielded.

    Lightning saves and loads ``state_dict()`` with the trainer's checkpoint. Its length stays that of a whole epoch. A
    checkpoint at the end of an epoch continues with the start of the next one. Build it with :func:`make_loader`.

    Args:
        dataset: Collates the batches that a sampler yields.
        planned: The sampler.
        sampler: That of Lightning for ``overfit_batches``, in its place: every epoch is then as the first.
        options: Further arguments of ``DataLoader``.

    Example:
        >>> loader = make_loader(list("abcdef"), shuffled_batches(6, batch_size=2), "".join)
        >>> batches = iter(loader)
        >>> first, state = next(batches), loader.state_dict()
        >>> state
        {'epoch': 0, 'position': 1, 'batches': 3}
        >>> resumed = make_loader(list("abcdef"), shuffled_batches(6, batch_size=2), "".join)
        >>> resumed.load_state_dict(state)
        >>> list(resumed) == list(batches)
        True
    """

    sampler: PlannedSampler  # type: ignore[assignment]
    _reached: dict[str, int] | None = None
    _pending: dict[str, int] | None = None

    def __init__(
        self, dataset: Dataset, planned: PlannedSampler, sampler: Sampler | None = None, **options: Any
    ) -> None:
        own = planned.of_one_epoch() if sampler is not None and sampler is not planned else planned
        super().__init__(dataset, sampler=own, **options)
        self.planned = planned

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches of the sampler's epoch, continued where a loaded state left off.

        Nothing happens before the first batch is requested: Lightning requests the iterator before it sets the epoch.
        """
        pending, self._pending = self._pending, None
        first = pending["position"] if pending and pending["epoch"] == self.sampler.epoch else 0
        self.sampler.first = first
        for position, batch in enumerate(super().__iter__(), start=first + 1):
            self._reached = self._state(self.sampler.epoch, position)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position in this epoch, in batches yielded (not in batches that workers have prepared)."""
        if self._pending is not None:
            return dict(self._pending)
        if self._reached is not None and self._reached["epoch"] == self.sampler.epoch:
            return dict(self._reached)
        return self._state(self.sampler.epoch, 0)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from ``state`` when the first batch of the next iterator is requested."""
        ended = state["position"] >= state["batches"]
        if state["batches"] != len(self):
            warnings.warn(
                f"the checkpoint was made in an epoch of {state['batches']} batches, this one has {len(self)}: data,"
                " batch size or number of processes differ, so the order of the rows does not continue",
                stacklevel=2,
            )
        epoch, position = (state["epoch"] + 1, 0) if ended else (state["epoch"], state["position"])
        self.sampler.set_epoch(epoch)
        self._pending = self._state(epoch, position)

    def _state(self, epoch: int, position: int) -> dict[str, int]:
        return {"epoch": epoch, "position": position, "batches": len(self)}


class _Batches(Dataset):
    """Collates whole batches, each with random draws seeded by its key."""

    def __init__(self, rows: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.rows, self.collate = rows, collate

    def __getitem__(self, planned: Any) -> Any:
        key, numbers = planned
        rows = self.rows.of_epoch(key[1]) if hasattr(self.rows, "of_epoch") else self.rows
        with _randomness_of(key):
            many = getattr(rows, "__getitems__", None)
            return self.collate(many(numbers) if many else [rows[i] for i in numbers])

    def __len__(self) -> int:
        return len(self.rows)


@contextmanager
def _randomness_of(key: tuple[int, int, int]) -> Iterator[None]:
    """Seed torch, numpy and ``random`` on the CPU from ``key``; afterwards they are as before."""
    kept = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    words = np.random.SeedSequence(key).generate_state(3)
    torch.default_generator.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))
    random.seed(int(words[2]))
    try:
        yield
    finally:
        torch.default_generator.set_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def _as_it_is(batch: Any) -> Any:
    return batch


def make_loader(
    dataset: Any,
    batches: Plan,
    collate: Callable[[list[Any]], Any],
    seed: int = 0,
    num_workers: int = 0,
    training: bool = True,
) -> ResumableLoader:
    """A loader that resumes exactly, under Lightning and in a plain loop.

    Args:
        dataset: Rows by number (a list, a ``datasets.Dataset``, a torch ``Dataset``); where they differ from epoch to
            epoch, its ``of_epoch(number)`` gives those of one.
        batches: The plan of an epoch, from :mod:`lit_ft.sources.batching`.
        collate: Makes a batch from a list of rows. It may draw random numbers (torch on the CPU, numpy, ``random``):
            they are a function of seed, epoch and number of the batch.
        seed: Seed of those draws.
        num_workers: Processes that prepare batches; batches are the same with any number.
        training: Under DDP, repeat batches (True) or cut the largest in two (False) to give all processes equally many.

    Example:
        >>> plan = shuffled_batches(4, batch_size=2, shuffle=False)
        >>> list(make_loader(["a", "b", "c", "d"], plan, collate=tuple))
        [('a', 'b'), ('c', 'd')]
        >>> noisy = make_loader(["a", "b", "c", "d"], plan, collate=lambda rows: torch.randn(()).item())
        >>> list(noisy) == list(noisy)  # random draws are a function of seed, epoch and number of the batch
        True
    """
    return ResumableLoader(
        _Batches(dataset, collate),
        PlannedSampler(batches, seed=seed, training=training),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed),  # without it, every new iterator draws from the global one
        pin_memory=torch.cuda.is_available(),
    )


@dataclass
class Batching:
    """How many rows or tokens a batch has, in which order, and how many processes prepare batches.

    Args:
        batch_size: Rows in a batch; None puts all training rows into one batch.
        tokens_per_batch: Budget of a batch in tokens, padding included, instead of ``batch_size``.
        seed: Seed of the order.
        num_workers: Processes that prepare batches; batches do not depend on it.

    Example:
        >>> batching = Batching(batch_size=None, tokens_per_batch=64)
        >>> lengths = [3, 60, 5, 58, 4, 30]
        >>> [[lengths[row] for row in batch] for batch in batching.by_length(lengths)(0)]
        [[5, 3, 4], [58], [30], [60]]
        >>> [[lengths[row] for row in batch] for batch in batching.in_order(6, lengths)(0)]
        [[3], [60], [5], [58], [4, 30]]
    """

    batch_size: int | None
    tokens_per_batch: int | None = None
    seed: int = 0
    num_workers: int = 0

    def shuffled(self, n: int, drop_last: bool = False) -> Plan:
        """Batches of ``n`` rows, freshly shuffled in every epoch."""
        return shuffled_batches(n, self.batch_size, self.seed, drop_last=drop_last)

    def in_order(self, n: int, lengths: Sequence[int] = (), texts: int = 1) -> Plan:
        """Batches of ``n`` rows in their order, within the budget of tokens if there is one.

        Args:
            n: Number of rows.
            lengths: Tokens of each row, for the budget.
            texts: Texts of about this length that a row puts into the batch.
        """
        if self.tokens_per_batch is None:
            return shuffled_batches(n, self.batch_size, shuffle=False)
        batches: list[list[int]] = []
        longest = 0
        for row, length in enumerate(lengths):
            longest = max(longest, length)
            if not batches or (len(batches[-1]) + 1) * longest * texts > self.tokens_per_batch:
                batches.append([])
                longest = length
            batches[-1].append(row)
        return lambda epoch: batches

    def by_length(self, lengths: Sequence[int], texts: int = 1) -> Plan:
        """Batches of rows of similar length, within the budget of tokens if there is one.

        Args:
            lengths: Tokens of each row.
            texts: Texts of about this length that a row puts into the batch.
        """
        if self.tokens_per_batch is None:
            return length_buckets(lengths, batch_size=self.batch_size, seed=self.seed)
        return length_buckets(lengths, tokens_per_batch=max(1, self.tokens_per_batch // texts), seed=self.seed)

    def loader(
        self, rows: Any, plan: Plan, collate: Callable[[list[Any]], Any], training: bool = True
    ) -> ResumableLoader:
        """A loader of these rows, see :func:`make_loader`."""
        return make_loader(rows, plan, collate, self.seed, self.num_workers, training)
