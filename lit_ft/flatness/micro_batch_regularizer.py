"""Penalties that stand for the implicit regularisation of small batches."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import NonNegativeFloat, NonNegativeInt, PositiveFloat, checked
from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.passes.double_backward import differentiable_twice, double_backward_wanted
from lit_ft.core.passes.randomness import Randomness
from lit_ft.core.passes.second_pass import copied, loss_of, without_trace
from lit_ft.core.passes.state import State
from lit_ft.curvature.operators import NoDoubleBackward, explained, refuse_once_differentiable
from lit_ft.flatness.perturbation import perturbation, perturbed

Penalty = Literal["gradient_norm", "fisher_trace", "average_jacobian", "unit_jacobian"]
Form = Literal["double_backward", "finite_difference"]


def draw(penalty: Penalty, logits: Tensor | None, generator: torch.Generator) -> Tensor | None:
    """The random part of a penalty: labels from the model's softmax, a direction on the unit sphere, or None.

    Args:
        penalty: Labels are drawn for ``fisher_trace``, a direction for ``unit_jacobian``.
        logits: Shape (..., classes).
        generator: On the CPU.

    Example:
        >>> direction = draw("unit_jacobian", torch.zeros(4, 3), torch.Generator().manual_seed(0))
        >>> direction.shape, direction.norm()
        (torch.Size([3]), tensor(1.))
    """
    if penalty == "fisher_trace" and logits is not None:
        shares = logits.detach().float().flatten(0, -2).softmax(-1).cpu()
        return torch.multinomial(shares, 1, generator=generator).squeeze(-1).to(logits.device)
    if penalty == "unit_jacobian" and logits is not None:
        direction = torch.randn(logits.shape[-1], generator=generator)
        return (direction / direction.norm()).to(logits.device)
    return None


def penalised_scalar(penalty: Penalty, loss: Tensor, logits: Tensor | None, drawn: Tensor | None = None) -> Tensor:
    r"""The scalar S whose squared gradient norm is the penalty.

    ``gradient_norm``: the loss. ``fisher_trace``: the mean cross-entropy against drawn labels. ``average_jacobian``:
    :math:`\sum_c \bar z_c` for the mean logits :math:`\bar z`. ``unit_jacobian``: :math:`u \cdot \bar z` for a drawn u.

    Args:
        penalty: Name of the penalty, as above.
        loss: Mean loss of the micro-batch.
        logits: Shape (..., classes); not needed for ``gradient_norm``.
        drawn: The result of ``draw``.

    See also: :func:`squared_gradient_norm`.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> penalised_scalar("average_jacobian", torch.tensor(0.0), logits)  # the mean logits are 2 and 3
        tensor(5.)
    """
    if penalty == "gradient_norm" or logits is None:
        return loss
    rows = logits.float().flatten(0, -2)
    if penalty == "fisher_trace" and drawn is not None:
        return F.cross_entropy(rows, drawn)
    return rows.mean(0).sum() if drawn is None else rows.mean(0) @ drawn


def squared_gradient_norm(scalar: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    r""":math:`\|\nabla_\theta S\|^2`, differentiable once more.

    Example:
        >>> weight = torch.tensor([3.0], requires_grad=True)
        >>> penalty = squared_gradient_norm((weight**2).sum(), [weight])  # (2 w)^2
        >>> penalty.backward()
        >>> penalty.item(), weight.grad  # 8 w
        (36.0, tensor([24.]))
    """
    gradients = torch.autograd.grad(scalar, list(parameters), create_graph=True, allow_unused=True)
    return torch.stack([g.square().sum() for g in gradients if g is not None]).sum()


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    with differentiable_twice(), sdpa_kernel(SDPBackend.MATH):
        yield


class MicroBatchRegularizer(FitCallback):
    r"""Adds :math:`\lambda\,\|\nabla S_m\|^2` to the loss of each micro-batch m of the accumulation window.

    Training with small batches keeps the mean over micro-batches of :math:`\|\nabla L_m\|^2` low; penalties on the
    micro-batches of a large batch test whether that explains how small batches generalise. S is
    the loss (``gradient_norm``), the loss against labels drawn from the model (``fisher_trace``: the expectation is the
    trace of the Fisher information over the micro-batch size), or mean logits (``average_jacobian``,
    ``unit_jacobian``).

    Two forms. ``double_backward`` is exact. ``finite_difference`` replaces the penalty's gradient
    :math:`2\lambda H_S \nabla S` by :math:`2\lambda n\,(\nabla S(w + r\,\nabla S/n) - \nabla S(w))/r` with
    :math:`n = \|\nabla S\|`: equal up to O(r), also for kernels without double backward and under ``torch.compile``.

    Requires: a ``training_step`` that returns the loss, or a mapping with ``loss``. Wraps it during ``fit``, so that
    SAM and clipping see the loss with the penalty; the values that the module logs, and measured curvature, are those
    of the loss without it.

    Refuses: manual optimisation, an fp16 scaler (the inner gradients are not scaled), an unknown ``head``, and in its
    exact form, at the first loss, a module that cannot be differentiated twice.

    Cost: ``double_backward`` about two more backward passes and a graph of the backward pass in memory;
    ``finite_difference`` one more forward and backward pass (two backward passes more where S is not the loss), and one
    copy of the weights.

    Logs ``micro_batch_regularizer/penalty``, :math:`\|\nabla S_m\|^2` of the last micro-batch, when a logger writes.

    Source: Z. Novack, S. Kaur, T. Marwah, S. Garg, Z. Lipton, "Disentangling the Mechanisms Behind Implicit
    Regularization in SGD", 2022, arXiv 2211.15853 (code acmi-lab/imp-regularizers).

    Args:
        penalty: ``gradient_norm``, ``fisher_trace``, ``average_jacobian`` or ``unit_jacobian``.
        weight: :math:`\lambda`, at least 0. Paper: 0.01 for the first two (0.5 for VGG11), 5e-5 to 1e-3 for the others.
        form: ``double_backward`` or ``finite_difference``.
        radius: r of the finite difference, above 0, in units of the weights.
        head: Glob for the one module whose output are the logits (``network.head``); not for ``gradient_norm``.
        seed: Seed of drawn labels and directions, which are a function of it, the step, the micro-batch and the rank.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> for form in ("double_backward", "finite_difference"):
        ...     _, trainer = fit_foreign([MicroBatchRegularizer(weight=0.01, form=form)], max_steps=2)
        ...     print(f"{trainer.callback_metrics['micro_batch_regularizer/penalty']:.2f}")
        3.06
        3.06
    """

    needs = ("one of its class", "automatic optimization", "gradients without a scale")

    def __init__(
        self,
        penalty: Penalty = "gradient_norm",
        weight: NonNegativeFloat = 0.01,
        form: Form = "double_backward",
        radius: PositiveFloat = 0.01,
        head: str | None = None,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        checked(locals())
        if (head is None) != (penalty == "gradient_norm"):
            raise ConfigError("head", head, "a module name, or null for gradient_norm alone")
        self.penalty, self.weight, self.form, self.radius = penalty, weight, form, radius
        self.head, self.seed = head, seed
        self._logits: Tensor | None = None
        self._restore: Callable[[], None] | None = None
        self._looked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wrap the training step, and listen to the head."""
        self._looked = False
        step, own = pl_module.training_step, "training_step" in pl_module.__dict__
        takes_index = is_param_in_hook_signature(step, "batch_idx", min_args=2)
        hook = self._find_head(pl_module).register_forward_hook(self._keep_logits) if self.head else None

        @functools.wraps(step)
        def with_penalty(batch: Any, batch_idx: int = 0) -> Any:
            def run() -> Any:
                return step(copied(batch), batch_idx) if takes_index else step(copied(batch))

            return run() if double_backward_wanted() else self._penalised(trainer, pl_module, run, batch_idx)

        def restore() -> None:
            if hook is not None:
                hook.remove()
            del pl_module.__dict__["training_step"]
            if own:
                pl_module.__dict__["training_step"] = step

        pl_module.__dict__["training_step"] = with_penalty
        self._restore = restore

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Restore the training step."""
        if self._restore is not None:
            self._restore()
        self._restore = self._logits = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the training step before other callbacks look at the module."""
        self.leave(trainer, pl_module)

    def _find_head(self, module: nn.Module) -> nn.Module:
        assert self.head is not None
        found = {name: child for name, child in module.named_modules() if name and fnmatchcase(name, self.head)}
        if len(found) != 1:
            names = [name for name, _ in module.named_modules() if name]
            allowed = f"one module, not {len(found)}{'' if found else nearest(self.head, names)}"
            raise ConfigError("head", self.head, allowed)
        return next(iter(found.values()))

    def _keep_logits(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._logits = output

    def _taken_logits(self) -> Tensor | None:
        logits, self._logits = self._logits, None
        if self.head is not None and not isinstance(logits, Tensor):
            raise ConfigError("head", self.head, "a module that runs in training_step and returns a tensor of logits")
        return logits

    def _penalised(
        self, trainer: pl.Trainer, module: pl.LightningModule, run: Callable[[], Any], batch_idx: int
    ) -> Any:
        start = Randomness()
        exact = self.form == "double_backward"
        before = None if exact else State(module, trainer, statistics=False)
        with _twice_differentiable() if before is None else before.watching(trained=False):
            output = run()
        loss = loss_of(output)
        if loss is None:
            return None
        key = (self.seed * 1_000_003 + module.global_step) * 1_000_003 + batch_idx * 1_009 + module.global_rank
        logits = self._taken_logits()
        drawn = draw(self.penalty, logits, torch.Generator().manual_seed(key % 2**63))
        scalar = penalised_scalar(self.penalty, loss, logits, drawn)
        parameters = [p for p in module.parameters() if p.requires_grad]

        def scalar_again() -> Tensor:
            assert before is not None
            start.restore()
            before.restore(trained=False)
            loss_again = loss_of(run())
            assert loss_again is not None
            return penalised_scalar(self.penalty, loss_again, self._taken_logits(), drawn)

        with torch.autocast(module.device.type, enabled=False):
            if exact:
                self._look_once(scalar, parameters)
                penalty = squared_gradient_norm(scalar.float(), parameters)
                total = loss + self.weight * penalty
            else:
                total, penalty = self._linearised(trainer, module, parameters, loss, scalar, scalar_again)
        self.log_step(trainer, module, {"micro_batch_regularizer/penalty": penalty.detach()})
        return {**output, "loss": total} if isinstance(output, Mapping) else total

    def _look_once(self, scalar: Tensor, parameters: list[nn.Parameter]) -> None:
        """Check at the first loss: in double backward some kernels fail with an unclear error, and some are wrong."""
        if self._looked:
            return
        one = torch.ones_like(scalar, requires_grad=True)  # marks what is differentiable once
        try:
            with explained():
                gradients = torch.autograd.grad(scalar, parameters, one, create_graph=True, allow_unused=True)
                refuse_once_differentiable(gradients)
                norm = torch.stack([g.square().sum() for g in gradients if g is not None]).sum()
                torch.autograd.grad(norm, parameters, retain_graph=True, allow_unused=True)
        except NoDoubleBackward as error:
            lacks = str(error.__cause__).partition("\n")[0]
            raise ConfigError("form", self.form, f"finite_difference, for a module that lacks this: {lacks}") from error
        self._looked = True

    def _linearised(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        parameters: list[nn.Parameter],
        loss: Tensor,
        scalar: Tensor,
        scalar_again: Callable[[], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """A scalar, linear in the weights, with the value and the gradient of the loss and its penalty."""
        own = scalar is loss
        plain = torch.autograd.grad(loss, parameters, retain_graph=not own, allow_unused=True)
        steep = plain if own else torch.autograd.grad(scalar, parameters, allow_unused=True)
        climbing = [p for p, g in zip(parameters, steep, strict=True) if g is not None]
        gradients = [g for g in steep if g is not None]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        step = perturbation(gradients, climbing, self.radius, norm=norm)
        with without_trace(trainer, module), perturbed(climbing, step):
            with trainer.precision_plugin.forward_context():  # autocast, which is off around this
                value = scalar_again()
            after = torch.autograd.grad(value, climbing, allow_unused=True)
        bent = {
            p: (a - g) * (2 * self.weight * norm / self.radius)
            for p, g, a in zip(climbing, gradients, after, strict=True)
            if a is not None
        }
        total = loss.detach() + self.weight * norm.square()
        for parameter, gradient in zip(parameters, plain, strict=True):
            whole = bent.get(parameter, 0) if gradient is None else gradient + bent.get(parameter, 0)
            if isinstance(whole, Tensor):
                # adds nothing to the value, and this gradient to the gradient
                total = total + ((parameter - parameter.detach()) * whole).sum()
        return total, norm.square()
