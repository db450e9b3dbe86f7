"""Running a module again inside a training step, with no side effect but the gradient."""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torchmetrics import Metric, MetricCollection

from lit_ft.core.method import Method
from lit_ft.core.passes.evaluating import modes_kept, tree
from lit_ft.core.passes.randomness import Randomness
from lit_ft.core.passes.window import micro_batch_weight, window_starts

_OF_TORCH = frozenset(vars(nn.Module()))


@contextmanager
def without_trace(trainer: pl.Trainer | None, module: nn.Module) -> Iterator[None]:
    """Run a module again without side effects: on exit, the state that a run changes is restored.

    Restored are random generators; buffers (batch-norm statistics and ``num_batches_tracked`` included); all
    torchmetrics; training flags; the lists, dictionaries and sets of a LightningModule (such as collected outputs of
    its steps), and its attributes that are tensors or floating-point numbers (such as a running mean). Other attributes
    keep the values that the run gives them. ``self.log``, ``self.log_dict`` and the loggers' ``log_metrics`` do nothing
    inside. Weights and gradients are not restored.

    Args:
        trainer: The trainer whose loggers are muted; None outside of training.
        module: The module that is run, and all its children. Unwrapped (no DDP wrapper).

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> with without_trace(None, norm):
        ...     _ = norm(torch.tensor([[10.0], [20.0]]))
        >>> norm.running_mean
        tensor([0.])
    """
    children = tree(module)
    with ExitStack() as stack:
        stack.callback(Randomness().restore)
        stack.enter_context(modes_kept(module))
        kept = StateSnapshot()
        stack.callback(kept.restore)
        for child in children:
            kept.add(child._buffers, child._buffers)
            if isinstance(child, (Metric, MetricCollection)):
                kept.add(child.__dict__, vars(child).keys() - _OF_TORCH)
            if isinstance(child, pl.LightningModule):
                kept.add_attributes(child)
                mute = ("log", "log_dict", "_follow_window") if isinstance(child, Method) else ("log", "log_dict")
                stack.enter_context(_muted(child, mute))
        for logger in trainer.loggers if trainer is not None else ():
            stack.enter_context(_muted(logger, ("log_metrics",)))
        yield


class StateSnapshot:
    """A snapshot of objects in dictionaries; both are restored, as other code may hold the same objects."""

    def __init__(self) -> None:
        self.values: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = []
        self.tensors: list[tuple[Tensor, Tensor]] = []
        self.collections: list[tuple[Any, Any]] = []

    @classmethod
    def buffers(cls, module: nn.Module) -> "StateSnapshot":
        """The buffers that a run may read and write; training does not read the statistics of batch norm."""
        kept = cls()
        for child in tree(module):
            if not isinstance(child, (_NormBase, Metric)):
                kept.add(child._buffers, child._buffers)
        return kept

    def add(self, owner: MutableMapping[str, Any], names: Iterable[str]) -> None:
        """Record entries of a dictionary: the objects and their contents."""
        values = {name: owner[name] for name in names}
        if values:
            self.values.append((owner, values))
        self.tensors += [(t, t.detach().clone()) for t in values.values() if isinstance(t, Tensor) and _writable(t)]
        self.add_collections(values.values())

    def add_attributes(self, module: nn.Module) -> None:
        """Record the collections and running means of a module; tensors are recorded by reference."""
        own = {name: value for name, value in vars(module).items() if name not in _OF_TORCH}
        self.values.append((module.__dict__, {n: v for n, v in own.items() if isinstance(v, (Tensor, float))}))
        self.add_collections(own.values())

    def add_collections(self, values: Iterable[Any]) -> None:
        """Record lists, dictionaries and sets with their contents, also inside dictionaries."""
        for value in values:
            if isinstance(value, (list, dict, set, deque)):
                self.collections.append((value, value.copy()))
            if isinstance(value, dict):
                self.add_collections(value.values())

    @torch.no_grad()
    def restore(self) -> None:
        """Restore everything that was recorded."""
        for owner, values in self.values:
            owner.update(values)
        for tensor, content in self.tensors:
            tensor.copy_(content)  # always: native batch norm writes its statistics without raising their version
        for value, items in self.collections:
            value.clear()
            value.update(items) if isinstance(value, (dict, set)) else value.extend(items)


def _writable(tensor: Tensor) -> bool:
    """Whether a tensor may have been changed in place; expanded, lazy and inference tensors cannot be."""
    if is_lazy(tensor) or tensor.is_inference():
        return False
    if tensor.layout != torch.strided or tensor.is_contiguous():
        return True
    return all(n == 1 or step > 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True))


