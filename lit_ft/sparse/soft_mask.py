"""Training some weights less than others."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import checked
from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.lightning import either
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.weights import tensors_in
from lit_ft.sparse.unit_importance import UnitImportance


class SoftMask(FitCallback):
    r"""Scales how far weights move: :math:`\theta \leftarrow \theta_{old} + (1 - I)(\theta - \theta_{old})`.

    A constant factor on the gradient has no effect in Adam, which divides by the gradient's size; so the update is
    scaled. With ``apply_to: gradient`` the gradient is scaled, as in the authors' code; with plain SGD this is
    equivalent, and every other optimizer is refused.

    Memory: with ``update`` one copy of the weights that have a scale. Cost: two passes over them a step.

    Args:
        importance: A ``.safetensors`` file with a tensor in [0, 1] for each parameter that is held back, by its name; 0
            trains as usual, 1 does not move. A tensor may have fewer dimensions (one number a row: shape (rows, 1)). Or
            ``UnitImportance``, which measures it when training starts. In Python also a Path or a mapping.
        apply_to: ``update`` or ``gradient``.

    Source: CoFiTune, H. Zhang et al., "Balancing Speciality and Versatility", 2024, arXiv 2404.10306. Deviation: the
    update is scaled, where the authors scale the gradient under AdamW.

    See also: :class:`~lit_ft.sparse.unit_importance.UnitImportance`; :class:`~lit_ft.callbacks.GradientMask`, which
    holds weights exactly.

    Example:
        >>> from lit_ft.testing import ForeignModule, fit_foreign
        >>> module, start = ForeignModule(seed=0), ForeignModule(seed=0)
        >>> mask = SoftMask({"model.4.bias": torch.tensor([1.0, 0.5, 0.0])})
        >>> _ = fit_foreign([mask], module=module, max_steps=1)
        >>> (module.model[4].bias - start.model[4].bias).abs().detach().round(decimals=3)  # AdamW with lr = 0.01
        tensor([0.0000, 0.0050, 0.0100])
    """

    remembers = ("_measured",)

    def __init__(
        self,
        importance: str | UnitImportance | dict[str, Tensor],
        apply_to: Literal["update", "gradient"] = "update",
    ) -> None:
        super().__init__()
        checked(locals())
        self.importance, self.apply_to = importance, apply_to
        self._scales: dict[nn.Parameter, Tensor] = {}
        self._before: dict[nn.Parameter, Tensor] = {}
        self._handles: list[Any] = []
        self._measured: dict[str, Tensor] = {}

    @override
    def settled(self) -> tuple[str, ...]:
        return ("importance",) if self._measured and isinstance(self.importance, UnitImportance) else ()

    def _read(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Tensor]:
        if isinstance(self.importance, UnitImportance):
            if not self._measured:  # a resumed run goes on with what was measured at its start
                if isinstance(self.importance.data, either(pl.LightningDataModule)):
                    self.importance.data.trainer = trainer
                self._measured = self.importance.measure(module)
            return self._measured
        if not isinstance(self.importance, (str, Path)):
            return self.importance
        return tensors_in("importance", existing("importance", self.importance))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Match the importance with the parameters, and refuse optimizers that cancel a factor on the gradient."""
        index = ParameterIndex(pl_module)
        self._scales = {}
        for name, importance in self._read(trainer, pl_module).items():
            parameter = index[index.match(name)[0]].parameter
            if not ((importance >= 0) & (importance <= 1)).all():
                raise ConfigError("importance", f"{name} outside of [0, 1]", "numbers in [0, 1]")
            try:
                scale = (1 - importance.float()).expand(parameter.shape)
            except RuntimeError:
                shape = tuple(importance.shape)
                raise ConfigError("importance", f"{name} of shape {shape}", f"{tuple(parameter.shape)}") from None
            self._scales[parameter] = scale.to(parameter)
        for optimizer in trainer.optimizers:
            plain = type(optimizer) is SGD and not any(
                g["momentum"] or g["weight_decay"] for g in optimizer.param_groups
            )
            if self.apply_to == "gradient" and not plain:
                allowed = "update (Adam and others divide a factor on the gradient out again), or SGD without momentum"
                raise ConfigError("apply_to", f"gradient with {type(optimizer).__name__}", f"{allowed} and decay")
        if self.apply_to == "update":
            self._handles = [optimizer.register_step_post_hook(self._hold_back) for optimizer in trainer.optimizers]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the weights before the step, or scale the gradient of the window."""
        moving = [parameter for parameter in self._scales if parameter.grad is not None]
        if self.apply_to == "update":
            self._before = {parameter: parameter.detach().clone() for parameter in moving}
            return
        for parameter in moving:
            parameter.grad.mul_(self._scales[parameter])  # type: ignore[union-attr]

    @torch.no_grad()
    def _hold_back(self, *_: object) -> None:
        for parameter, before in self._before.items():
            scale = self._scales[parameter]
            parameter.copy_(torch.where(scale == 1, parameter, torch.lerp(before, parameter, scale)))
        self._before = {}

    @override
    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._scales, self._before = [], {}, {}
