"""The sharpness-aware perturbation as plain functions, also for hand-written loops."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_ft.core.passes.randomness import Randomness
from lit_ft.core.passes.second_pass import without_trace
from lit_ft.core.passes.state import State


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The euclidean norm of all tensors together, in float32 or better.

    Example:
        >>> total_norm([torch.tensor([3.0]), torch.tensor([0.0, 4.0])])
        tensor(5.)
    """
    if not tensors:
        return torch.zeros(())
    real = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in tensors]
    wide = torch.float64 if any(t.dtype == torch.float64 for t in real) else torch.float32
    norms = torch._foreach_norm(real, 2, dtype=wide)
    return torch.linalg.vector_norm(torch.stack(list(norms)))


def perturbation(
    gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    rho: float,
    adaptive: bool = False,
    eta: float = 0.01,
    norm: Tensor | None = None,
) -> list[Tensor]:
    r"""The perturbation of the weights towards higher loss.

    SAM: :math:`e = \rho\, g / (\|g\| + 10^{-12})`. ASAM: :math:`e = \rho\, T^2 g / (\|T g\| + 10^{-12})` with
    :math:`T = |w| + \eta` elementwise. The norm goes over all tensors together.

    Args:
        gradients: The gradient, one tensor a parameter.
        weights: The parameters, in the same order.
        rho: Radius, in units of the weights (SAM) or of relative change (ASAM).
        adaptive: Use the perturbation of ASAM.
        eta: ASAM's offset, which lets zero weights move (0.01 in the paper).
        norm: The norm of the gradient, if it is already known.

    See also: :func:`sam_step`, which takes the whole step.

    Example:
        >>> perturbation([torch.tensor([3.0, 4.0])], [torch.ones(2)], rho=0.5)  # 0.5 times (3, 4) / 5
        [tensor([0.3000, 0.4000])]
    """
    gradients = list(gradients)
    if not adaptive:
        factor = rho / ((total_norm(gradients) if norm is None else norm) + 1e-12)
        return [gradient * factor.to(gradient) for gradient in gradients]
    scales = [weight.detach().abs() + eta for weight in weights]
    scaled = torch._foreach_mul(gradients, scales)
    factor = rho / (total_norm(scaled) + 1e-12)
    return [t * scale * factor.to(t) for t, scale in zip(scaled, scales, strict=True)]


@contextmanager
def perturbed(parameters: Sequence[Tensor], step: Sequence[Tensor]) -> Iterator[None]:
    """Move the parameters by ``step``; on exit they are restored bit by bit.

    Example:
        >>> weight = torch.zeros(2)
        >>> with perturbed([weight], [torch.tensor([0.3, 0.4])]):
        ...     print(weight)
        tensor([0.3000, 0.4000])
        >>> weight
        tensor([0., 0.])
    """
    parameters = list(parameters)
    with torch.no_grad():
        storages = [parameter.data for parameter in parameters]
        before = [storage.clone() for storage in storages]
        if parameters:
            torch._foreach_add_(parameters, list(step))
    del step  # not needed while the caller holds memory for the second pass
    try:
        yield
    finally:
        with torch.no_grad():
            # copied back: subtracting the step would leave its rounding error in the weights
            for parameter, storage, value in zip(parameters, storages, before, strict=True):
                if parameter.data_ptr() != storage.data_ptr():  # a step set parameter.data
                    parameter.data = storage
                parameter.copy_(value)


def sam_step(
    module: nn.Module,
    optimizer: Optimizer | LightningOptimizer,
    closure: Callable[[], Any],
    rho: float = 0.05,
    adaptive: bool = False,
) -> Any:
    """One sharpness-aware step for manual optimisation and hand-written loops.

    In a LightningModule with ``automatic_optimization = False``::

        def closure():
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        sam_step(self, self.optimizers(), closure)

    The second pass repeats the randomness of the first, starts from the same state of the module (buffers, momentum
    networks, counters), leaves it as the first pass left it, and does not log. Works under autocast, an fp16 scaler and
    DDP, as ``manual_backward`` does. Hooks on backward fire twice.

    Args:
        module: The module that the closure runs.
        optimizer: The optimizer, which steps with the gradient at the perturbed weights.
        closure: Computes the loss of the batch and its gradient, without zeroing gradients; runs twice.
        rho: Radius.
        adaptive: ASAM.

    Returns:
        The value of the closure at the unperturbed weights.

    See also: :class:`~lit_ft.callbacks.SAM`, which needs no own loop.

    Example:
        >>> module = nn.Linear(1, 1, bias=False)
        >>> module.weight.data = torch.ones(1, 1)
        >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        >>> def closure():
        ...     loss = module.weight.square().sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> _ = sam_step(module, optimizer, closure, rho=0.05)
        >>> module.weight.data  # 1 - 0.1 * 1.05
        tensor([[0.8950]])
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    trainer, randomness = getattr(module, "_trainer", None), Randomness()
    before = State(module, trainer, statistics=False)
    optimizer.zero_grad()
    with before.watching(trained=False):
        result = closure()
    moved = [p for p in parameters if p.grad is not None]
    step = perturbation([p.grad for p in moved if p.grad is not None], moved, rho, adaptive)
    with without_trace(trainer, module, before.written()[0]), perturbed(moved, step):
        randomness.restore()
        before.restore(trained=False)
        for parameter in parameters:
            parameter.grad = None
        closure()
    optimizer.step()
    return result
