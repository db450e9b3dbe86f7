"""Validation of a language model by what it can do: the share of questions that it answers rightly."""

from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback
from torch import Tensor

from lit_ft.core.anew import begins_anew
from lit_ft.core.batches import kind_of
from lit_ft.core.errors import ConfigError
from lit_ft.core.observing import own_loader, set_up
from lit_ft.core.passes.second_pass import silent
from lit_ft.language.options import Normalization, checked_normalization, option_rows, option_scores


class TaskScore(Callback):
    r"""After each validation, lets the language model choose among options, and logs how often it is right.

    A lower perplexity need not mean a better task score; ``val/<task>`` can be what checkpoints are kept by. See
    :func:`~lit_ft.language.options.option_scores` for what an option scores.

    Logs ``val/<task>``, the share of right answers, over all processes. Training does not notice. Needs a module whose
    ``predict_step`` gives the summed log-probabilities of the targets of each row, such as ``SupervisedFineTuning``.
    Cost: one forward over all options of all questions.

    Args:
        tasks: Data modules of questions with options (``AnswerOptions``) by name of the task; their validation rows.
        normalize: ``sum``, by ``token``, or against the answer ``context`` of the data.
        limit_batches: Batches of each task; None takes all.

    Source: Language Models are Few-Shot Learners (E83).
    """

    def __init__(
        self,
        tasks: dict[str, pl.LightningDataModule],
        normalize: Normalization = "sum",
        limit_batches: int | None = None,
    ) -> None:
        if not tasks:
            raise ConfigError("tasks", tasks, "at least one data module, by the name of its task")
        if limit_batches is not None and limit_batches < 1:
            raise ConfigError("limit_batches", limit_batches, "at least 1, or null")
        self.tasks, self.normalize, self.limit_batches = tasks, checked_normalization(normalize), limit_batches
        self._last: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set up the questions, with the tokenizer of the module; forget what another fit has scored."""
        if begins_anew(trainer, stage):
            self._last = {}
        if hasattr(pl_module, "generate"):  # its predict_step writes
            allowed = "a module whose predict_step gives log-probabilities, such as SupervisedFineTuning"
            raise ConfigError("callbacks", f"TaskScore beside {type(pl_module).__name__}", allowed)
        for name, data in self.tasks.items():
            if kind_of(data) != "options":
                raise ConfigError(f"tasks.{name}", type(data).__name__, "a data module of options")
            set_up(data, trainer)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask all questions."""
        if trainer.sanity_checking:
            return
        for name, data in self.tasks.items():
            self._last[name] = self._share_right(trainer, pl_module, data)
            pl_module.log(f"val/{name}", self._last[name], prog_bar=True)

    def _share_right(self, trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> float:
        counts = torch.zeros(2, dtype=torch.float64)
        with silent(trainer, module), torch.no_grad():
            module.eval()
            questions = own_loader(trainer, module, "val_dataloader", data)
            for number, batch in enumerate(islice(questions, self.limit_batches)):
                prior = None
                if self.normalize == "context" and "context_input_ids" in batch:
                    prior = self._log_probs(trainer, module, batch, number, "context_")
                log_probs = self._log_probs(trainer, module, batch, number)
                scores = option_scores(log_probs, batch["weights"].sum(-1), self.normalize, prior)
                right = scores.argmax(1) == batch["labels"]
                counts += torch.tensor([float(right.sum()), len(right)])
        if trainer.world_size > 1:
            counts = trainer.strategy.reduce(counts.to(module.device), reduce_op="sum")  # type: ignore[assignment]
        return float(counts[0] / counts[1])

    def _log_probs(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, number: int, prefix: str = ""
    ) -> Tensor:
        rows = option_rows(batch, prefix)
        with trainer.precision_plugin.val_step_context():
            found = module.predict_step(rows, number)
        if not isinstance(found, Tensor) or found.shape != (len(rows["input_ids"]),):
            given = type(module).__name__
            raise ConfigError("callbacks", given, "a module whose predict_step gives log-probabilities (rows,)")
        return found.unflatten(0, batch["input_ids"].shape[:2])

    def report(self) -> dict[str, float]:
        """The last share of each task."""
        return self._last

    def state_dict(self) -> dict[str, Any]:
        """The last shares."""
        return {"last": dict(self._last)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self._last = dict(state_dict["last"])
