"""Matrices J' C J with a curvature C that is known in closed form at the outputs: Gauss-Newton and Fisher."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.curvature.objective import Objective
from lit_ft.curvature.operators import explained

Outputs = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
IGNORED = -100


class OutputCurvature:
    r"""The mean over rows n of :math:`J_n^\top C_n J_n`, with J the Jacobian of the outputs of a row.

    ==================  ==============================  ==================================
    ``matrix``          cross-entropy                   squared error :math:`|z-y|^2/2`
    ==================  ==============================  ==================================
    gauss_newton        :math:`diag(p) - pp^\top`       :math:`I`
    true_fisher         the same                        the same (unit variance)
    empirical_fisher    :math:`(p-y)(p-y)^\top`         :math:`(z-y)(z-y)^\top`
    ==================  ==============================  ==================================

    For these two losses the Fisher matrix with labels drawn from the model *is* the Gauss-Newton matrix, so no label is
    sampled. A row is anything with a target, an example or a token; the empirical Fisher of a language model is that of
    tokens. Positive semi-definite, and cheap in memory for wide outputs: no second derivative of the softmax is built.

    Args:
        objective: Module, batches, parameters; its loss is not used. Use the operator inside
            ``objective.evaluating()``.
        outputs: ``outputs(module, batch)`` gives logits or predictions ``[..., C]`` and targets: class numbers
            ``[...]`` (-100 is left out) or values ``[..., C]``.
        loss: ``cross_entropy`` or ``squared_error``.
        matrix: See the table.
        keep_graphs: As in ``Hessian``.

    See also: :class:`~lit_ft.curvature.operators.Hessian`.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> objective = Objective(nn.Linear(2, 1, bias=False), [x], loss=lambda module, x: module(x).square().mean())
        >>> outputs = lambda module, x: (module(x), torch.zeros(2, 1))
        >>> with objective.evaluating():
        ...     OutputCurvature(objective, outputs, loss="squared_error").apply(torch.eye(2))
        tensor([[2.0000, 0.0000],
                [0.0000, 0.5000]])
    """

    def __init__(
        self,
        objective: Objective,
        outputs: Outputs,
        loss: Literal["cross_entropy", "squared_error"] = "cross_entropy",
        matrix: Literal["gauss_newton", "true_fisher", "empirical_fisher"] = "gauss_newton",
        keep_graphs: bool | None = None,
    ) -> None:
        if loss not in ("cross_entropy", "squared_error"):
            raise ConfigError("loss", loss, "cross_entropy or squared_error")
        if matrix not in ("gauss_newton", "true_fisher", "empirical_fisher"):
            raise ConfigError("matrix", matrix, "gauss_newton, true_fisher or empirical_fisher")
        self.objective, self.outputs, self.size = objective, outputs, objective.size
        self.dtype, self.device, self.products = objective.dtype, objective.device, 0
        self.cross_entropy, self.empirical = loss == "cross_entropy", matrix == "empirical_fisher"
        self.single = objective.one_batch if keep_graphs is None else keep_graphs
        self._graphs: list[tuple[Tensor, ...]] | None = None

    def _graphs_of_batches(self) -> Any:
        if self._graphs is not None:
            yield from self._graphs
            return
        kept = []
        for batch in self.objective.batches:
            z, target = self.outputs(self.objective.module, move_data_to_device(batch, self.device))
            if self.cross_entropy:
                rows = target.reshape(-1) != IGNORED
                z, target = z.reshape(-1, z.shape[-1])[rows], target.reshape(-1)[rows]
            else:
                z, target = z.reshape(-1, z.shape[-1]), target.reshape(-1, target.shape[-1])
            # J'u is linear in u, so its derivative along v is (J v)': forward mode by two backward passes
            dummy = torch.zeros_like(z, requires_grad=True)
            with explained():
                pulled = torch.autograd.grad(z, self.objective.parameters, dummy, create_graph=True, allow_unused=True)
            graph = (z, target, dummy, *pulled)
            if self.single:
                kept.append(graph)
            yield graph
            del graph, pulled, z
        if self.single:
            self._graphs = kept

    def _curve(self, z: Tensor, target: Tensor, u: Tensor) -> Tensor:
        """C u for each row."""
        z, u = z.detach(), u.detach()
        if not self.cross_entropy and not self.empirical:
            return u
        if not self.cross_entropy:
            error = z - target
        else:
            p = z.float().softmax(-1).to(z.dtype) if z.dtype.itemsize < 4 else z.softmax(-1)
            if not self.empirical:
                return p * u - p * (p * u).sum(-1, keepdim=True)
            error = p - torch.nn.functional.one_hot(target, z.shape[-1])
        return error * (error * u).sum(-1, keepdim=True)

    def apply(self, block: Tensor) -> Tensor:
        """The products with the rows of ``block`` ``[m, size]``."""
        objective = self.objective
        total = torch.zeros(len(block) + 1, self.size, dtype=self.dtype, device=self.device)
        count = 0
        for z, target, dummy, *pulled in self._graphs_of_batches():
            count += len(z)
            for row, out in zip(block, total[:-1], strict=True):
                pairs = [(p, v) for p, v in zip(pulled, objective.shaped(row), strict=True) if p is not None]
                with explained():
                    (pushed,) = torch.autograd.grad(
                        [p for p, _ in pairs], dummy, [v for _, v in pairs], retain_graph=True
                    )
                curved = self._curve(z, target, pushed)
                pulled_back = torch.autograd.grad(z, objective.parameters, curved, retain_graph=True, allow_unused=True)
                out += objective.flat(pulled_back)
        total[-1, 0] = count  # the number of rows travels with the sums
        objective.sum_over_ranks(total)
        self.products += len(block)
        return total[:-1] / total[-1, 0].clamp(min=1)
