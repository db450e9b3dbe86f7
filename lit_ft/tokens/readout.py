"""Losses and log-probabilities of tokens from hidden states, without the logits of a whole batch in memory.

A head over a vocabulary of V words turns n hidden states into n x V logits, by far the largest tensor of a small
network. Here they are computed for a few tokens at a time, and for targets only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lit_ft.core.passes.double_backward import double_backward_wanted
from lit_ft.tokens.losses import TokenLoss, plain_loss, targets_of

CHUNK = 2**22
"""Logits that are in memory at once."""


@dataclass
class Readout:
    """The output of a language model before its head.

    Args:
        states: Hidden states, shape (rows, tokens, width); logits if ``weight`` is None.
        weight: Weight of the head, shape (vocabulary, width).
        bias: Bias of the head, shape (vocabulary,).

    See also: :func:`~lit_ft.tokens.network.readout`, :func:`~lit_ft.tokens.losses.weighted_cross_entropy`.

    Example:
        >>> read = Readout(torch.zeros(1, 3, 2), weight=torch.zeros(4, 2))  # every token has probability 1 / 4
        >>> read.log_probs(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 0]]))
        tensor([[ 0.0000, -1.3863,  0.0000]])
        >>> read.loss(torch.tensor([[1, 2, 3]]), torch.tensor([[0.0, 0.5, 0.5]]))
        tensor(1.3863)
    """

    states: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None

    def loss(self, input_ids: Tensor, coefficients: Tensor, loss: TokenLoss = TokenLoss()) -> Tensor:  # noqa: B008
        r"""The sum of ``coefficients`` times losses of tokens.

        The gradient is computed in the forward pass, chunk by chunk, so that nothing is computed twice. Under
        :func:`~lit_ft.core.passes.double_backward.differentiable_twice` the plain form is used.

        Args:
            input_ids: Shape (rows, tokens).
            coefficients: Coefficient of each token as a target, shape (rows, tokens), from
                :func:`~lit_ft.tokens.losses.shares`.
            loss: The contribution of a token.
        """
        states, targets, coefficients = targets_of(self.states, input_ids, coefficients)
        if not len(targets):
            return self.states.sum().float() * 0.0
        if self.weight is None or double_backward_wanted():
            return plain_loss(self._logits(states), targets, coefficients, loss)
        # inside a Function autograd is off, so whether a gradient is wanted is asked here
        learning = torch.is_grad_enabled()
        inputs = (states, self.weight, self.bias, targets, coefficients.float())
        return _FormedInForward.apply(*inputs, loss, CHUNK, learning)

    def log_probs(self, input_ids: Tensor, wanted: Tensor) -> Tensor:
        """Log-probabilities of wanted tokens in float32, shape (rows, tokens); 0 elsewhere and at the first of a row.

        The logits are computed again in the backward pass.

        Args:
            input_ids: Shape (rows, tokens).
            wanted: Not 0, or True, at the wanted tokens; shape (rows, tokens).
        """
        wanted = wanted != 0
        states, targets, _ = targets_of(self.states, input_ids, wanted)
        if self.weight is None or double_backward_wanted():
            found = F.log_softmax(self._logits(states).float(), -1).gather(1, targets[:, None])[:, 0]
        else:
            found = _MadeAgain.apply(states, self.weight, self.bias, targets, CHUNK)
        result = torch.zeros(input_ids.shape, dtype=found.dtype, device=found.device)
        place = wanted.clone()
        place[:, 0] = False
        return result.masked_scatter(place, found)

    def _logits(self, states: Tensor) -> Tensor:
        return states if self.weight is None else F.linear(states, self.weight, self.bias)


class _Head:
    """The head in the type it is computed in: the given one, else that of autocast, else its own."""

    def __init__(self, states: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None = None) -> None:
        device = states.device.type
        own = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        self.dtype = own if dtype is None else dtype
        self.states, self.weight = states.to(self.dtype), weight.to(self.dtype)
        self.bias = None if bias is None else bias.to(self.dtype)

    def probabilities(self, part: slice, targets: Tensor, mean: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Softmax, log-probabilities of targets, and means of log-probabilities; in float32."""
        logits = F.linear(self.states[part], self.weight, self.bias).float()
        top = logits.amax(-1, keepdim=True)
        logits -= top
        chosen = logits.gather(1, targets[part, None])[:, 0]
        average = logits.mean(-1) if mean else chosen
        total = logits.exp_().sum(-1)
        return logits.div_(total[:, None]), chosen - total.log(), average - total.log()


