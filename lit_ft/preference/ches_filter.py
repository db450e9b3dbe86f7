"""Which pairs of answers are left out because training on them would lower the answer that it should raise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lit_ft.core.checks import OpenUnitInterval, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.second_pass import silent


class ChesFilter:
    """Keeps a share of the training pairs by their CHES score under the network before the first step.

    The score (:func:`lit_ft.preference.ches.ches`) is high where both answers look alike from inside the network; such
    pairs lower the preferred answer. Scores are taken with the weights that training starts from, once; which pairs
    were kept is in the checkpoint. Needs a module with ``ches(batch)``, such as ``DPO``. Cost: one forward over the
    training pairs.

    Args:
        keep: Share of the pairs that is kept, above 0 and below 1. Paper: 0.05 to 0.95, down to where it helps.
        side: Keep the ``lowest`` scores; ``highest`` and ``random`` are for comparison.
        length_normalize: Whether sums over tokens are means. Paper: yes.

    Source: N. Razin et al., Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization, 2024,
    arXiv:2410.08847 (C1).
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
        """Numbers of the pairs that stay, in order.

        Args:
            trainer: With the module that scores.
            batches: Of all training pairs, each pair once.
            seed: Of the random choice.
        """
        module = trainer.lightning_module
        if not hasattr(module, "ches"):
            raise ConfigError("ches_filter", type(module).__name__, "a method with CHES scores, such as DPO")
        scores: dict[int, float] = {}
        with silent(trainer, module), torch.no_grad(), trainer.precision_plugin.forward_context():
            module.eval()
            for batch in batches:
                found = module.ches(trainer.strategy.batch_to_device(batch), self.length_normalize)
                scores |= dict(zip(batch["rows"][: len(found)].tolist(), found.tolist(), strict=True))
        if trainer.world_size > 1:  # each has scored its share
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, scores)
            scores = {row: score for part in parts for row, score in part.items()}
        return kept(scores, self.keep, self.side, seed)


def kept(scores: Mapping[int, float], keep: float, side: str, seed: int = 0) -> list[int]:
    """Rows with the lowest or highest scores, or as many at random; at least one, in order."""
    rows = sorted(scores)
    number = max(1, round(keep * len(rows)))
    if side == "random":
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
        return sorted(rows[i] for i in order[:number])
    return sorted(sorted(rows, key=scores.__getitem__, reverse=side == "highest")[:number])
