"""Sharpness-aware minimisation of any loss."""

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import NonNegativeFloat, PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import begins_anew
from lit_ft.core.lightning import either
from lit_ft.core.passes.second_pass import Window, without_trace
from lit_ft.core.passes.window import window_ends
from lit_ft.flatness.perturbation import perturbation, perturbed, total_norm
from lit_ft.flatness.variants import SAMVariant

Gradients = list[Tensor]


class SAM(FitCallback):
    r"""Steps with the gradient at the worst point nearby: :math:`s = \nabla L(w + e)`, :math:`e = \rho\, g / \|g\|`.

    g is the gradient of the whole accumulation window, with one norm over all parameters that are optimised; the
    optimizer steps from w. Clipping acts on s. The second pass repeats the dropout masks of the first; batch-norm
    statistics, metrics and logged values are those of the first. Weight decay stays in the optimizer (in the authors'
    code it is part of both losses). With adapters, the radius refers to the adapter's parameters alone.

    Requires: automatic optimisation with one optimizer (``sam_step`` serves manual optimisation); a ``training_step``
    that does not write into the batch's tensors, nor moves generators or files on. All else that it writes (momentum
    networks, counters, hidden states, schedulers) is for the second pass as it was before the first, and is afterwards
    as the first left it. Callbacks that edit gradients in ``on_before_optimizer_step`` must
    come later in the list; masks belong in ``register_post_accumulate_grad_hook``, where they act in both passes.
    The module's own ``on_before_backward`` and ``on_after_backward`` are called for both passes; those of callbacks
    only for the first, so that gradients edited there are replaced.

    Refuses: sharded strategies, LBFGS, fused optimizers under an fp16 scaler, sparse gradients, ``dataloader_iter``.

    Cost: one more forward and backward pass on the steps it acts on, two with ``group_size``. Memory: one copy of the
    trainable weights, and the batches of a window; one of the gradient too with ``alpha`` below 1 or a ``variant``.

    Logs ``sam/gradient_norm`` (of g) and ``sam/perturbed_loss`` (at w + e; of this rank): the latest values, whenever a
    logger writes. Where s is not finite, the step is made with g, and the first time a warning is given.

    Source: P. Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2021, arXiv
    2010.01412; J. Kwon et al., "ASAM", 2021, arXiv 2102.11600 (here :math:`T = |w| + 0.01` for biases too, where the
    authors take 1); Y. Zhao et al., "Penalizing Gradient Norm", 2022, arXiv 2202.03599 (``alpha``).

    Args:
        rho: Radius, at least 0. SAM: 0.01 to 0.5 (paper: 0.05). ASAM: 0.5 to 2. 0 trains as without the callback.
        adaptive: ASAM: radius relative to the size of each weight.
        sync: Under DDP, climb along the gradient of all ranks; False climbs along each rank's own (m-SAM).
        every_n_steps: Act on every n-th optimizer step; the others are plain.
        alpha: Step with :math:`(1-\alpha) g + \alpha s`. 1 is SAM, smaller is a penalty :math:`\lambda\|g\|` with
            :math:`\alpha = \lambda / \rho`, and :math:`\gamma/(1-\gamma)` is WSAM with its weight :math:`\gamma`.
        group_size: m-SAM inside a rank: this many micro-batches of the window climb together; None takes the window.
        rho_follows_lr: Scale the radius with the learning rate (of the group with the highest): ``rho`` at its peak
            (GSAM's schedule).
        variant: ``GSAM``, ``LookSAM`` or ``FriendlySAM``.

    See also: :func:`~lit_ft.callbacks.sam_step`, for manual optimisation.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> _, trainer = fit_foreign([SAM(rho=0.05)], max_steps=1)
        >>> trainer.callback_metrics["sam/perturbed_loss"] > trainer.callback_metrics["loss"]
        tensor(True)
    """

    needs = ("automatic optimization", "one device or ddp")
    by_hand = "call sam_step in your training_step"
    remembers = ("_logged",)
    forgets = ("_warned",)

    def __init__(
        self,
        rho: NonNegativeFloat = 0.05,
        adaptive: bool = False,
        sync: bool = True,
        every_n_steps: PositiveInt = 1,
        alpha: NonNegativeFloat = 1.0,
        group_size: PositiveInt | None = None,
        rho_follows_lr: bool = False,
        variant: SAMVariant | None = None,
    ) -> None:
        super().__init__()
        checked(locals())
        if variant is not None and (group_size is not None or not sync):
            raise ConfigError("variant", type(variant).__name__, "None with sync=False or a group_size")
        self.rho, self.adaptive, self.sync, self.every_n_steps = rho, adaptive, sync, every_n_steps
        self.alpha, self.group_size, self.rho_follows_lr = alpha, group_size, rho_follows_lr
        self.variant = variant or SAMVariant()
        self._new = copy.deepcopy(self.variant.state_dict())
        self._align = variant is not None
        self._window = Window()
        self._unsynced = ExitStack()
        self._logged: dict[str, Tensor] = {}
        self._warned = False

    # when

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a ``training_step`` whose batch cannot be run twice; reset the variant for a new fit."""
        super().setup(trainer, pl_module, stage)
        if begins_anew(trainer, stage):
            self.variant.load_state_dict(self._new)
        if stage == "fit" and is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise ConfigError("training_step", "dataloader_iter", "a batch, which SAM can run twice")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse optimizers that evaluate the loss several times a step, or that get scaled gradients."""
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, LBFGS):
                raise ConfigError("optimizer", "LBFGS", "an optimizer that evaluates the loss once a step, with SAM")
            scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
            if scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
                raise ConfigError("optimizer", f"a fused {type(optimizer).__name__}", "fused=False for SAM in fp16")

    def _acts(self, trainer: pl.Trainer) -> bool:
        return trainer.global_step % self.every_n_steps == 0 and not trainer.fit_loop._skip_backward

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the micro-batch; for m-SAM over ranks, do not synchronise gradients."""
        self._unsynced.close()
        self._window.release()
        if not self._acts(trainer):
            return
        self._window.record(trainer, batch_idx)
        parallel = isinstance(trainer.strategy, either(ParallelStrategy))  # type: ignore[type-abstract]
        alone = not self.sync and self.group_size is None and parallel
        if alone and window_ends(trainer, batch_idx):
            self._unsynced.enter_context(trainer.strategy.block_backward_sync())  # type: ignore[attr-defined]

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Restore gradient synchronisation, and release the batches."""
        self._unsynced.close()
        self._window.release()
        self._window = Window()

    # what

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Replace the gradient, which is unscaled and not yet clipped, by the sharpness-aware one."""
        if trainer.fit_loop._skip_backward:  # StochasticWeightAveraging renews batch norms, and no weight is to move
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        if any(p.grad is not None and p.grad.is_sparse for p in parameters):
            raise ConfigError("network", "sparse gradients", "dense gradients (sparse=False in embeddings), with SAM")
        if self._align:  # a variant compares gradients of several steps, so that zeros stand for missing ones
            _whole_gradients(parameters)
        if not self._acts(trainer):
            moved = _with_gradient(parameters)
            _assign(moved, self.variant.between(_gradients(moved)))
            self._log(trainer, pl_module)
            return
        self._unsynced.close()
        others = {p: p.grad for p in set(pl_module.parameters()).difference(parameters) if p.grad is not None}
        _clear(others)
        with torch.enable_grad():
            self._logged |= self._replace_gradient(trainer, pl_module, parameters, self._radius(optimizer))
        for parameter, gradient in others.items():  # what nobody optimises keeps the gradient of one pass
            parameter.grad = gradient
        self._window.clear()
        self._log(trainer, pl_module)

    def _log(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # also on plain steps: a logger repeats the last value within an epoch anyway, but not after a resume
        self.log_step(trainer, module, {f"sam/{name}": value for name, value in self._logged.items()})

    def _radius(self, optimizer: Optimizer) -> float:
        if not self.rho_follows_lr:
            return self.rho
        groups = optimizer.param_groups
        rates = [(float(g["lr"]), float(g.get("max_lr", g.get("initial_lr", g["lr"])))) for g in groups]
        rate, peak = max(rates, key=lambda pair: pair[1])
        return self.rho * rate / peak if peak else 0.0

    def _replace_gradient(
        self, trainer: pl.Trainer, module: pl.LightningModule, parameters: list[nn.Parameter], rho: float
    ) -> dict[str, Tensor]:
        moved = _with_gradient(parameters)
        norm = total_norm(_gradients(moved))
        local = not self.sync and self.group_size is None and trainer.world_size > 1
        if not local and not torch.isfinite(norm):  # local gradients may differ in this; then all ranks go on
            return {"gradient_norm": norm}
        if self._window.lost:
            self._tell_lost(module)
            return {"gradient_norm": norm}
        kept: Gradients = []
        if self.alpha != 1 or self.variant.needs_gradient:
            kept = [gradient.clone() for gradient in _gradients(moved)]
            if local:
                _average_over_ranks(kept)
        with without_trace(trainer, module, self._window.written):
            if self.group_size is None:
                loss = self._climb(trainer, module, parameters, rho, slice(None), sync=True, norm=norm)
            else:
                loss = self._climb_in_groups(trainer, module, parameters, rho, self.group_size)
            if not torch.isfinite(total_norm(_gradients(parameters))):
                self._fall_back(trainer, module, parameters)
            elif kept:
                sharp = [p.grad if p.grad is not None else torch.zeros_like(p) for p in moved]
                wanted = self.variant.combine(kept, sharp)
                _assign(moved, wanted if self.alpha == 1 else list(torch._foreach_lerp(kept, wanted, self.alpha)))
        return {"gradient_norm": norm, "perturbed_loss": loss}

    def _climb(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        parameters: list[nn.Parameter],
        rho: float,
        part: slice,
        sync: bool,
        norm: Tensor | None = None,
    ) -> Tensor:
        """From the gradients at the weights to those at the perturbed weights."""
        moved = _with_gradient(parameters)
        gradient = _gradients(moved)
        direction = self.variant.direction(gradient)
        norm = norm if direction is gradient else None
        step = perturbation(direction, moved, rho, self.adaptive, norm=norm)
        written = {id(tensor) for tensor in self._window.written}
        own: dict[Tensor, Tensor] = {p: e for p, e in zip(moved, step, strict=True) if id(p) in written}
        with perturbed(moved, step):
            del gradient, direction, step  # their memory is for the second pass
            _clear(parameters)
            return self._window.backward(trainer, module, part, sync, own)

    def _climb_in_groups(
        self, trainer: pl.Trainer, module: pl.LightningModule, parameters: list[nn.Parameter], rho: float, size: int
    ) -> Tensor:
        loss = torch.zeros((), device=module.device)
        total: dict[nn.Parameter, Tensor] = {}
        for start in range(0, len(self._window.micro_batches), size):
            part = slice(start, start + size)
            _clear(parameters)
            self._window.backward(trainer, module, part, sync=False)
            if self.sync and trainer.world_size > 1:
                _average_over_ranks(_whole_gradients(parameters))
            loss += self._climb(trainer, module, parameters, rho, part, sync=False)
            for parameter in parameters:
                if parameter.grad is not None:
                    total[parameter] = total.get(parameter, 0) + parameter.grad
        for parameter in parameters:
            parameter.grad = total.get(parameter)
        if trainer.world_size > 1:
            _average_over_ranks(_whole_gradients(parameters))
        return loss

    def _fall_back(self, trainer: pl.Trainer, module: pl.LightningModule, parameters: list[nn.Parameter]) -> None:
        _clear(parameters)
        self._window.backward(trainer, module)
        if not self._warned:
            rank_zero_warn(
                "SAM: the gradient at the perturbed weights is not finite; stepping with the plain gradient."
            )
            self._warned = True

    def _tell_lost(self, module: nn.Module) -> None:
        names = [name for name, p in module.named_parameters() if any(p is tensor for tensor in self._window.lost)]
        rank_zero_warn(
            f"SAM: this step is plain, as training_step wrote {names[0] if names else 'a large tensor'} for the first "
            "time; from here on it is kept."
        )

    # state

    def state_dict(self) -> dict[str, Any]:
        """The memory of the variant, and the latest logged values."""
        return {"variant": self.variant.state_dict(), **super().state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.variant.load_state_dict(state_dict["variant"])


def _with_gradient(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.grad is not None]


def _gradients(parameters: Iterable[nn.Parameter]) -> Gradients:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _whole_gradients(parameters: Iterable[nn.Parameter]) -> Gradients:
    """The gradients, after giving zeros to parameters without one: ranks then agree about their number."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return _gradients(parameters)


def _clear(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _assign(parameters: Sequence[nn.Parameter], gradients: Gradients) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _average_over_ranks(tensors: Gradients) -> None:
    for tensor in tensors:
        torch.distributed.all_reduce(tensor)
        tensor /= torch.distributed.get_world_size()
