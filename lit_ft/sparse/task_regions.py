"""The regions of several tasks in one network."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import PositiveFloat, PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import training_ends
from lit_ft.core.observing import TransferredBatches, set_up
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.selection.base import Choices
from lit_ft.sparse.file import save_selection
from lit_ft.sparse.fisher import batch_gradients
from lit_ft.sparse.learned_graft import score_gradient, soft_mask
from lit_ft.sparse.regions import shared_parts
from lit_ft.sparse.scored import TopChange
from lit_ft.sparse.top import top_masks


class TaskRegions(FitCallback):
    r"""After the fit, finds for each task the changed weights that carry it, and how far tasks share them.

    For each task scores S of a soft mask :math:`\gamma = \sigma(S)` are trained at :math:`\theta_0 + \gamma\,\tau`,
    :math:`\tau = \theta_1 - \theta_0`, on its batches alone, with the closed gradient of ``LearnedGraft``. The
    ``density`` of the weights with the largest scores is the region of the task. All regions have the same size, so
    that unrelated ones share by chance a fraction ``density`` of their entries.

    Training does not change. The passes run in evaluation mode, with the module's ``training_step``, without autocast.
    Refuses more than one device. Memory: four copies of the weights, and one in every checkpoint. Cost: ``steps``
    forward and backward passes a task.

    Source: A. Panigrahi et al., "Task-Specific Skill Localization in Fine-tuned Language Models", 2023, arXiv
    2302.06600. Deviations: there is no first mask, which all tasks would share; the largest scores are taken, so that
    regions are of one size.

    Args:
        data: Data modules by name of the task; their training batches are read, for several epochs if needed.
        density: Share of the weights in a region, in (0, 1].
        steps: Gradient steps for each task, at least 1.
        lr: Step size of the scores, above 0.
        bias: Scores begin at its negative: :math:`\gamma` is then :math:`\sigma(-bias)` everywhere.
        patterns: Shell globs of the parameters that regions may lie in; the others have their tuned values. None takes
            all.
        save: Whether each region is written to the trainer's ``default_root_dir`` (the run folder) as
            ``TASK.safetensors``, for ``SavedSelection`` and ``lit-ft overlap``.

    See also: :func:`~lit_ft.sparse.regions.shared_parts`.

    Example:
        >>> from lit_ft.testing import ForeignData, fit_foreign
        >>> regions = TaskRegions({"a": ForeignData(), "b": ForeignData()}, density=0.05, steps=2)
        >>> _ = fit_foreign([regions], max_steps=3)
        >>> regions.report()["entries"], regions.report()["shared"]["a"]["b"]  # two times the same task
        (7, 1.0)
    """

    needs = ("one device",)
    remembers = ("base", "shared", "entries")

    def __init__(
        self,
        data: dict[str, pl.LightningDataModule],
        density: float = 0.01,
        steps: PositiveInt = 100,
        lr: PositiveFloat = 100.0,
        bias: float = 3.0,
        patterns: list[str] | None = None,
        save: bool = False,
    ) -> None:
        super().__init__()
        checked(locals())
        if not data:
            raise ConfigError("data", data, "at least one data module, by the name of its task")
        TopChange(density)  # says what is wrong with it
        self.data, self.density, self.steps = data, density, steps
        self.lr, self.bias, self.patterns, self.save = lr, bias, patterns, save
        self.base: dict[str, Tensor] = {}
        self.shared: dict[str, dict[str, float]] = {}
        self.entries = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the initial weights."""
        index = ParameterIndex(pl_module)
        if not self.base:
            self.base = {name: p.detach().clone() for name, p in index.parameters.items() if p.requires_grad}
        self.base = {name: value.to(index[name].parameter.device) for name, value in self.base.items()}

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the last step, find the regions."""
        if not training_ends(trainer):
            return
        index = ParameterIndex(pl_module)
        matched = set(index.entries if self.patterns is None else index.match(self.patterns))
        weights = {name: index[name].parameter for name in self.base if name in matched}
        tuned = {name: weight.detach().clone() for name, weight in weights.items()}
        regions: dict[str, Choices] = {}
        for task in self.data:
            try:
                regions[task] = self._region(trainer, pl_module, task, weights, tuned)
            finally:
                for name, weight in weights.items():
                    weight.copy_(tuned[name])
            if self.save:
                save_selection(Path(trainer.default_root_dir) / f"{task}.safetensors", regions[task], pl_module)
        self.shared = shared_parts(regions, pl_module)
        self.entries = max(1, round(self.density * sum(weight.numel() for weight in weights.values())))

    def _region(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        task: str,
        weights: Mapping[str, Tensor],
        tuned: Mapping[str, Tensor],
    ) -> Choices:
        scores = {name: torch.full_like(weight, -self.bias, dtype=torch.float32) for name, weight in weights.items()}
        nowhere = torch.zeros((), dtype=torch.bool)

        @torch.no_grad()  # between two of the gradients below it is not as it is around them
        def graft() -> None:
            for name, weight in weights.items():
                share = soft_mask(scores[name], nowhere.to(weight.device)).to(weight.dtype)
                weight.copy_(torch.lerp(self.base[name], tuned[name], share))

        graft()
        batches = _again_and_again(trainer, self.data[task])
        for gradients in batch_gradients(module, weights, batches, self.steps, None):
            for name, gradient in gradients.items():
                change = (tuned[name] - self.base[name]).float()
                slope = score_gradient(gradient, change, scores[name], nowhere.to(gradient.device))
                scores[name].sub_(slope, alpha=self.lr)
            graft()
        flat = {name: score.flatten() for name, score in scores.items()}
        best = {name: (lambda start, stop, score=score: score[start:stop]) for name, score in flat.items()}
        number = max(1, round(self.density * sum(score.numel() for score in flat.values())))
        return dict(top_masks(best, {name: weight.shape for name, weight in weights.items()}, number))

    def report(self) -> dict[str, Any]:
        """Size of the regions, and for each pair of tasks the share of the first region that is in the second one."""
        return {"entries": self.entries, "density": self.density, "shared": self.shared}


def _again_and_again(trainer: pl.Trainer, data: pl.LightningDataModule) -> Iterator[Any]:
    """Training batches as the trainer would pass them, for as many epochs as are read."""
    set_up(data, trainer)
    loader = data.train_dataloader()
    while len(loader):
        yield from TransferredBatches(trainer, loader, data)
