"""Localise a skill in a fine-tuned network by a small, learned graft."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lit_ft.core.checks import NonNegativeFloat, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import training_ends
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Choices, Selection, as_mask
from lit_ft.sparse.file import save_selection
from lit_ft.sparse.scored import TopChange
from lit_ft.sparse.top import top_masks
from lit_ft.sparse.two_phases import TwoPhases


def soft_mask(score: Tensor, seed: Tensor) -> Tensor:
    r""":math:`\gamma = \gamma_0 (1 - \sigma(S)) + (1 - \gamma_0)\,\sigma(S)` for scores S and a seed mask.

    See also: :func:`score_gradient`.

    Example:
        >>> soft_mask(torch.tensor([-9.0, -9.0, 0.0]), seed=torch.tensor([False, True, False]))
        tensor([0.0001, 0.9999, 0.5000])
    """
    share = score.sigmoid()
    return torch.where(seed, 1 - share, share)


def score_gradient(gradient: Tensor, change: Tensor, score: Tensor, seed: Tensor) -> Tensor:
    r""":math:`\partial L / \partial S = (1 - 2\gamma_0)\,\sigma'(S)\,\tau\,\partial L / \partial\theta`.

    Args:
        gradient: :math:`\partial L / \partial\theta`.
        change: :math:`\tau`, tuned minus initial weights.
        score: S.
        seed: :math:`\gamma_0`, a boolean mask.

    Example:
        >>> gradient, change, seed = torch.full((2,), 2.0), torch.full((2,), 3.0), torch.tensor([False, True])
        >>> score_gradient(gradient, change, score=torch.zeros(2), seed=seed)  # 1/4 * 3 * 2
        tensor([ 1.5000, -1.5000])
    """
    share = score.sigmoid()
    slope = share * (1 - share) * change * gradient
    return torch.where(seed, -slope, slope)


class LearnedGraft(TwoPhases):
    r"""Skill localisation: fine-tunes, restores the start, and learns which few tuned weights carry the skill.

    The second phase trains scores S of a soft mask :math:`\gamma(S)` at :math:`\theta = \theta_0 + \gamma\,\tau`,
    :math:`\tau = \theta_1 - \theta_0`, by gradient descent with the closed gradient of ``score_gradient``; it starts
    from the entries with the largest change. At the end the mask is rounded: each entry has its tuned or its initial
    value, bit by bit. The module's optimizer does nothing in the second phase. Fine-tune with SGD: after Adam every
    weight has moved by about the same amount, and no small graft is enough. Clipping by norm does not affect the
    scores, and clipping by value is refused.

    Memory: three copies of the weights. Cost of a step: that of training.

    Source: A. Panigrahi et al., "Task-Specific Skill Localization in Fine-tuned Language Models", 2023, arXiv
    2302.06600. Deviations: all scores begin at ``-bias`` (the authors add uniform noise in [0, 1)); the mask of the
    last step is taken, not the best one of all; ``max_density`` keeps it small.

    Args:
        first_steps: Optimizer steps of the first phase, which makes the tuned weights, or a share of all in (0, 1).
        density: Share of the entries in the first mask, in (0, 1]. Paper: 1e-7 to 1e-2.
        lr: Step size of the scores. The slope at the start is :math:`\sigma'(-bias)`, so it is large (paper: 1e7).
        bias: Scores begin at its negative: the soft mask differs from the first mask by :math:`\sigma(-bias)`.
        max_density: Share of the entries in the rounded mask at most; None rounds at 1/2 alone.
        patterns: Shell globs of the parameters that are masked; None takes all.
        others: Whether the other parameters are the ``tuned`` ones (a fresh head) or those of the ``base``.
        selection: Name of a file in the trainer's ``default_root_dir`` (the run folder) for the rounded mask; None
            writes none.
        seed_mask: Selection of the first mask, within the patterns; None takes the largest changes. With ``lr: 0`` it
            is the graft itself, such as the random weights that a learned graft is compared with.

    See also: :func:`~lit_ft.sparse.graft.graft`, for a given mask; :class:`~lit_ft.callbacks.TaskRegions`.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> graft = LearnedGraft(first_steps=5, density=0.02)
        >>> module, _ = fit_foreign([graft], max_epochs=1)
        >>> moved = sum(int((weight != graft.base[name]).sum()) for name, weight in module.model.named_parameters())
        >>> graft.report()["entries"] == moved < graft.report()["of"]
        True
    """

    needs = (*TwoPhases.needs, "clipping by norm")
    forgets = ("tuned", "scores", "seeds", "rounded")

    def __init__(
        self,
        first_steps: int | float = 0.5,
        density: float = 0.001,
        lr: NonNegativeFloat = 1.0e7,
        bias: float = 10.0,
        max_density: float | None = None,
        patterns: list[str] | None = None,
        others: Literal["tuned", "base"] = "tuned",
        selection: str | None = None,
        seed_mask: Selection | None = None,
    ) -> None:
        super().__init__(first_steps)
        checked(locals())
        TopChange(density)  # says what is wrong with it
        if max_density is not None and not density <= max_density <= 1:
            raise ConfigError("max_density", max_density, f"a share from the density {density} to 1, or None")
        self.density, self.lr, self.bias, self.max_density = density, lr, bias, max_density
        self.patterns, self.others, self.selection, self.seed_mask = patterns, others, selection, seed_mask
        self.tuned: dict[str, Tensor] = {}
        self.scores: dict[str, Tensor] = {}
        self.seeds: dict[str, Tensor] = {}
        self.rounded: dict[str, Tensor] = {}

    @override
    def settled(self) -> tuple[str, ...]:
        return ("first_steps", "density", "bias", "patterns", "seed_mask") if self.second else ()

    def turn(self, trainer: pl.Trainer, index: ParameterIndex) -> None:
        """Keep the tuned weights, choose the first mask, and write the soft graft."""
        self.tuned = {name: index[name].parameter.detach().clone() for name in self.base}
        matched = set(index.entries if self.patterns is None else index.match(self.patterns))
        masked = [name for name in self.base if name in matched]
        change = TopChange(self.density, patterns=masked)
        change.base = {name: self.base.get(name, p.detach()) for name, p in index.parameters.items()}  # type: ignore
        seeds = (self.seed_mask or change).choose(index, None)
        for name in masked:
            parameter = index[name].parameter
            self.seeds[name] = as_mask(seeds.get(name, False), parameter)
            self.scores[name] = torch.full_like(parameter, -self.bias, dtype=torch.float32)
        self._write(index)

    def resume(self, trainer: pl.Trainer, index: ParameterIndex) -> None:
        """Write the soft graft, even if the checkpoint was saved after rounding."""
        for values in (self.tuned, self.scores, self.seeds):
            values.update({name: value.to(index[name].parameter.device) for name, value in values.items()})
        self._write(index)

    @torch.no_grad()
    def _write(self, index: ParameterIndex) -> None:
        for name, base in self.base.items():
            value = self.tuned[name] if self.others == "tuned" else base
            if name in self.scores:
                value = torch.lerp(
                    base, self.tuned[name], soft_mask(self.scores[name], self.seeds[name]).to(base.dtype)
                )
            index[name].parameter.copy_(value)

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Move the scores instead of the weights."""
        if not self.second:
            return
        index = ParameterIndex(pl_module)
        for name in self.base:
            parameter = index[name].parameter
            if name in self.scores and parameter.grad is not None:
                change = (self.tuned[name] - self.base[name]).float()
                slope = score_gradient(parameter.grad.float(), change, self.scores[name], self.seeds[name])
                self.scores[name].sub_(slope, alpha=self.lr)
            parameter.grad = None  # the optimizer leaves weights without a gradient alone
        self._write(index)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the last step, round the mask, and graft by copying."""
        if not self.second or not training_ends(trainer):
            return
        index = ParameterIndex(pl_module)
        soft = {name: soft_mask(score, self.seeds[name]) for name, score in self.scores.items()}
        self.rounded = {name: mask > 0.5 for name, mask in soft.items()}
        total = sum(mask.numel() for mask in soft.values())
        number = sum(int(mask.sum()) for mask in self.rounded.values())
        if self.max_density is not None and number > self.max_density * total:
            flat = {name: mask.flatten() for name, mask in soft.items()}
            best = {name: (lambda start, stop, mask=mask: mask[start:stop]) for name, mask in flat.items()}
            shapes = {name: mask.shape for name, mask in soft.items()}
            top = top_masks(best, shapes, round(self.max_density * total))
            self.rounded = {name: mask.to(soft[name].device) for name, mask in top.items()}
        for name, mask in self.rounded.items():
            index[name].parameter.copy_(torch.where(mask, self.tuned[name], self.base[name]))
        if self.selection is not None and trainer.is_global_zero:
            whole: Choices = {name: self.rounded.get(name, self.others == "tuned") for name in self.base}
            save_selection(Path(trainer.default_root_dir) / self.selection, whole, pl_module)

    def memory(self) -> dict[str, Any]:
        """The tuned weights, the scores, and the first mask."""
        return {"tuned": self.tuned, "scores": self.scores, "seeds": self.seeds}

    @override
    def remember(self, memory: dict[str, Any]) -> None:
        if memory:
            self.tuned, self.scores, self.seeds = memory["tuned"], memory["scores"], memory["seeds"]

    def report(self) -> dict[str, Any]:
        """Number and share of the entries in the graft."""
        total = sum(mask.numel() for mask in self.rounded.values())
        number = sum(int(mask.sum()) for mask in self.rounded.values())
        return {"entries": number, "of": total, "density": number / total if total else 0.0}