class _Gradients:
    """Sums the gradients that flow back through the head."""

    def __init__(self, head: _Head, needed: tuple[bool, ...]) -> None:
        self.head = head
        self.states = torch.empty_like(head.states) if needed[0] else None
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.needed = needed

    def add(self, part: slice, flow: Tensor) -> None:
        """Add a chunk: ``flow`` is the gradient of its logits."""
        flow = flow.to(self.head.dtype)
        if self.states is not None:
            torch.mm(flow, self.head.weight, out=self.states[part])
        if self.needed[1]:
            if self.weight is None:
                self.weight = torch.mm(flow.t(), self.head.states[part]).float()
            elif self.weight.dtype == flow.dtype:
                self.weight.addmm_(flow.t(), self.head.states[part])
            else:
                self.weight += torch.mm(flow.t(), self.head.states[part])
        if self.needed[2]:
            found = flow.float().sum(0)
            self.bias = found if self.bias is None else self.bias + found


def _parts(tokens: int, vocabulary: int, chunk: int) -> list[slice]:
    step = max(1, chunk // vocabulary)
    return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]


class _FormedInForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        coefficients: Tensor,
        loss: TokenLoss,
        chunk: int,
        learning: bool,
    ) -> Tensor:
        head = _Head(states, weight, bias)
        needed = tuple(learning and need for need in ctx.needs_input_grad[:3])
        gradients = _Gradients(head, needed)
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        with torch.autocast(states.device.type, enabled=False):
            for part in _parts(len(targets), weight.shape[0], chunk):
                flow, log_probs, mean = head.probabilities(part, targets, bool(loss.label_smoothing))
                if not any(needed):
                    total += loss(log_probs, mean, coefficients[part]).sum()
                    continue
                value, own, spread = _derivatives(loss, log_probs, mean, coefficients[part])
                total += value
                flow *= -own[:, None] if spread is None else -(own + spread)[:, None]
                if spread is not None:
                    flow += (spread / weight.shape[0])[:, None]
                flow[torch.arange(len(own), device=own.device), targets[part]] += own
                gradients.add(part, flow)
        ctx.found, ctx.types = gradients, (states.dtype, weight.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        found, types = ctx.found, ctx.types
        states = None if found.states is None else (found.states * outer).to(types[0])
        weight = None if found.weight is None else (found.weight * outer).to(types[1])
        bias = None if found.bias is None else (found.bias * outer).to(types[1])
        return states, weight, bias, None, None, None, None, None


def _derivatives(
    loss: TokenLoss, log_probs: Tensor, mean: Tensor, coefficients: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The summed loss, and its derivatives by the log-probability of targets and by the mean one."""
    if loss.is_plain:
        return -(coefficients * log_probs).sum(), -coefficients, None
    with torch.enable_grad():
        inputs = (log_probs.detach().requires_grad_(), mean.detach().requires_grad_())
        value = loss(*inputs, coefficients).sum()
        own, spread = torch.autograd.grad(value, inputs, allow_unused=True)
    return value.detach(), own, spread


class _MadeAgain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        ctx.save_for_backward(states, weight, bias, targets)
        head = _Head(states, weight, bias)
        ctx.chunk, ctx.dtype = chunk, head.dtype  # autocast is over, and its type forgotten, when backward runs
        with torch.autocast(states.device.type, enabled=False):
            parts = _parts(len(targets), weight.shape[0], chunk)
            found = [head.probabilities(part, targets, False)[1] for part in parts]
        return torch.cat(found) if found else states.new_zeros(0, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets = ctx.saved_tensors
        head = _Head(states, weight, bias, ctx.dtype)
        gradients = _Gradients(head, ctx.needs_input_grad[:3])
        with torch.autocast(states.device.type, enabled=False):
            for part in _parts(len(targets), weight.shape[0], ctx.chunk):
                flow = head.probabilities(part, targets, False)[0]
                flow *= -outer[part, None]
                flow[torch.arange(len(flow), device=flow.device), targets[part]] += outer[part]
                gradients.add(part, flow)
        cast = [None if g is None else g.to(t.dtype) for g, t in
                ((gradients.states, states), (gradients.weight, weight), (gradients.bias, weight))]  # fmt: skip
        if not len(targets):  # no chunk, so nothing was summed
            cast = [
                torch.zeros_like(t) if n else None
                for n, t in zip(ctx.needs_input_grad[:3], (states, weight, bias), strict=True)
            ]
        return cast[0], cast[1], cast[2], None, None
