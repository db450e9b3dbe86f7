"""Start from a network and the sparse deltas of several fine-tunings of it."""

from itertools import combinations
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.errors import existing
from lit_ft.core.lifecycle import from_its_start
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import overlap
from lit_ft.sparse.sparse_delta import SparseDelta


class ComposedDeltas(FitCallback):
    r"""Begins at :math:`\theta_0 + \sum_t \phi_t`, the network and the sparse deltas of several tasks or languages.

    The deltas are added before the first step, after the weights of ``--from`` were loaded, and before a validation or
    test that is the whole run; a run that resumes or continues has them in its weights already. Put it before callbacks
    that read the weights when training starts (``Forgetting``). Each delta has fingerprints of the weights that it
    belongs to and refuses others: a fresh head must be the same one, made with the same seed.

    Works in any module; costs nothing after the start. Without files it does nothing.

    Source: A. Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", 2022, arXiv 2110.07560.

    Args:
        files: Files of ``LotteryTicket`` or ``SparseDelta.save``; several must have the mode ``add``.

    See also: :class:`~lit_ft.callbacks.LotteryTicket`, which makes such files.

    Example:
        >>> from lit_ft.testing import ForeignModule, fit_foreign
        >>> base, tuned = ForeignModule(), ForeignModule()
        >>> tuned.model[4].bias.data += 1
        >>> _ = SparseDelta.between(base, tuned, mode="add").save("task.safetensors")
        >>> start = ComposedDeltas(["task.safetensors"])
        >>> _ = fit_foreign([start], module=ForeignModule(), max_steps=1)
        >>> start.report()
        {'entries': [3], 'overlap': []}
    """

    def __init__(self, files: list[str | Path]) -> None:
        super().__init__()
        self.files = [str(existing("files", file)) for file in files]
        self._report: dict[str, Any] = {}
        self._before: dict[nn.Parameter, Tensor] = {}

    def _add(self, trainer: pl.Trainer, module: pl.LightningModule, keep: bool = False) -> None:
        if not self.files or not from_its_start(trainer):
            return
        deltas = [SparseDelta.load(file, module) for file in self.files]
        if keep:
            changed, index = {name for delta in deltas for name in delta.choices}, ParameterIndex(module)
            self._before = {p: p.detach().clone() for p in (index[name].parameter for name in sorted(changed))}
        (deltas[0] if len(deltas) == 1 else SparseDelta.sum(deltas)).apply_(module)
        shared = [overlap(a.choices, b.choices, module) for a, b in combinations(deltas, 2)]
        self._report = {"entries": [delta.numel for delta in deltas], "overlap": shared}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the deltas at the start of a fit."""
        self._add(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the deltas if validation is the whole run."""
        if trainer.state.fn == "validate":
            self._add(trainer, pl_module, keep=True)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the deltas before a test."""
        self._add(trainer, pl_module, keep=True)

    @override
    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """An evaluation leaves the weights as they were."""
        with torch.no_grad():
            for parameter, before in self._before.items():
                parameter.copy_(before)
        self._before = {}

    def report(self) -> dict[str, Any]:
        """Number of entries of each delta, and the Jaccard index of each pair."""
        return self._report
