"""How much the output of a network depends on each of its units."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.passes.means import sum_over_ranks
from lit_ft.core.selection.units import network_units
from lit_ft.sparse.fisher import Batches, batch_gradients


class UnitImportance:
    r"""Importance of heads or feed-forward units, in [0, 1), for :class:`~lit_ft.callbacks.SoftMask`.

    With a gate :math:`g_u = 1` on the output of unit u, :math:`I_u = E\,|\partial L / \partial g_u|` over batches. The
    gate scales the unit's column of the output matrix W, so :math:`\partial L / \partial g_u = \langle W_{:u}, \partial
    L / \partial W_{:u} \rangle`, and no gate is built. Within each block :math:`\hat I_u = |\tanh((I_u - \text{mean}) /
    \text{std})|`; all rows and columns of a unit have this value.

    Cost: one forward and backward pass per batch. The module runs in evaluation mode, without side effects. Under
    several processes the mean is over the batches of all of them, so that all get the same values.

    Source: CoFiTune, H. Zhang et al., "Balancing Speciality and Versatility", 2024, arXiv 2404.10306. Deviations: L is
    the module's loss on data of the skill that is to be kept; the authors have no such data and take the divergence of
    two passes with dropout. Absolute values are averaged, as in the paper; in the authors' code, signs can cancel.

    Args:
        data: A data module (its training batches are read) or, in Python, an iterable of batches.
        num_batches: Number of batches that each process reads.
        unit: ``head`` or ``feed_forward``.
        loss: In Python, (module, batch) to a loss; None takes the module's own.

    Example:
        >>> from lit_ft.core.network import Network
        >>> from lit_ft.models import causal_lm
        >>> network = causal_lm(Network(config={"model_type": "gpt2", "n_embd": 4, "n_head": 2, "n_layer": 2}))
        >>> loss = lambda network, ids: network(input_ids=ids, labels=ids).loss
        >>> found = UnitImportance([torch.arange(9)[None]], unit="head", loss=loss).measure(network)
        >>> found["transformer.h.0.attn.c_proj.weight"].T  # two heads are equally far from their mean
        tensor([[0.6089, 0.6089, 0.6089, 0.6089]])
    """

    def __init__(
        self,
        data: Batches,
        num_batches: int = 16,
        unit: Literal["head", "feed_forward"] = "feed_forward",
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
    ) -> None:
        if num_batches < 1:
            raise ConfigError("num_batches", num_batches, "a whole number of at least 1")
        if unit not in ("head", "feed_forward"):
            raise ConfigError("unit", unit, "head or feed_forward")
        self.data, self.num_batches, self.unit, self.loss = data, num_batches, unit, loss

    def measure(self, module: nn.Module) -> dict[str, Tensor]:
        """For each parameter with units, one number per row (rows, 1), per column (1, columns) or per bias."""
        index = ParameterIndex(module)
        units = network_units(index, self.unit)
        blocks = torch.tensor([index[next(iter(unit))].block for unit in units])
        numbers, counts = blocks.unique(return_counts=True)
        if counts.min() < 2:
            block = int(numbers[counts.argmin()])
            raise ConfigError(
                "unit", self.unit, f"several of them in each block, to be compared; block {block} has one"
            )
        outputs = {name for unit in units for name in unit if index[name].role.endswith((".out", ".output"))}
        weights = {name: index[name].parameter for name in outputs}
        total = torch.zeros(len(units))
        for gradients in batch_gradients(module, weights, self.data, self.num_batches, self.loss):
            slopes = {name: (weights[name].detach().float() * gradient).cpu() for name, gradient in gradients.items()}
            for place, unit in enumerate(units):
                held = [(slopes[name], *part) for name, part in unit.items() if name in slopes]
                total[place] += abs(sum(float(slope.index_select(dim, rows).sum()) for slope, dim, rows in held))
        sum_over_ranks(total)
        found: dict[str, Tensor] = {}
        for block in numbers:
            inside = (blocks == block).nonzero().flatten()
            values = total[inside]
            shares = ((values - values.mean()) / values.std().clamp_min(1e-12)).tanh().abs()
            for place, share in zip(inside.tolist(), shares, strict=True):
                for name, (dim, rows) in units[place].items():
                    shape = index[name].parameter.shape
                    if name not in found:
                        found[name] = torch.zeros([size if d == dim else 1 for d, size in enumerate(shape)])
                    found[name].index_fill_(dim, rows, float(share))
        return found
