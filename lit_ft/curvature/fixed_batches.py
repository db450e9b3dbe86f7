"""A fixed set of training batches, read without touching the iterator of the training."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset


def fixed_batches(loader: Any, count: int, seed: int, rank: int = 0, world_size: int = 1) -> list[Any] | None:
    """The same ``count`` batches in every run, divided among ranks; None if rows cannot be read by index.

    Rows are drawn with a separate generator. The caller restores the global random state, which augmentations may use.

    Args:
        loader: The training ``DataLoader``; only its data set, collate function and batch size are used, or the plan of
            batches (``sampler.batches(epoch)``) if its sampler has one.
        count: Batches over all ranks; fewer if there is less data.
        seed: Seed of the choice of rows.
        rank: This rank takes batches ``rank, rank + world_size, ...``.
        world_size: Number of ranks.

    Example:
        >>> loader = DataLoader(torch.arange(6), batch_size=2)
        >>> batches = fixed_batches(loader, count=3, seed=0)
        >>> len(batches), torch.cat(batches).sort().values
        (3, tensor([0, 1, 2, 3, 4, 5]))
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    generator = torch.Generator().manual_seed(seed)
    plan: Callable[[int], list[list[int]]] | None = getattr(loader.sampler, "batches", None)
    if callable(plan):
        planned = plan(0)
        chosen = torch.randperm(len(planned), generator=generator)[:count].tolist()
        return [loader.dataset[(seed, 0, number), planned[number]] for number in chosen[rank::world_size]]
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if size is None:
        return None
    rows = torch.randperm(len(loader.dataset), generator=generator)  # type: ignore[arg-type]
    chunks = rows[: count * size].split(size)[rank::world_size]
    return [loader.collate_fn([loader.dataset[int(row)] for row in chunk]) for chunk in chunks]
