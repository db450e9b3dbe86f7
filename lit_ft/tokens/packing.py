"""Several documents in one row that do not see each other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn

from lit_ft.core.adapters import adapted, has_prompt, perturbed
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.evaluating import evaluating
from lit_ft.sources.batching import Plan
from lit_ft.tokens.bins import best_fit, pack_positions


def packed_batches(lengths: Sequence[int], capacity: int, rows_per_batch: int, seed: int = 0) -> Plan:
    """Batches of packed rows: a batch lists documents, which the collator packs into the same rows again.

    Which documents of one length share a row, and the order of the rows, are drawn anew in every epoch; the number of
    batches stays the same.

    Args:
        lengths: Tokens of each document.
        capacity: Tokens of a row.
        rows_per_batch: Rows of a batch.
        seed: The order is a function of ``(seed, epoch)`` alone.

    See also: :func:`~lit_ft.tokens.bins.best_fit`.

    Example:
        >>> plan = packed_batches([3, 5, 2, 4], capacity=7, rows_per_batch=1)
        >>> sorted(sorted(batch) for batch in plan(0))
        [[0, 3], [1, 2]]
    """

    def plan(epoch: int) -> list[list[int]]:
        random = np.random.default_rng((seed, epoch))
        rows = best_fit(lengths, capacity, random.permutation(len(lengths)).tolist())
        order = random.permutation(len(rows)).tolist()
        batches = [order[start : start + rows_per_batch] for start in range(0, len(rows), rows_per_batch)]
        return [[document for row in batch for document in rows[row]] for batch in batches]

    return plan


@torch.no_grad()
def check_packing(network: nn.Module, vocabulary: int, tolerance: float = 1e-3) -> float:
    """Refuse a network that lets packed documents see each other: compares two documents packed and alone.

    Documents are separated by positions that restart, without a mask and without a cache. Networks that ignore
    positions (recurrent ones, some attention kernels) leak.

    Args:
        network: A causal language model.
        vocabulary: Size of the vocabulary.
        tolerance: Largest difference of logits that counts as rounding, for float32.

    Returns:
        The largest difference.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> network = causal_lm(Network(config={"model_type": "gpt2", "n_embd": 4, "n_head": 2, "n_layer": 1}))
        >>> check_packing(network, vocabulary=100) < 1e-5
        True
    """
    if has_prompt(network):
        raise ConfigError("packing", True, "false with an adapter that puts tokens in front of each row (network.peft)")
    parameter = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(0, vocabulary, (1, n), generator=generator).to(parameter.device) for n in (5, 7)]
    positions = pack_positions([5, 7])[None].to(parameter.device)
    difference = 0.0
    for trained in (False, True) if adapted(network) else (False,):  # an adapter that has not learned yet hides leaks
        with evaluating(network), perturbed(network) if trained else nullcontext():
            alone = torch.cat([network(input_ids=ids, use_cache=False).logits for ids in documents], 1).float()
            packed = network(input_ids=torch.cat(documents, 1), position_ids=positions, use_cache=False).logits.float()
        found, size = (alone - packed).abs().max().item(), alone.abs().max().item()
        exact = parameter.dtype == torch.float32
        if not found <= (tolerance * (max(size, 1.0) if trained else 1.0) if exact else 0.05 * size):
            raise ConfigError(
                "packing",
                f"{type(network).__name__} (logits differ by {found:.2g} between packed and alone)",
                "false for this network: its documents would see each other",
            )
        difference = max(difference, found)
    rank_zero_info(f"Packing check: packed and alone differ by {difference:.1g}")
    return difference
