"""Floating-point operations of a pass, and how many of them a processor that skips zeros would need."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def attention_forward(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Operations of fused attention, from the shapes of its tensors.

    Example:
        >>> shape = (1, 2, 3, 4)  # rows, heads, tokens, width
        >>> attention_forward(shape, shape, shape)  # two products of 2 x 3 x 3 x 4, two operations each
        288
    """
    return sdpa_flop_count(query, _shared(key, query), _shared(value, query))


def attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Operations of the backward pass of fused attention, which computes the scores again.

    Example:
        >>> shape = (1, 2, 3, 4)
        >>> attention_backward(shape, shape, shape, shape)  # five products instead of two
        720
    """
    return sdpa_backward_flop_count(grad, query, _shared(key, query), _shared(value, query))


def _shared(shape: Any, query: Any) -> Any:
    """The shape of keys and values with the heads of the queries: shared ones count once for each query head."""
    return (*query[:2], *shape[2:])


# torch's own table lacks the kernel of the CPU, and fails where heads share keys
_ATTENTION: Any = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}{way}"): formula
    for kernel in ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
    for way, formula in (("", attention_forward), ("_backward", attention_backward))
}


class Flops:
    r"""Counts the operations of matrix products (linear layers, convolutions, attention), two per multiplication.

    ``total`` is the number of all operations. ``nonzero`` leaves out those with zero weights: a module whose weight has
    the share :math:`s` of entries other than zero costs :math:`s F` forward, :math:`s F` for the gradient of its input
    and :math:`s F` for that of its weight, where :math:`F` is its forward count and each is counted only if it is
    computed. Attention between tokens, and weights that are used without calling their module, count in full.
    Elementwise operations do not count, as usual.

    Example:
        >>> flops, layer = Flops(), nn.Linear(4, 3)
        >>> layer.weight.data[0] = 0.0
        >>> flops.count_zeros(layer)
        >>> with flops.counting(layer), torch.no_grad():
        ...     _ = layer(torch.ones(2, 4))
        >>> flops.total, round(flops.nonzero)  # 2 rows, 4 inputs, 3 outputs, two operations each
        (48, 32)
    """

    def __init__(self) -> None:
        self.total, self.nonzero = 0, 0.0
        self.shares: dict[str, float] = {}

    def count_zeros(self, module: nn.Module) -> None:
        """Take the share of non-zero entries of every weight matrix from the weights as they are now."""
        with torch.no_grad():
            weights = {name: getattr(child, "weight", None) for name, child in module.named_modules()}
            self.shares = {
                name: int(weight.count_nonzero()) / weight.numel()
                for name, weight in weights.items()
                if isinstance(weight, Tensor) and weight.ndim > 1
            }

    @contextmanager
    def counting(self, module: nn.Module) -> Iterator[None]:
        """Add the operations that run inside, backward passes included, to the counts. Results do not change."""
        shares = {child: self.shares[name] for name, child in module.named_modules() if name in self.shares}
        begun: dict[nn.Module, int] = {}
        differentiated: set[nn.Module] = set()
        saved = 0.0

        def before(child: nn.Module, args: Any) -> None:
            begun[child] = counter.get_total_flops()

        def after(child: nn.Module, args: Any, output: Any) -> None:
            nonlocal saved
            passes = 1
            on_the_way_back = torch._C._current_graph_task_id() != -1
            again = on_the_way_back and child in differentiated  # by checkpointing
            if torch.is_grad_enabled() and not again:
                differentiated.add(child)
                weight, inputs = child.weight, (value for value in args if isinstance(value, Tensor))
                passes += bool(weight.requires_grad) + any(value.requires_grad for value in inputs)  # type: ignore[union-attr]
            saved += (1 - shares[child]) * passes * (counter.get_total_flops() - begun.pop(child))

        with ExitStack() as stack:
            for child in shares:
                stack.callback(child.register_forward_pre_hook(before).remove)
                stack.callback(child.register_forward_hook(after).remove)
            counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=_ATTENTION))
            try:
                yield
            finally:
                self.total += counter.get_total_flops()
                self.nonzero += counter.get_total_flops() - saved
