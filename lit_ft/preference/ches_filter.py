"""Leave out pairs of answers on which training would lower the likelihood of the preferred answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lit_ft.core.checks import OpenUnitInterval, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.second_pass import without_trace


class ChesFilter:
    """Keeps a share of the training pairs by their CHES score under the network before the first step.

    The score (:func:`lit_ft.preference.ches.ches`) is high if the hidden states of both answers are similar; such pairs
    lower the likelihood of the preferred answer. Scores are computed once, with the weights that training starts from;
    the checkpoint holds the numbers of the kept pairs. Needs a module with ``ches(batch)``, such as ``DPO``. Cost: one
    forward over the training pairs.

    Args:
        keep: Share of the pairs that is kept, above 0 and below 1. Paper: 0.05 to 0.95.
        side: Keep the ``lowest`` scores; ``highest`` and ``random`` are for comparison.
        length_normalize: Whether the score uses means over tokens instead of sums. Paper: yes.

    Source: N. Razin et al., Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization, 2024,
    arXiv:2410.08847 (C1).

    See also: :func:`kept`, :class:`~lit_ft.data.Preferences`.

    Example:
        >>> from lit_ft.preference.edited_pairs import EditedPairs
        >>> data = EditedPairs(ches_filter=ChesFilter(keep=0.25))  # trains on a quarter of the pairs
        >>> ChesFilter(keep=1.0)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: ChesFilter.keep: given 1.0; allowed: a finite number, above 0 and below 1
    """

    def __init__(
        self,
        keep: OpenUnitInterval = 0.5,
        side: Literal["lowest", "highest", "random"] = "lowest",
        length_normalize: bool = True,
    ) -> None:
        checked(locals())
        self.keep, self.side, self.length_normalize = keep, side, length_normalize

    def kept_rows(self, trainer: Any, batches: Iterable[Mapping[str, Tensor]], seed: int) -> list[int]:
        """Numbers of the kept pairs, in order.

        Args:
            trainer: Trainer with the module that scores.
            batches: Batches of all training pairs, each pair once.
            seed: Seed of the random choice.
        """
        module = trainer.lightning_module
        if not hasattr(module, "ches"):
            raise ConfigError("ches_filter", type(module).__name__, "a method with CHES scores, such as DPO")
        scores: dict[int, float] = {}
        with without_trace(trainer, module), torch.no_grad(), trainer.precision_plugin.forward_context():
            module.eval()
            for batch in batches:
                found = module.ches(trainer.strategy.batch_to_device(batch), self.length_normalize)
                scores |= dict(zip(batch["rows"][: len(found)].tolist(), found.tolist(), strict=True))
        if trainer.world_size > 1:  # each process has scored its share
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, scores)
            scores = {row: score for part in parts for row, score in part.items()}
        return kept(scores, self.keep, self.side, seed)


def kept(scores: Mapping[int, float], keep: float, side: str, seed: int = 0) -> list[int]:
    """Rows with the lowest or highest scores, or as many at random; at least one, in order.

    Example:
        >>> scores = {0: 0.5, 1: -1.0, 2: 2.0, 3: 0.0}
        >>> kept(scores, keep=0.5, side="lowest"), kept(scores, keep=0.5, side="highest")
        ([1, 3], [0, 2])
    """
    rows = sorted(scores)
    number = max(1, round(keep * len(rows)))
    if side == "random":
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
        return sorted(rows[i] for i in order[:number])
    return sorted(sorted(rows, key=scores.__getitem__, reverse=side == "highest")[:number])
