"""Learning which frozen weights to use."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import ClosedUnitInterval, NonNegativeFloat, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.observing import arguments, output_of
from lit_ft.core.optimizers import refuse_empty
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.passes.evaluating import validating
from lit_ft.core.passes.second_pass import copied, without_trace
from lit_ft.core.selection.base import Selection
from lit_ft.running.warm_start import WarmStart
from lit_ft.sparse.buffers import HeldBuffers
from lit_ft.sparse.weight_bits import save_bits


def dropped_gradient(task: Tensor, old: Tensor, draw: Tensor, share: float) -> Tensor:
    r""":math:`((1-\lambda) + \lambda 1[P > U])\,g`, :math:`P = \frac12(1 + \mathrm{sgn}(g)\frac{g + h}{|g| + |h|})`.

    P is 1 where the gradients g of the task and h of the distance to the old network agree, |g| / (|g| + |h|) where
    they do not; U is a draw from [0, 1).

    Example:
        >>> task, old, draw = torch.tensor([2.0, 2.0]), torch.tensor([1.0, -6.0]), torch.tensor([0.5, 0.5])
        >>> dropped_gradient(task, old, draw, share=1.0)  # P is 1 and 1/4
        tensor([2., 0.])
    """
    keep = 0.5 * (1 + task.sign() * (task + old) / (task.abs() + old.abs() + 1e-12))
    return ((1 - share) + share * (keep > draw)) * task


def penalty_gradient(scores: Tensor) -> Tensor:
    r""":math:`\nabla_S \lVert S \rVert_2 = S / \lVert S \rVert_2`; zeros at 0.

    Example:
        >>> penalty_gradient(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """
    return nn.functional.normalize(scores.flatten(), dim=0).view_as(scores)


class StraightThroughMask(nn.Module):
    """``weight * (score > threshold)``; the score gets the gradient of the mask (straight-through estimator).

    Args:
        weight: The frozen weight.
        init: Initial value of the scores.
        threshold: Weights with a score above it are used.

    Example:
        >>> weight = torch.tensor([2.0, 3.0])
        >>> mask = StraightThroughMask(weight, init=0.0, threshold=0.5)
        >>> mask.scores.data[1] = 1.0
        >>> mask(weight).detach()
        tensor([0., 3.])
        >>> mask(weight).sum().backward()
        >>> mask.scores.grad
        tensor([2., 3.])
    """

    def __init__(self, weight: Tensor, init: float, threshold: float) -> None:
        super().__init__()
        self.scores, self.threshold, self.open = nn.Parameter(torch.full_like(weight, init)), threshold, False

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, or the whole one while ``open``."""
        if self.open:
            return weight
        hard = (self.scores > self.threshold).to(weight.dtype)
        return weight * (hard + (self.scores - self.scores.detach()))


class ForwardMask(FitCallback):
    r"""Trains binary masks over frozen weights: :math:`W' = 1[S > t] W`, :math:`\nabla_S L = W \nabla_{W'} L`.

    The selected weights, whole tensors, get scores S by ``torch.nn.utils.parametrize``; all other parameters are frozen
    and a new optimizer is made for the scores; batch norms keep their statistics. Checkpoints hold the masked weights
    under their plain names and, in the callback's state, the scores and unmasked weights for resuming. After the fit
    the network has the masked weights.

    ``dropout`` damps gradients that oppose those of :math:`KL(p_0 \| p)` to the unmasked network's predictions;
    ``output`` names the submodule whose output is the logits in ``validation_step``. It costs two more forward passes
    and a backward pass a step, and with accumulation uses the last batch alone. A step of Adam moves a score by about
    its learning rate.

    Refuses: more than one device; tensors that are selected in part, or tied (the other module would use the unmasked
    weight); callbacks that average, prune or unfreeze weights; a place before ``WarmStart``, which finds weights by
    their plain names. Memory: scores as large as the masked weights.

    Source: "Regularized Mask Tuning: Uncovering Hidden Knowledge in Pre-trained Vision-Language Models" (R-AMT);
    reference implementation github.com/wuw2019/R-AMT at 6187d31, whose penalty (part of the task's loss, so dropout
    damps its gradient, too) is this one. Deviation: the unmasked network predicts in evaluation mode.

    Args:
        selection: Whole tensors that are masked. Paper: attention.
        init: Initial value of the scores, above ``threshold``. Paper: 1e-2.
        threshold: t. Paper: 5e-3.
        penalty: Weight of :math:`\sum_k \lVert S_k \rVert_2` over the tensors k, at least 0. Reference: 1e-4.
        dropout: Share lambda in [0, 1]. Paper: 1, or 0.3 for the largest data sets.
        output: Name of the submodule whose output is the logits, for ``dropout``.
        bits: Name of a file in the trainer's ``default_root_dir`` for one bit a weight; None writes none.

    See also: :func:`~lit_ft.sparse.weight_bits.load_bits`, which reads that file.

    Example:
        >>> from lit_ft.core.selection import Names
        >>> from lit_ft.testing import fit_foreign
        >>> mask = ForwardMask(Names("model.4.weight"))
        >>> module, _ = fit_foreign([mask], max_steps=3)
        >>> mask.report()["of"], mask.report()["masked"] == (module.model[4].weight == 0).sum()
        (36, tensor(True))
    """

    needs = ("one device", "no other weights")
    after = (WarmStart,)
    forgets = ("_left",)

    def __init__(
        self,
        selection: Selection,
        init: float = 1.0e-2,
        threshold: float = 5.0e-3,
        penalty: NonNegativeFloat = 0.0,
        dropout: ClosedUnitInterval = 0.0,
        output: str | None = None,
        bits: str | None = None,
    ) -> None:
        super().__init__()
        checked(locals())
        if init <= threshold:
            raise ConfigError("init", init, f"a number above the threshold {threshold}")
        if dropout and output is None:
            raise ConfigError("output", output, "the name of the submodule that gives logits, for dropout")
        self.selection, self.init, self.threshold, self.penalty = selection, init, threshold, penalty
        self.dropout, self.output, self.bits = dropout, output, bits
        self.masks: dict[str, StraightThroughMask] = {}
        self._places: dict[str, tuple[nn.Module, str, str]] = {}
        self._flags: dict[nn.Parameter, bool] = {}
        self._orders: dict[nn.Module, list[str]] = {}
        self._saved: dict[str, dict[str, Tensor]] = {}
        self._batch: Any = None
        self._buffers: HeldBuffers | None = None
        self._left: dict[str, dict[str, Tensor]] = {}

    @override
    def settled(self) -> tuple[str, ...]:
        return ("selection", "init")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Continue with the masks of an earlier fit of this trainer."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._saved = self._left

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the masks on, after other weights were loaded, and make a new optimizer."""
        index = ParameterIndex(pl_module)
        choices = self.selection.select(pl_module)
        part = next((name for name, choice in choices.items() if isinstance(choice, Tensor)), None)
        names = [name for name, choice in choices.items() if choice is True]
        if part is not None or not names:
            raise ConfigError("selection", part or "nothing", "a selection of whole tensors")
        for name in names:
            owners = _owners(pl_module, index[name].parameter)
            if len(owners) > 1:
                allowed = "weights that stand in one place (leave tied ones out of the selection)"
                raise ConfigError("selection", f"{name}, tied: {', '.join(owners)}", allowed)
        self._left = {}
        self._buffers = HeldBuffers(index, dict.fromkeys(choices, False))
        paths = {id(child): path for path, child in pl_module.named_modules()}
        self._flags = {parameter: parameter.requires_grad for parameter in index.parameters.values()}
        for parameter in self._flags:
            parameter.requires_grad_(False)
        for name in names:
            entry, leaf = index[name], name.rpartition(".")[2]
            mask = StraightThroughMask(entry.parameter, self.init, self.threshold)
            if name in self._saved:
                with torch.no_grad():
                    entry.parameter.copy_(self._saved[name]["weight"])
                    mask.scores.copy_(self._saved[name]["scores"])
            self._orders.setdefault(entry.module, list(entry.module._parameters))
            parametrize.register_parametrization(entry.module, leaf, mask)
            self.masks[name], self._places[name] = mask, (entry.module, leaf, paths[id(entry.module)])
        refuse_empty(pl_module, "ForwardMask.selection", type(self.selection).__name__)
        trainer.strategy.setup_optimizers(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the batch for the distance to the unmasked network, and batch norms as they are."""
        if self.dropout:
            self._batch = (copied(batch), batch_idx)
        if self._buffers is not None:
            self._buffers.freeze()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Restore the buffers of frozen modules."""
        if self._buffers is not None:
            self._buffers.restore()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradient of the penalty, then drop gradients that oppose the old network's."""
        for mask in self.masks.values():
            if self.penalty and mask.scores.grad is not None:
                mask.scores.grad.add_(penalty_gradient(mask.scores.detach()), alpha=self.penalty)
        if self.dropout:
            old = self._distance_gradients(trainer, pl_module)
            for mask, gradient in zip(self.masks.values(), old, strict=True):
                if mask.scores.grad is not None:
                    draw = torch.rand_like(mask.scores)
                    mask.scores.grad = dropped_gradient(mask.scores.grad, gradient, draw, self.dropout)

    def _distance_gradients(self, trainer: pl.Trainer, module: pl.LightningModule) -> list[Tensor]:
        assert self.output is not None
        logits: list[Tensor] = []
        with without_trace(trainer, module), validating(trainer):
            module.eval()  # the distance is not one between two draws of dropout
            try:
                for opened in (True, False):
                    self._open(opened)
                    precision = trainer.precision_plugin.val_step_context()  # a step's end is outside of autocast
                    with output_of(module, self.output) as outputs, torch.set_grad_enabled(not opened), precision:
                        module.validation_step(*arguments(module.validation_step, *self._batch))
                    if not outputs:
                        raise ConfigError("output", self.output, "a submodule that validation_step calls")
                    logits.append(outputs[-1].float().log_softmax(-1))
            finally:
                self._open(False)
            distance = nn.functional.kl_div(logits[1], logits[0], log_target=True, reduction="batchmean")
            return list(torch.autograd.grad(distance, [mask.scores for mask in self.masks.values()]))

    def _open(self, opened: bool) -> None:
        for mask in self.masks.values():
            mask.open = opened

    def bit_masks(self) -> dict[str, Tensor]:
        """Masks of the used weights, by name; after the fit, the final ones."""
        scores = {name: mask.scores.detach() for name, mask in self.masks.items()}
        scores = scores or {name: state["scores"] for name, state in self._left.items()}
        return {name: score > self.threshold for name, score in scores.items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the bits."""
        if self.bits is not None and trainer.is_global_zero:
            save_bits(Path(trainer.default_root_dir) / self.bits, self.bit_masks())

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save masked weights under plain names."""
        state = checkpoint["state_dict"]
        for module, leaf, path in self._places.values():
            prefix = f"{path}." if path else ""
            for key in ("original", "0.scores"):
                state.pop(f"{prefix}parametrizations.{leaf}.{key}", None)
            state[f"{prefix}{leaf}"] = getattr(module, leaf).detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """The scores and the unmasked weights; after the fit or an exception, the final ones."""
        if not self.masks:
            return self._left
        return {
            name: {
                "scores": mask.scores.detach().clone(),
                "weight": self._places[name][0].parametrizations[self._places[name][1]].original.detach().clone(),  # type: ignore[index, union-attr]
            }
            for name, mask in self.masks.items()
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict  # until the masks are put on

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Fold the masks into the weights."""
        if self.masks:  # a checkpoint may yet be written
            self._left = self.state_dict()
        if self._buffers is not None:
            self._buffers.release()
        for owner, leaf, _ in self._places.values():
            parametrize.remove_parametrizations(owner, leaf, leave_parametrized=True)
        for owner, order in self._orders.items():  # optimizers and checkpoints count parameters
            for key in order:
                owner._parameters[key] = owner._parameters.pop(key)
        for parameter, flag in self._flags.items():
            parameter.requires_grad_(flag)
        self.masks, self._places, self._flags, self._saved = {}, {}, {}, {}
        self._orders, self._batch, self._buffers = {}, None, None

    def report(self) -> dict[str, Any]:
        """Number and share of the weights that the masks leave out."""
        bits = self.bit_masks()
        masked, total = sum(int((~m).sum()) for m in bits.values()), sum(m.numel() for m in bits.values())
        return {"masked": masked, "of": total, "share": masked / total} if total else {}


def _owners(module: nn.Module, parameter: nn.Parameter) -> list[str]:
    """Every name under which modules have a parameter."""
    return [
        f"{path}.{leaf}" if path else leaf
        for path, child in module.named_modules()
        for leaf, value in child._parameters.items()
        if value is parameter
    ]
