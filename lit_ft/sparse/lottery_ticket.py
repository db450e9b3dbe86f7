"""Sparse fine-tuning of the weights that dense fine-tuning changes most."""

import copy
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from torch import Tensor
from typing_extensions import override

from lit_ft.core.checks import checked
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Choices, either
from lit_ft.core.selection.names import Names
from lit_ft.sparse.file import choices_of, plain_choices
from lit_ft.sparse.graft import copy_selected_
from lit_ft.sparse.hold import Hold
from lit_ft.sparse.scored import TopChange
from lit_ft.sparse.sparse_delta import SparseDelta
from lit_ft.sparse.two_phases import TwoPhases


class LotteryTicket(TwoPhases):
    r"""Lottery-ticket sparse fine-tuning: train all weights, rewind, then train only those that changed most.

    After ``first_steps`` the K entries with the largest :math:`|\theta_1 - \theta_0|` are chosen, all weights go back
    to :math:`\theta_0` bit by bit, and the rest of the run trains the chosen ones and holds the others exactly (see
    :class:`~lit_ft.callbacks.GradientMask`). The result differs from the start in K entries:
    :math:`\phi = \theta_2 - \theta_0`, which ``SparseDelta`` stores and ``SparseDelta.sum`` adds to others of the same
    start (a language and a task).

    Memory: a copy of the weights, and in the second phase a mask and the values it holds.

    Source: A. Ansell et al., "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", 2022, arXiv 2110.07560.
    Deviations: the budget is met exactly at ties; entries go back by copying, not by subtraction; weight decay may be
    on; the learning rate is not restarted; no L1 penalty on the difference.

    Args:
        first_steps: Optimizer steps of the first, dense phase, or a share of all steps in (0, 1).
        density: Share of the entries that the second phase trains, in (0, 1]. Paper: about 0.04 to 0.08.
        scope: ``global`` compares all entries; ``tensor`` gives each tensor the same share.
        dense: Shell globs of parameters that are trained as a whole and do not count into the share (a fresh head).
        delta: Name of a file in the trainer's ``default_root_dir`` (the run folder) for the delta when the fit ends;
            None writes none.
        mode: ``add`` makes deltas that can be summed, ``replace`` those that are exact in every dtype.

    See also: :class:`~lit_ft.callbacks.ComposedDeltas`, which starts from such deltas.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> ticket = LotteryTicket(first_steps=5, density=0.1)
        >>> module, _ = fit_foreign([ticket], max_epochs=1)
        >>> ticket.report()["entries"], ticket.report()["of"]
        (15, 147)
        >>> ticket.difference(module).numel
        15
    """

    forgets = ("choices",)

    def __init__(
        self,
        first_steps: int | float = 0.5,
        density: float = 0.05,
        scope: Literal["global", "tensor"] = "global",
        dense: list[str] | None = None,
        delta: str | None = None,
        mode: Literal["add", "replace"] = "add",
    ) -> None:
        super().__init__(first_steps)
        checked(locals())
        TopChange(density, scope=scope)  # says what is wrong with them
        self.density, self.scope, self.dense, self.delta, self.mode = density, scope, dense, delta, mode
        self._hold: Hold | None = None
        self.choices: Choices = {}

    @override
    def settled(self) -> tuple[str, ...]:
        return ("first_steps", "density", "scope", "dense") if self.second else ()

    def turn(self, trainer: pl.Trainer, index: ParameterIndex) -> None:
        """Choose the entries, rewind the weights, and hold the other entries."""
        whole: Choices = Names(self.dense).choose(index, None) if self.dense else {}
        patterns = [name for name in self.base if name not in whole]
        base = {name: self.base.get(name, p.detach()) for name, p in index.parameters.items()}
        change = TopChange(self.density, scope=self.scope)
        change.base, change.patterns = base, patterns  # type: ignore[assignment]
        chosen = change.choose(index, None) if patterns else {}
        self.choices = {name: either(chosen.get(name, False), whole.get(name, False)) for name in self.base}
        self.rewind(index)
        self.resume(trainer, index)

    def resume(self, trainer: pl.Trainer, index: ParameterIndex) -> None:
        """Hold the other entries."""
        self._hold = Hold(index.parameters, self.choices, "base")
        self._hold.attach(trainer.optimizers)

    def memory(self) -> dict[str, Any]:
        """The choices."""
        return {"choices": plain_choices(self.choices)}

    @override
    def remember(self, memory: dict[str, Any]) -> None:
        self.choices = choices_of(memory.get("choices", {}))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the delta."""
        super().on_train_end(trainer, pl_module)
        if self.delta is not None and self.second and trainer.is_global_zero:
            self.difference(pl_module).save(Path(trainer.default_root_dir) / self.delta)

    def difference(self, module: pl.LightningModule) -> SparseDelta:
        """The difference to the start of the run."""
        index = ParameterIndex(module)
        start = copy.deepcopy(index.network)
        copy_selected_(ParameterIndex(start).parameters, self.base, dict.fromkeys(self.base, True))
        names = ParameterIndex(start).entries
        choices = {name: choice for name, choice in self.choices.items() if name in names}
        return SparseDelta.between(start, index.network, choices, mode=self.mode)

    @override
    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._hold is not None:
            self._hold.detach()
        self._hold = None

    def report(self) -> dict[str, Any]:
        """Number of entries trained in the second phase, and the parameters with most of them."""
        counts = {
            name: int(choice.sum()) if isinstance(choice, Tensor) else choice * self.base[name].numel()
            for name, choice in self.choices.items()
        }
        total = sum(value.numel() for value in self.base.values())
        return {
            "entries": sum(counts.values()),
            "of": total,
            "largest": dict(sorted(counts.items(), key=_by_count)[:10]),
        }


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
