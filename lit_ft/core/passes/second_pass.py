"""Running a module again inside a training step, with no side effect but the gradient."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lit_ft.core.errors import ConfigError
from lit_ft.core.lightning import either
from lit_ft.core.method import Method
from lit_ft.core.passes.evaluating import modes_kept
from lit_ft.core.passes.randomness import Randomness
from lit_ft.core.passes.silence import silence
from lit_ft.core.passes.state import State
from lit_ft.core.passes.window import micro_batch_weight, window_starts


@contextmanager
def without_trace(trainer: Any, module: nn.Module, written: Sequence[Tensor] = ()) -> Iterator[State]:
    """Run a module again without side effects: on exit, the state that a run changes is restored.

    Restored are the global random generators, training flags, and all that :class:`~lit_ft.core.passes.state.State`
    keeps: buffers (batch-norm statistics and ``num_batches_tracked`` included), torchmetrics, attributes and what they
    hold, networks without gradient, rates and schedulers. Nothing is logged inside, also not by the loggers and their
    ``experiment``. Weights that train and gradients are the caller's.

    Args:
        trainer: The trainer whose loggers are muted; None outside of training.
        module: The module that is run, and all its children. Unwrapped (no DDP wrapper).
        written: Large tensors without gradient, and weights, that a step is known to write.

    Yields:
        The state, which a caller with several passes restores between them.

    Raises:
        ConfigError: The module was moved on in a way that cannot be taken back, such as a generator.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> with without_trace(None, norm):
        ...     _ = norm(torch.tensor([[10.0], [20.0]]))
        >>> norm.running_mean
        tensor([0.])
    """
    with ExitStack() as stack:
        stack.callback(Randomness().restore)
        stack.enter_context(modes_kept(module))
        state = State(module, trainer, written=written)
        stack.enter_context(silence(trainer, module))
        whole = False
        try:
            yield state
            whole = True
        finally:
            state.restore(check=whole)


@dataclass
class MicroBatch:
    """One micro-batch of the window, with the state that is needed to run it again exactly.

    Args:
        batch: The batch that the step was given.
        batch_idx: Its number in the epoch.
        arguments: All arguments of the step.
        randomness: The random generators before the step.
        state: The state of the module before the step.
    """

    batch: Any
    batch_idx: int
    arguments: tuple[Any, ...]
    randomness: Randomness
    state: State


class Window:
    """The micro-batches since the last optimizer step, each with the randomness and the state it was run with.

    A callback calls ``record`` in ``on_train_batch_start`` and may call ``backward`` in ``on_before_optimizer_step``.
    The batches stay on the device until the next window. Their containers are copied, so that a step may pop keys and
    set attributes; their tensors are in the first window, and later where the step writes into them. State is kept
    because a step may read values that it wrote (a momentum network, a counter, power iterations of a spectral norm);
    batch norm does not read its statistics in training, and costs nothing.

    The first window of a fit is watched: what its steps write is copied before each later step. ``lost`` are tensors
    that are too large to be copied in advance and were written in this window for the first time.
    """

    def __init__(self) -> None:
        self.micro_batches: list[MicroBatch] = []
        self.written: list[Tensor] = []
        self.lost: list[Tensor] = []
        self._watches = True
        self._writes = False
        self._release: Callable[[], None] | None = None

    def record(self, trainer: pl.Trainer, batch_idx: int) -> None:
        """Record a micro-batch just before its step; the first one of a window clears the previous window."""
        self.release()
        if window_starts(trainer, batch_idx):
            self.clear()
        strategy, module = trainer.strategy, trainer.lightning_module
        own, step = strategy.__dict__.get("training_step"), strategy.training_step

        def recorded(*arguments: Any) -> Any:
            self.release()
            like = self.micro_batches[-1].state if self.micro_batches else None
            state = State(module, trainer, statistics=False, written=self.written, like=like)
            copies = self._watches or self._writes
            again = tuple(copied(argument, tensors=copies) for argument in arguments)
            self.micro_batches.append(MicroBatch(again[0], batch_idx, again, Randomness(), state))
            tensors = [one for one in tree_leaves(arguments) if isinstance(one, Tensor) and not one.is_inference()]
            before = [one._version for one in tensors]
            with state.watching() if self._watches else nullcontext():
                output = step(*arguments)
            self._writes = self._writes or [one._version for one in tensors] != before
            if self._writes and not copies:
                given = f"{type(module).__name__}, whose training_step writes into its batch in some steps alone"
                raise ConfigError("model", given, "a step that leaves its batch as it is, as it is run again")
            self._look(state)
            return output

        def release() -> None:
            strategy.__dict__.pop("training_step", None)
            if own is not None:
                strategy.__dict__["training_step"] = own

        strategy.__dict__["training_step"] = recorded  # all hooks that come before the step have run by then
        self._release = release

    def _look(self, state: State) -> None:
        found, lost = state.written()
        self.lost += lost
        known = {id(tensor) for tensor in self.written}
        self.written += [tensor for tensor in found if id(tensor) not in known]

    def release(self) -> None:
        """Do not record the next step."""
        if self._release is not None:
            self._release()
        self._release = None

    def clear(self) -> None:
        """Forget the micro-batches."""
        self._watches = self._watches and not self.micro_batches
        self.micro_batches, self.lost = [], []

    def backward(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        part: slice = slice(None),
        sync: bool = True,
        moved: Mapping[Tensor, Tensor] | None = None,
    ) -> Tensor:
        r"""Run the window again and add its gradient to ``.grad``, just as Lightning and ``Method`` would have done.

        The gradient is that of :math:`\sum_i w_i \ell_i / \sum_i w_i` for a ``Method`` (sums over ranks too), and
        :math:`\frac1N \sum_i \ell_i` with N = ``accumulate_grad_batches`` for a foreign module. It goes through the
        strategy (autocast, DDP wrapper) and the module's own ``on_before_backward``, ``backward`` and
        ``on_after_backward``, fires no hooks of callbacks, and is not scaled by an fp16 scaler. Call it inside
        ``without_trace``, with gradients that are None.

        Args:
            trainer: The trainer in its step.
            module: The LightningModule.
            part: The micro-batches that are run; shares are still those of the whole window.
            sync: Whether gradients are averaged over ranks, with the last micro-batch that is run.
            moved: Where the weights are perturbed, and the step itself writes weights (``written``): the perturbation.

        Returns:
            The loss of this rank, detached and weighted by the same shares.
        """
        chosen = self.micro_batches[part]
        weights, rescale = self._shares(trainer, module)
        parts = trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = None if scaler is None else scaler.get_scale()
        total = torch.zeros((), dtype=torch.float32, device=module.device)
        dtype = torch.float32
        for position, item in enumerate(chosen):
            item.randomness.restore()
            item.state.restore(trained=False)
            item.state.put_weights(moved or {})
            last = position == len(chosen) - 1
            whole = weights is not None and parts > 1 and last
            with _gradient_sync(trainer, enabled=sync and last):
                arguments = (copied(argument, tensors=self._writes) for argument in item.arguments)
                loss = loss_of(trainer.strategy.training_step(*arguments))
                if loss is None:
                    continue
                dtype = loss.dtype
                # products in the order of the first pass, so that the same weights give the same bits
                loss = loss / parts
                module.on_before_backward(loss if scale is None else loss * scale)
                if weights is not None:
                    weight = weights[item.batch_idx]
                    loss = loss * (weight * rescale.to(dtype) if parts == 1 else weight)
                total += loss.detach().reshape(())
                _backward(module, loss if scale is None else loss * scale)
            if whole:
                module._rescale = rescale.to(dtype)  # on_after_backward of Method makes a mean of the sum
            module.on_after_backward()
        if weights is not None and parts > 1:
            total = total * rescale
        if scale is not None:
            _scale_gradients(module, 1 / scale)
        return total

    def _shares(
        self, trainer: pl.Trainer, module: pl.LightningModule
    ) -> tuple[dict[int, Tensor | float] | None, Tensor]:
        """The weights of the micro-batches by batch index (None: all 1), and the factor that makes them shares."""
        if not isinstance(module, Method) or (trainer.accumulate_grad_batches == 1 and trainer.world_size == 1):
            return None, torch.ones(())
        weights = {item.batch_idx: micro_batch_weight(module, item.batch) for item in self.micro_batches}
        total = torch.stack([torch.as_tensor(w, device=module.device).double() for w in weights.values()]).sum()
        if trainer.world_size > 1:
            total = trainer.strategy.reduce(total, reduce_op="sum")  # type: ignore[assignment]
        return weights, torch.where(total == 0, 0.0, trainer.accumulate_grad_batches * trainer.world_size / total)


def _gradient_sync(trainer: pl.Trainer, enabled: bool) -> AbstractContextManager[None]:
    if enabled or not isinstance(trainer.strategy, either(ParallelStrategy)):  # type: ignore[type-abstract]
        return nullcontext()
    return trainer.strategy.block_backward_sync()  # type: ignore[attr-defined]


def _backward(module: pl.LightningModule, loss: Tensor) -> None:
    if isinstance(module, Method):
        pl.LightningModule.backward(module, loss)  # Method.backward would weigh the loss by the first pass
    else:
        module.backward(loss)


def _scale_gradients(module: nn.Module, factor: Tensor | float) -> None:
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)


def loss_of(output: Any) -> Tensor | None:
    """The loss in the output of a training step; None if the step skips the batch.

    Example:
        >>> loss_of({"loss": torch.tensor(1.0)}), loss_of(torch.tensor(2.0)), loss_of(None)
        (tensor(1.), tensor(2.), None)
    """
    return output["loss"] if isinstance(output, Mapping) else output


def copied(batch: Any, tensors: bool = False) -> Any:
    """The batch with new containers around the same tensors, or around copies of them.

    Example:
        >>> batch = {"input_ids": torch.tensor([1, 2])}
        >>> other = copied(batch)
        >>> other is batch, other["input_ids"] is batch["input_ids"]
        (False, True)
    """
    if isinstance(batch, Tensor):
        return batch.detach().clone().requires_grad_(batch.requires_grad) if tensors else batch
    if isinstance(batch, MutableMapping):
        new = copy.copy(batch)
        for key, value in batch.items():
            new[key] = copied(value, tensors)
        return new
    if isinstance(batch, tuple):
        items = [copied(item, tensors) for item in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    if isinstance(batch, list):
        return [copied(item, tensors) for item in batch]
    if is_dataclass(batch) and not isinstance(batch, type):
        other: Any = copy.copy(batch)
        for field in fields(batch):
            if hasattr(batch, field.name):
                object.__setattr__(other, field.name, copied(getattr(batch, field.name), tensors))
        return other
    own = hasattr(batch, "__dict__") and not isinstance(batch, (Tensor, nn.Module))
    return copy.copy(batch) if own else batch  # an object with attributes, such as a graph
