"""The fused kernel of an optimizer, which torch has but does not take by itself: up to six times faster on a CPU."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from lit_ft.core.errors import ConfigError

DEVICES: dict[type[Optimizer], tuple[str, ...]] = {
    Adam: ("cpu", "cuda", "mps", "xpu"),
    AdamW: ("cpu", "cuda", "mps", "xpu"),
    SGD: ("cpu", "cuda", "mps", "xpu"),
    Adagrad: ("cpu", "cuda"),
}
"""Where an optimizer has a fused kernel. Subclasses may step otherwise, so that they are left alone."""


def fused(optimizer: Optimizer) -> Optimizer:
    """Let an optimizer of torch run its fused kernel, where that is right and neither ``fused`` nor ``foreach`` is set.

    The kernel computes what the others do, to rounding. It reads the memory of weight, gradient and state side by side,
    whatever their strides say, so that a gradient laid out otherwise is brought to the layout of its weight. The
    gradient scaler of fp16 unscales before callbacks and clipping see the gradient, as with any other optimizer, and
    not inside of the kernel.

    Args:
        optimizer: Changed in place. One without such a kernel, or of a subclass, is left alone.

    Returns:
        The optimizer. Why it runs without its fused kernel is said in a line.

    Raises:
        ConfigError: ``fused=True`` was set where the kernel would be wrong; for sparse gradients when they come.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> fused(torch.optim.AdamW([weight])).param_groups[0]["fused"]
        True
        >>> fused(torch.optim.AdamW([weight], foreach=False)).param_groups[0]["fused"] is None
        True
    """
    if type(optimizer) not in DEVICES:
        return optimizer
    groups = optimizer.param_groups
    written = any(group.get(key) is not None for group in groups for key in ("fused", "foreach"))
    obstacle = _obstacle(optimizer)
    if not written and obstacle is None:
        for options in (optimizer.defaults, *groups):
            options["fused"] = True
        if optimizer.state:  # Adagrad's, whose count of steps belongs beside the weight
            optimizer.load_state_dict(optimizer.state_dict())
    elif not written:
        _say(optimizer, obstacle)
    if any(group["fused"] for group in groups):
        if obstacle is not None:
            raise ConfigError(
                "optimizer.fused", True, f"null: {type(optimizer).__name__} cannot have it for {obstacle}"
            )
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        optimizer.register_step_pre_hook(_Layout(written))
        optimizer.register_load_state_dict_post_hook(_lay_out_state)
    return optimizer


def _obstacle(optimizer: Optimizer) -> str | None:
    """What the fused kernel refuses, or computes wrongly."""
    for option in ("capturable", "differentiable"):
        if optimizer.defaults.get(option):
            return f"{option}=True"
    for group in optimizer.param_groups:
        if any(isinstance(value, Tensor) for value in (group["lr"], *group.get("betas", ()))):
            return "an option that is a tensor"
        for parameter in group["params"]:
            if type(parameter) not in (Tensor, nn.Parameter):
                return f"weights of {type(parameter).__name__}"
            if not parameter.is_floating_point():
                return f"weights of {_name(parameter)}"
            if parameter.device.type not in DEVICES[type(optimizer)]:
                return f"weights on {parameter.device.type}"
            if torch.empty_like(parameter).stride() != parameter.stride():
                return "weights with gaps or overlaps in memory"
            if type(optimizer) is SGD and parameter.device.type == "cpu" and parameter.dtype.itemsize < 4:
                return f"weights of {_name(parameter)} on the CPU, which torch's kernel leaves as they are"
    return None


class _Layout:
    """Before a step, after its closure: gradients get the layout of their weights; sparse ones need another kernel."""

    def __init__(self, written: bool) -> None:
        self.written = written

    def __call__(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self.prepare(optimizer)
            return None

        def prepared() -> Any:
            loss = closure()
            self.prepare(optimizer)
            return loss

        return (args[0], prepared), {key: value for key, value in kwargs.items() if key != "closure"}

    def prepare(self, optimizer: Optimizer) -> None:
        if not optimizer.param_groups[0]["fused"]:
            return
        for parameter in _parameters(optimizer):
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.layout is not torch.strided:
                self._without(optimizer)
                return
            if gradient.stride() != parameter.stride():
                parameter.grad = _laid_out(gradient, parameter)

    def _without(self, optimizer: Optimizer) -> None:
        if self.written:
            raise ConfigError("optimizer.fused", True, f"null: {type(optimizer).__name__} meets sparse gradients")
        for options in (optimizer.defaults, *optimizer.param_groups):
            options["fused"] = False
        _say(optimizer, "sparse gradients")


def _lay_out_state(optimizer: Optimizer) -> None:
    """After a checkpoint was loaded: its weights may have been laid out otherwise."""
    for parameter in _parameters(optimizer):
        state = optimizer.state.get(parameter, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = _laid_out(value, parameter)


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    return torch.empty_like(like, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@rank_zero_only
def _say(optimizer: Optimizer, obstacle: str | None) -> None:
    print(f"{type(optimizer).__name__} runs without its fused kernel: {obstacle}", file=sys.stderr)
