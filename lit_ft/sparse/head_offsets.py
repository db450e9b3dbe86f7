"""Offsets for a few attention heads, which fold into a bias."""

from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from typing_extensions import override

from lit_ft.core.checks import NonNegativeFloat, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.roles import head_counts, output_dim
from lit_ft.core.selection.base import Choices, Selection
from lit_ft.running.warm_start import WarmStart
from lit_ft.sparse.file import save_selection
from lit_ft.sparse.two_phases import TwoPhases


class _HeadScales(nn.Module):
    """The weight with its inputs scaled by 1 + A while ``on``."""

    def __init__(self, weight: Tensor, inputs: int) -> None:
        super().__init__()
        self.inputs, self.on = inputs, True
        self.scales = nn.Parameter(weight.new_zeros(weight.shape[inputs]))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.on:
            return weight
        return weight * (1 + (self.scales if self.inputs == 1 else self.scales[:, None]))


class _HeadOffsets(nn.Module):
    """The bias plus the product of the weight and the offsets of the chosen heads while ``on``."""

    def __init__(self, weight: Tensor, inputs: int) -> None:
        super().__init__()
        self.inputs, self.on = inputs, False
        self.offsets = nn.Parameter(weight.new_zeros(weight.shape[inputs]))
        self.chosen: Tensor = torch.zeros_like(self.offsets, requires_grad=False)
        self._weight = [weight]  # in a list: it is the owner's parameter

    def forward(self, bias: Tensor) -> Tensor:
        if not self.on:
            return bias
        with torch.autocast(bias.device.type, enabled=False):
            moved = (self.offsets * self.chosen).unsqueeze(1 - self.inputs)
            return bias + (self._weight[0] * moved).sum(self.inputs)


