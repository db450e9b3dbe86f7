"""Training a selection of the weights, with the rest exactly as it was."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from typing_extensions import override

from lit_ft.core.callback import WHOLE, FitCallback
from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.lightning import either
from lit_ft.core.optimizers import refuse_empty
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Choices, Selection, count
from lit_ft.sparse.buffers import HeldBuffers
from lit_ft.sparse.file import choices_of, plain_choices
from lit_ft.sparse.hold import Hold, Outside


class GradientMask(FitCallback):
    r"""Trains a selection and holds the rest bit by bit: :math:`\theta \leftarrow \theta - M \odot \Delta\theta`.

    Whole tensors that are not selected are frozen by ``requires_grad`` before the optimizer is made, so that their
    gradients, optimizer states and the time for them are saved. If a tensor is selected in part, its gradient is masked
    when it is accumulated (clipping, SAM and every other callback see the masked one), and its other entries are
    restored after each step, because weight decay and momentum move weights without a gradient. Modules without a
    selected parameter keep their buffers, and their batch norms run in evaluation mode.

    Names are the network's own: of a LightningModule with a child ``network`` (or ``model``), ``encoder.*`` and
    ``network.encoder.*`` mean the same. Parameters that the module itself had frozen stay frozen. A module that builds
    its network in ``configure_model`` builds it in this callback's ``setup`` (so ``configure_model`` must be
    idempotent); one that builds in ``setup`` gets its optimizer made a second time.

    Refuses: an empty selection; partial tensors with sharded strategies; a module that builds in ``setup`` with more
    than one device.

    Memory for partial tensors: one byte an entry, and a copy of the values outside. Cost of a step: about two copies of
    those tensors.

    Source: half fine-tuning, T. Hui et al., 2024, arXiv 2404.18466 (``RandomHalf``, ``redraw_every_n_steps``); frozen
    layers, E. Shi et al., 2023, arXiv 2304.05216 (``Layers``); sparse pre-training, V. Thangarasa et al., "SPDF",
    2023, arXiv 2303.10464 (``outside: zero``); editing one matrix, "Fine-tuning Done Right in Model Editing", 2025
    (``Names``).

    Args:
        selection: The parameters, or entries of them, that are trained.
        outside: ``base`` holds the other weights at the value they have when the selection is drawn; ``zero`` at 0.
        redraw_every_n_steps: Draw a random selection anew after this many optimizer steps. Newly held weights lose
            their optimizer state, so that no old momentum moves them when they are selected again. None never does.

    See also: :class:`~lit_ft.core.selection.Layers` and the other selections of that module.

    Example:
        >>> from lit_ft.core.selection import Names
        >>> from lit_ft.testing import ForeignModule, fit_foreign
        >>> module, start = ForeignModule(seed=0), ForeignModule(seed=0)
        >>> mask = GradientMask(Names("model.4.*"))
        >>> _ = fit_foreign([mask], module=module, max_steps=3)
        >>> [torch.equal(module.model[i].weight, start.model[i].weight) for i in (0, 4)]
        [True, False]
        >>> mask.report()["selected"], mask.report()["total"]
        (39, 147)
    """

    forgets = ("choices", "_draw")

    def __init__(
        self, selection: Selection, outside: Outside = "base", redraw_every_n_steps: PositiveInt | None = None
    ) -> None:
        super().__init__()
        checked(locals())
        self.selection, self.outside, self.redraw_every_n_steps = selection, outside, redraw_every_n_steps
        self._index: ParameterIndex | None = None
        self._flags: dict[nn.Parameter, bool] = {}
        self._hold: Hold | None = None
        self._buffers: HeldBuffers | None = None
        self._report: dict[str, Any] = {}
        self._release: Callable[[], None] = _nothing
        self.choices: Choices = {}
        self._draw = 0

    @override
    def settled(self) -> tuple[str, ...]:
        return ("selection", "outside")

    # before the optimizer is made

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Build the network if it is not there yet, and freeze whole tensors."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        with (
            trainer.strategy.tensor_init_context(),
            trainer.strategy.model_sharded_context(),
            trainer.precision_plugin.module_init_context(),
        ):
            pl_module.configure_model()
        if next(pl_module.parameters(), None) is not None:
            self._choose(trainer.strategy, pl_module, self.choices or None)
        self._release = refuse_empty(pl_module, "GradientMask.selection", type(self.selection).__name__)

    def _choose(self, strategy: Strategy, module: nn.Module, choices: Choices | None = None) -> None:
        self._index = ParameterIndex(module)
        self.choices = self.selection.redrawn(self._draw).select(module) if choices is None else choices
        trained = [
            name for name, p in self._index.parameters.items() if p.requires_grad and self.choices[name] is not False
        ]
        if not trained:
            raise ConfigError("selection", type(self.selection).__name__, "a selection of some trainable parameter")
        partial = [name for name, choice in self.choices.items() if isinstance(choice, Tensor)]
        whole = isinstance(strategy, either(*WHOLE))
        if not whole and (partial or self.redraw_every_n_steps is not None):
            allowed = "one device or ddp, for tensors that are selected in part or redrawn"
            raise ConfigError("trainer.strategy", type(strategy).__name__, allowed)
        if self.redraw_every_n_steps is None:  # else the optimizer must know them all
            self._freeze()

    def _freeze(self) -> None:
        assert self._index is not None
        for name, parameter in self._index.parameters.items():
            if parameter.requires_grad and self.choices[name] is False:
                self._flags[parameter] = True
                parameter.requires_grad_(False)
                parameter.grad = None

    def _unfreeze(self) -> None:
        for parameter, flag in self._flags.items():
            parameter.requires_grad_(flag)
        self._flags = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the choices; called after ``setup`` and before the optimizer is made."""
        self._draw = state_dict["draw"]
        choices = choices_of(state_dict["choices"])
        if self._index is None:
            return
        differ = set(choices) ^ set(self._index.entries)
        if differ:
            raise ConfigError("ckpt_path", f"choices about {min(differ)}", "a checkpoint of this network")
        self._unfreeze()
        self.choices = choices
        if self.redraw_every_n_steps is None:
            self._freeze()

    def state_dict(self) -> dict[str, Any]:
        """The number of the draw, and the choices in a compact form."""
        return {"draw": self._draw, "choices": plain_choices(self.choices)}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose again where the module made its parameters after this callback's ``setup``."""
        known = {} if self._index is None else {id(p) for p in self._index.parameters.values()}
        if {id(p) for p in ParameterIndex(pl_module).parameters.values()} == known:
            return
        if trainer.world_size > 1:
            allowed = "a module that builds its network in __init__ or configure_model, under more than one device"
            raise ConfigError("model", f"{type(pl_module).__name__}, which builds in setup()", allowed)
        self._flags = {}
        self._choose(trainer.strategy, pl_module)
        self._release = refuse_empty(pl_module, "GradientMask.selection", type(self.selection).__name__)
        trainer.strategy.setup_optimizers(trainer)

    # training

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hold the other entries at the values of the base or of the checkpoint."""
        self._start(trainer)
        optimized = {p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
        assert self._index is not None
        selected, total = count(self.choices, self._index.module)
        self._report = {
            "selected": selected,
            "total": total,
            "share": selected / total,
            "frozen_tensors": sum(choice is False for choice in self.choices.values()),
            "partial_tensors": sum(isinstance(choice, Tensor) for choice in self.choices.values()),
            "optimized": sum(p.numel() for p in optimized),
        }

    def _start(self, trainer: pl.Trainer) -> None:
        assert self._index is not None
        if self.redraw_every_n_steps is not None and trainer.world_size == 1:
            self._freeze()  # under DDP the gradient of every parameter is waited for
        held = {
            name: choice
            for name, choice in self.choices.items()
            if self._index[name].parameter.requires_grad or self.outside == "zero"
        }
        self._hold = Hold(self._index.parameters, held, self.outside)
        self._hold.attach(trainer.optimizers)
        self._buffers = HeldBuffers(self._index, self.choices)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw anew if it is due; keep frozen batch norms in evaluation mode."""
        if self.redraw_every_n_steps is not None and trainer.global_step // self.redraw_every_n_steps != self._draw:
            self._redraw(trainer, pl_module)
        if any(parameter.requires_grad for parameter in self._flags):
            allowed = "no callback beside GradientMask that unfreezes what it does not select, such as BaseFinetuning"
            raise ConfigError("trainer.callbacks", "frozen parameters that require a gradient again", allowed)
        if self._buffers is not None:
            self._buffers.freeze()

    def _redraw(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert self.redraw_every_n_steps is not None
        self._stop()
        self._draw = trainer.global_step // self.redraw_every_n_steps
        self._choose(trainer.strategy, module)
        for optimizer in trainer.optimizers:
            for name, parameter in self._index.parameters.items():  # type: ignore[union-attr]
                if self.choices[name] is False:
                    optimizer.state.pop(parameter, None)
        self._start(trainer)
        self._hold.forget_momentum(trainer.optimizers)  # type: ignore[union-attr]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Restore the buffers of frozen modules."""
        if self._buffers is not None:
            self._buffers.restore()

    # after

    def _stop(self) -> None:
        if self._hold is not None:
            self._hold.detach()
        if self._buffers is not None:
            self._buffers.release()
        self._hold = self._buffers = None
        self._unfreeze()

    @override
    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._stop()
        self._release()
        self._index = None

    def report(self) -> dict[str, Any]:
        """Numbers of selected, of all and of optimised parameters, and of draws."""
        return {**self._report, "draws": self._draw + 1}


def _nothing() -> None:
    """Where there is nothing to release."""