@contextmanager
def _muted(owner: Any, names: Sequence[str]) -> Iterator[None]:
    before = {name: owner.__dict__[name] for name in names if name in owner.__dict__}
    owner.__dict__.update(dict.fromkeys(names, _nothing))
    try:
        yield
    finally:
        for name in names:
            del owner.__dict__[name]
        owner.__dict__.update(before)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Replaces a method that logs."""


@dataclass
class MicroBatch:
    """One micro-batch of the window, with the state that is needed to run it again exactly."""

    batch: Any
    batch_idx: int
    randomness: Randomness
    buffers: StateSnapshot


class Window:
    """The micro-batches since the last optimizer step, each with the randomness and the buffers it was run with.

    A callback calls ``record`` in ``on_train_batch_start`` and may call ``backward`` in ``on_before_optimizer_step``.
    The batches stay on the device until the next window. Their containers are copied, so that a step may pop keys and
    set attributes; their tensors are not, so that a step that writes into them cannot be repeated. Buffers are kept
    because a step may read values that it wrote (power iterations of a spectral norm, a queue of keys); batch norm does
    not read its statistics in training, and costs nothing.
    """

    def __init__(self) -> None:
        self.micro_batches: list[MicroBatch] = []

    def record(self, trainer: pl.Trainer, batch: Any, batch_idx: int) -> None:
        """Record a micro-batch that is about to run; the first one of a window clears the previous window."""
        if window_starts(trainer, batch_idx):
            self.clear()
        buffers = StateSnapshot.buffers(trainer.lightning_module)
        self.micro_batches.append(MicroBatch(copied(batch), batch_idx, Randomness(), buffers))

    def clear(self) -> None:
        """Forget the micro-batches."""
        self.micro_batches = []

    def backward(
        self, trainer: pl.Trainer, module: pl.LightningModule, part: slice = slice(None), sync: bool = True
    ) -> Tensor:
        r"""Run the window again and add its gradient to ``.grad``, just as Lightning and ``Method`` would have done.

        The gradient is that of :math:`\sum_i w_i \ell_i / \sum_i w_i` for a ``Method`` (sums over ranks too), and
        :math:`\frac1N \sum_i \ell_i` with N = ``accumulate_grad_batches`` for a foreign module. It goes through the
        strategy (autocast, DDP wrapper) and the module's own ``backward``, fires no hooks of Lightning, and is not
        scaled by an fp16 scaler. Call it inside ``without_trace``, with gradients that are None.

        Args:
            trainer: The trainer in its step.
            module: The LightningModule.
            part: The micro-batches that are run; shares are still those of the whole window.
            sync: Whether gradients are averaged over ranks, with the last micro-batch that is run.

        Returns:
            The loss of this rank, detached and weighted by the same shares.
        """
        chosen = self.micro_batches[part]
        weights, rescale = self._shares(trainer, module)
        parts = trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = None if scaler is None else scaler.get_scale()
        takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        total = torch.zeros((), dtype=torch.float32, device=module.device)
        dtype = torch.float32
        for position, item in enumerate(chosen):
            item.randomness.restore()
            item.buffers.restore()
            arguments = (copied(item.batch), item.batch_idx) if takes_index else (copied(item.batch),)
            with _gradient_sync(trainer, enabled=sync and position == len(chosen) - 1):
                loss = loss_of(trainer.strategy.training_step(*arguments))
                if loss is None:
                    continue
                dtype = loss.dtype
                # products in the order of the first pass, so that the same weights give the same bits
                loss = loss / parts
                if weights is not None:
                    weight = weights[item.batch_idx]
                    loss = loss * (weight * rescale.to(dtype) if parts == 1 else weight)
                total += loss.detach().reshape(())
                _backward(module, loss if scale is None else loss * scale)
        if weights is not None and parts > 1:
            total = total * rescale
            _scale_gradients(module, rescale.to(dtype))
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
    if enabled or not isinstance(trainer.strategy, ParallelStrategy):
        return nullcontext()
    return trainer.strategy.block_backward_sync()


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


def copied(batch: Any) -> Any:
    """The batch with new containers around the same tensors.

    Example:
        >>> batch = {"input_ids": torch.tensor([1, 2])}
        >>> other = copied(batch)
        >>> other is batch, other["input_ids"] is batch["input_ids"]
        (False, True)
    """
    if isinstance(batch, MutableMapping):
        new = copy.copy(batch)
        for key, value in batch.items():
            new[key] = copied(value)
        return new
    if isinstance(batch, tuple):
        items = [copied(item) for item in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    if isinstance(batch, list):
        return [copied(item) for item in batch]
    if is_dataclass(batch) and not isinstance(batch, type):
        other: Any = copy.copy(batch)
        for field in fields(batch):
            if hasattr(batch, field.name):
                object.__setattr__(other, field.name, copied(getattr(batch, field.name)))
        return other
    own = hasattr(batch, "__dict__") and not isinstance(batch, (Tensor, nn.Module))
    return copy.copy(batch) if own else batch  # an object with attributes, such as a graph