class HeadOffsets(TwoPhases):
    r"""Localised fine-tuning (LoFiT): finds the heads that matter to a task, and trains an offset for each.

    The output z_h of a head h goes into the output projection W as :math:`z'_h = (1 + A_h) \odot z_h + v_h`. For
    ``first_steps`` the scales A of all heads are trained (v = 0) with :math:`\lambda \lVert A \rVert_1` on the loss;
    the ``density`` of heads with the largest :math:`\lVert A_h \rVert_2` is kept; the rest of the run trains their v,
    with A back at 0. All other weights are frozen, but for ``dense`` ones, which begin anew in the second phase.

    Since :math:`W(z + v) + b = Wz + (b + Wv)`, training uses the bias :math:`b + Wv` itself: checkpoints and the
    network after the fit have it as a plain bias and equal the trained network exactly; a run that ends in its first
    phase does not change those weights. The projection needs a bias: ``network: {attention_bias: true}`` adds zero
    biases where there are none, as in Llama, and ``lit-ft export`` writes them with the matching configuration.

    Refuses: more than one device; a place before ``WarmStart``. Cost: a product of W and v a step, and in the first
    phase the gradient of W; no optimizer states of other weights.

    Source: F. Yin et al., "LoFiT: Localized Fine-tuning on LLM Representations", 2024, arXiv 2406.01563. Deviations: A
    and v begin at 0, not at draws of 1e-3; one learning rate and schedule for both phases (paper: 5e-3, then 1e-2).

    Args:
        first_steps: Optimizer steps of the first phase, or a share of all steps in (0, 1).
        density: Share of the query heads of all blocks that gets offsets, in (0, 1]. Paper: about 0.03 to 0.1.
        penalty: Weight of the L1 norm of the scales, at least 0. Paper: 5e-4.
        selection: Known heads (``Heads``, ``SavedSelection``), as columns of the output projections; the whole run is
            then a second phase.
        dense: Shell globs of parameters that are trained as a whole (a fresh head of a classifier).
        file: Name of a file in the trainer's ``default_root_dir`` for the heads, for ``SavedSelection``.

    Example:
        >>> from lit_ft.data import KnownFacts
        >>> from lit_ft.methods import SupervisedFineTuning
        >>> from lit_ft.testing import fit_foreign
        >>> gpt2 = {"model_type": "gpt2", "tokenizer": "bytes", "n_embd": 8, "n_head": 2, "n_layer": 2}
        >>> offsets = HeadOffsets(first_steps=1, density=0.25)  # one of four heads
        >>> _ = fit_foreign([offsets], module=SupervisedFineTuning({"config": gpt2}), data=KnownFacts(4), max_steps=2)
        >>> offsets.report()["heads"], offsets.report()["numbers"]
        (1, 4)
    """

    needs = ("one device", "no other weights")
    after = (WarmStart,)
    forgets = ("heads", "_saved")

    def __init__(
        self,
        first_steps: int | float = 0.5,
        density: Annotated[float, Range(above=0, high=1)] = 0.03,
        penalty: NonNegativeFloat = 5.0e-4,
        selection: Selection | None = None,
        dense: list[str] | None = None,
        file: str | None = None,
    ) -> None:
        super().__init__(first_steps)
        checked(locals())
        self.density, self.penalty, self.selection, self.dense, self.file = density, penalty, selection, dense, file
        self._places: dict[str, nn.Module] = {}
        self._scales: dict[str, _HeadScales] = {}
        self._offsets: dict[str, _HeadOffsets] = {}
        self._paths: dict[str, str] = {}
        self._flags: dict[nn.Parameter, bool] = {}
        self._count, self._width = 0, 0
        self.heads: list[tuple[str, int]] = []
        self._saved: dict[str, Any] = {}

    @override
    def settled(self) -> tuple[str, ...]:
        return ("selection", "dense", *(("first_steps", "density", "penalty") if self.second else ()))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put scales and offsets on, after other weights were loaded, and make a new optimizer."""
        index = ParameterIndex(pl_module)
        self._places = {e.name: e.module for e in index.values() if e.role == "attention.output" and not e.bias}
        self._count, _ = head_counts(index.network)
        if not self._places or not self._count:
            kind = type(index.network).__name__
            raise ConfigError("network", kind, "a network with attention whose config tells the number of heads")
        bare = next((name for name, module in self._places.items() if getattr(module, "bias", None) is None), None)
        if bare is not None:
            allowed = "network: {attention_bias: true}, which adds zero biases for the offsets to fold into"
            raise ConfigError("network.attention_bias", f"no bias beside {bare}", allowed)
        whole = set(index.match(self.dense)) if self.dense else set()
        if self.selection is not None and not self._saved:
            self.second, self.heads = True, self._heads_of(self.selection.select(pl_module))
        names = {id(module): path for path, module in pl_module.named_modules()}
        self._flags = {parameter: parameter.requires_grad for parameter in index.parameters.values()}
        for name, parameter in index.parameters.items():
            parameter.requires_grad_(name in whole)
        for name, module in self._places.items():
            weight, bias = index[name].parameter, module.bias
            inputs = 1 - output_dim(module, weight)
            self._width = weight.shape[inputs] // self._count
            scales, offsets = _HeadScales(weight, inputs), _HeadOffsets(weight, inputs)
            self._paths[name] = names[id(module)]
            if name in self._saved:
                with torch.no_grad():
                    bias.copy_(self._saved[name]["bias"])  # type: ignore[operator, union-attr]
                    scales.scales.copy_(self._saved[name]["scales"])
                    offsets.offsets.copy_(self._saved[name]["offsets"])
            self._scales[name], self._offsets[name] = scales, offsets
            parametrize.register_parametrization(module, "weight", scales)
            parametrize.register_parametrization(module, "bias", offsets)
        self._saved = {}
        trainer.strategy.setup_optimizers(trainer)

    def _heads_of(self, choices: Choices) -> list[tuple[str, int]]:
        found = []
        for name, module in self._places.items():
            choice, inputs = choices[name], 1 - output_dim(module, module.weight)  # type: ignore[arg-type]
            if isinstance(choice, Tensor):
                columns = choice.movedim(inputs, 0).flatten(1).all(1).view(self._count, -1).all(1)
                found += [(name, int(head)) for head in columns.nonzero()]
            elif choice:
                found += [(name, head) for head in range(self._count)]
        if not found:
            raise ConfigError("selection", type(self.selection).__name__, "a selection of whole heads")
        return found

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Add the gradient of the penalty."""
        for part in self._scales.values():
            if self.penalty and part.scales.grad is not None:
                part.scales.grad.add_(part.scales.detach().sign(), alpha=self.penalty)

    def turn(self, trainer: pl.Trainer, index: ParameterIndex) -> None:
        """Choose the heads with the largest scales, and restore the initial weights."""
        norms = torch.stack([s.scales.detach().view(self._count, -1).norm(dim=1) for s in self._scales.values()])
        names, number = list(self._scales), max(1, round(self.density * norms.numel()))
        best = norms.flatten().argsort(descending=True, stable=True)[:number].tolist()
        self.heads = [(names[place // self._count], place % self._count) for place in sorted(best)]
        self.rewind(index)
        self.resume(trainer, index)

    def resume(self, trainer: pl.Trainer, index: ParameterIndex) -> None:
        """Switch scales off and the offsets of the chosen heads on."""
        for name, offsets in self._offsets.items():
            self._scales[name].on, offsets.on = False, True
            self._scales[name].scales.grad = None
            offsets.chosen = torch.zeros_like(offsets.offsets, requires_grad=False)
            for place, head in self.heads:
                if place == name:
                    offsets.chosen.view(self._count, -1)[head] = 1

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save plain names with the folded bias; in the first phase, the unchanged weights."""
        state = checkpoint["state_dict"]
        for name, module in self._places.items():
            prefix = f"{self._paths[name]}."
            state[f"{prefix}weight"] = state.pop(f"{prefix}parametrizations.weight.original")
            state.pop(f"{prefix}parametrizations.weight.0.scales")
            state.pop(f"{prefix}parametrizations.bias.0.offsets")
            state.pop(f"{prefix}parametrizations.bias.original")
            state[f"{prefix}bias"] = module.bias.detach().clone()  # type: ignore[operator, union-attr]

    def state_dict(self) -> dict[str, Any]:
        """The phase, the heads, scales and offsets, and the biases without them."""
        values = self._saved or {
            name: {
                "scales": self._scales[name].scales.detach().clone(),
                "offsets": self._offsets[name].offsets.detach().clone(),
                "bias": module.parametrizations["bias"].original.detach().clone(),  # type: ignore[index, union-attr]
            }
            for name, module in self._places.items()
        }
        heads = [list(head) for head in self.heads]
        return {**super().state_dict(), "values": values, "heads": heads, "width": self._width}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._saved, self._width = state_dict["values"], state_dict["width"]
        self.heads = [(name, head) for name, head in state_dict["heads"]]

    def choices(self) -> Choices:
        """The columns of the output projections that belong to the heads."""
        chosen: dict[str, Tensor] = {}
        for name, head in self.heads:
            module = self._places[name]
            weight: Tensor = module.weight  # type: ignore[assignment]
            mask = chosen.setdefault(name, torch.zeros(weight.shape, dtype=torch.bool))
            mask.narrow(1 - output_dim(module, weight), head * self._width, self._width).fill_(True)  # type: ignore[arg-type]
        return dict(chosen)

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Fold the offsets into the biases, and write the heads."""
        if self._scales:
            self._saved = self.state_dict()["values"]  # a checkpoint may yet be written
            for owner in self._places.values():
                folded = owner.bias.detach().clone()  # type: ignore[operator, union-attr]
                for leaf in ("weight", "bias"):  # in the order they had: optimizers count parameters
                    parametrize.remove_parametrizations(owner, leaf, leave_parametrized=False)
                with torch.no_grad():
                    owner.bias.copy_(folded)  # type: ignore[operator, union-attr]
            for parameter, flag in self._flags.items():
                parameter.requires_grad_(flag)
            if self.file is not None and self.heads and trainer.is_global_zero:
                save_selection(Path(trainer.default_root_dir) / self.file, self.choices(), module)
        self._places, self._scales, self._offsets, self._flags, self._paths = {}, {}, {}, {}, {}

    def report(self) -> dict[str, Any]:
        """Number of heads with offsets, number of trained numbers, and the heads by projection."""
        by_place = {name: [head for place, head in self.heads if place == name] for name in dict(self.heads)}
        return {"heads": len(self.heads), "numbers": len(self.heads) * self._width, "by_place": by_place}
