"""The function whose curvature is measured: a mean loss over cached batches."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lit_ft.core.batches import rows_of
from lit_ft.core.errors import ConfigError
from lit_ft.core.lightning import either
from lit_ft.core.method import Method
from lit_ft.core.parameters import unwrapped
from lit_ft.core.passes.double_backward import differentiable_twice
from lit_ft.core.passes.means import sum_over_ranks
from lit_ft.core.passes.second_pass import copied, loss_of, without_trace
from lit_ft.core.passes.state import State
from lit_ft.core.passes.window import micro_batch_weight

Loss = Callable[[nn.Module, Any], Tensor]


class NoLoss(ConfigError):
    """A training step returned no loss for a batch."""


def step_loss(module: nn.Module, batch: Any) -> Tensor:
    """The training loss of a LightningModule on one batch."""
    if isinstance(module, Method):
        return module.compute(batch).loss
    if not isinstance(module, either(pl.LightningModule)):
        raise ConfigError(
            "loss", None, f"a function loss(module, batch), as {type(module).__name__} has no training_step"
        )
    if not module.automatic_optimization:
        raise ConfigError("loss", None, f"a function loss(module, batch), as {type(module).__name__} optimises by hand")
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    loss = loss_of(module.training_step(batch, 0) if takes_index else module.training_step(batch))
    if loss is None:
        raise NoLoss("batches", "a batch for which training_step returns None", "batches that have a loss")
    return loss


class Objective:
    r"""The loss :math:`L(w) = \sum_i w_i \ell_i(w) / \sum_i w_i` over batches, as a function of trainable parameters.

    The weights are ``loss_weight(batch)`` if the module has it, else the rows of each batch, so that a short last batch
    counts for as much as it holds; 1 where a batch does not tell its rows. In a process group every rank brings its own
    batches and calls the same functions; sums go over all ranks.

    Args:
        module: A LightningModule, or any module when ``loss`` is given. Wrappers of DDP and ``torch.compile`` are
            stripped.
        batches: A fixed list of batches, each of which is processed at once. Moved to the module's device.
        loss: Mean loss of a batch; None takes that of ``training_step``.
        parameters: The parameters to differentiate by; None takes all that require a gradient. Tied ones count once.
        training: Run the module in training mode (with one dropout mask per batch, the same in every evaluation).
        seed: Seed of the dropout masks.

    Example:
        >>> module = nn.Linear(1, 1, bias=False)
        >>> module.weight.data = torch.tensor([[2.0]])
        >>> batches = [torch.tensor([1.0]), torch.tensor([3.0])]
        >>> objective = Objective(module, batches, loss=lambda module, x: module(x).mean())
        >>> with objective.evaluating():
        ...     [(share, loss.item()) for share, loss in objective.losses()]
        [(0.5, 2.0), (0.5, 6.0)]
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Iterable[Any],
        loss: Loss | None = None,
        parameters: Sequence[nn.Parameter] | None = None,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        self.module = unwrapped(module)
        self.batches = list(batches)
        self.loss = loss or step_loss
        given = self.module.parameters() if parameters is None else parameters
        self.parameters = list(dict.fromkeys(p for p in given if p.requires_grad))
        self.training, self.seed = training, seed
        self._state: State | None = None
        self._watched: set[int] = set()
        if not self.parameters:
            raise ConfigError("module", type(self.module).__name__, "a module with parameters that require a gradient")
        if not self.batches and not self.distributed:
            raise ConfigError("batches", [], "at least one batch")
        if any(type(p).__name__ in ("DTensor", "FlatParameter") for p in self.parameters):
            raise ConfigError("module", "sharded parameters", "whole parameters on each rank (one device, or DDP)")
        if any(p.is_complex() for p in self.parameters):
            raise ConfigError("module", "complex parameters", "parameters of real numbers")
        self.device = self.parameters[0].device
        self.dtype = torch.float64 if all(p.dtype == torch.float64 for p in self.parameters) else torch.float32
        self.size = sum(p.numel() for p in self.parameters)

    @property
    def distributed(self) -> bool:
        """Whether sums go over several ranks."""
        return torch.distributed.is_available() and torch.distributed.is_initialized()

    @property
    def half_precision(self) -> bool:
        """Whether a parameter has fewer than 32 bits."""
        return any(p.dtype.itemsize < 4 for p in self.parameters)

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks (in place)."""
        return sum_over_ranks(tensor)

    @property
    def one_batch(self) -> bool:
        """Whether every rank has at most one batch; a collective call, as all ranks must take the same path."""
        most = torch.tensor(len(self.batches), device=self.device)
        if self.distributed:
            torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        return int(most) <= 1

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run the module for its derivatives; on exit it is as it was before.

        Logging is muted; randomness, buffers and modes are restored; autocast and compiled code are off; attention and
        losses use the forms that have second derivatives.
        """
        trainer = getattr(self.module, "_trainer", None)
        with ExitStack() as stack:
            self._watched = set()
            self._state = stack.enter_context(without_trace(trainer, self.module))
            if trainer is not None:
                stack.enter_context(trainer.precision_plugin.train_step_context())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.autocast(self.device.type, enabled=False))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(differentiable_twice())
            self.module.train(self.training)
            yield

    def losses(self) -> Iterator[tuple[float, Tensor]]:
        """The share of each batch in the mean, and its loss with a graph. Needs ``evaluating()``."""
        for index, share in enumerate(self.shares()):
            if share:
                batch = move_data_to_device(copied(self.batches[index]), self.device)
                yield share, self._batch_loss(index, batch)

    def shares(self) -> list[float]:
        """The share of each batch in the mean over all batches of all ranks."""
        weights = self._weights()
        total = float(self.sum_over_ranks(torch.tensor(sum(weights), dtype=torch.float64, device=self.device)))
        if not math.isfinite(total) or total <= 0:
            raise ConfigError("batches", f"total weight {total}", "batches with a positive total weight")
        return [weight / total for weight in weights]

    def _weights(self) -> list[float]:
        """What each batch of this rank weighs; the same rule on all ranks."""
        if callable(getattr(self.module, "loss_weight", None)):
            return [float(micro_batch_weight(self.module, batch)) for batch in self.batches]  # type: ignore[arg-type]
        rows = [rows_of(batch) for batch in self.batches]
        untold = self.sum_over_ranks(torch.tensor(rows.count(None), device=self.device))
        return [1.0 if untold or n is None else float(n) for n in rows]

    def _batch_loss(self, index: int, batch: Any) -> Tensor:
        assert self._state is not None
        self._state.restore(trained=False)  # the same function in every evaluation
        first = index not in self._watched  # at the weights as they are; later ones may be perturbed
        self._watched.add(index)
        with ExitStack() as stack:
            stack.enter_context(self._state.watching() if first else nullcontext())
            stack.enter_context(torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []))
            torch.manual_seed(self.seed + index)
            loss = self.loss(self.module, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            given = f"{shape} without a gradient" if isinstance(loss, Tensor) and loss.numel() == 1 else shape
            raise ConfigError("loss", given, "a tensor of one number that depends on the parameters")
        return loss.to(self.dtype).reshape(())

    def flat(self, tensors: Iterable[Tensor | None]) -> Tensor:
        """Tensors shaped like the parameters as one flat row; None stands for zeros."""
        pieces = [
            torch.zeros(p.numel(), dtype=self.dtype, device=self.device) if t is None else _dense(t).reshape(-1)
            for t, p in zip(tensors, self.parameters, strict=True)
        ]
        return torch.cat([piece.to(self.dtype) for piece in pieces])

    def shaped(self, row: Tensor) -> list[Tensor]:
        """A flat row as tensors shaped and typed like the parameters."""
        pieces = row.split([p.numel() for p in self.parameters])
        return [piece.view_as(p).to(p.dtype) for piece, p in zip(pieces, self.parameters, strict=True)]


def _dense(gradient: Tensor) -> Tensor:
    return gradient.detach() if gradient.layout == torch.strided else gradient.detach().to_dense()
