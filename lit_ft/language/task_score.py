"""Validation of a language model by its accuracy on questions with options."""

from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_ft.core.batches import kind_of
from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.measurement import MeasuredRun, Measurement
from lit_ft.core.observing import set_up
from lit_ft.language.options import Normalization, option_rows, option_scores
from lit_ft.tokens.positions import check_positions, longest_texts


class TaskScore(Measurement):
    r"""After each validation, lets the language model choose among options, and logs its accuracy.

    A lower perplexity need not mean a better task score; checkpoints may be selected by ``val/<task>``. See
    :func:`~lit_ft.language.options.option_scores` for the score of an option.

    Logs ``val/<task>``, the share of right answers, over all processes. Training does not change. Needs a module whose
    ``predict_step`` gives the summed log-probabilities of the targets of each row, such as ``SupervisedFineTuning``.
    Cost: one forward pass over all options of all questions.

    Args:
        tasks: Data modules of questions with options (``AnswerOptions``), by name of the task; their validation rows
            are read.
        normalize: ``sum``, by ``token``, or against the answer ``context`` of the data.
        limit_batches: Batches of each task; None takes all.

    Source: Language Models are Few-Shot Learners (E83).

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from lit_ft.data import AnswerOptions, KnownFacts
        >>> from lit_ft.methods import SupervisedFineTuning
        >>> from lit_ft.testing import fit_foreign
        >>> rows = [{"prompt": f"{n} is", "answer": "short"} for n in range(8)]
        >>> _ = Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        >>> options = {"short": "s", "long": "long" * 8}  # untrained, the model prefers the shorter text
        >>> score = TaskScore({"length": AnswerOptions("rows.jsonl", options=options, val_fraction=0.5)})
        >>> gpt2 = {"model_type": "gpt2", "tokenizer": "bytes", "n_embd": 8, "n_head": 1, "n_layer": 1}
        >>> _ = fit_foreign([score], module=SupervisedFineTuning({"config": gpt2}), data=KnownFacts(4), max_epochs=1)
        >>> score.report()
        {'length': 1.0}
    """

    when = ("validation",)
    prefix = "val/"
    on_bar = True
    remembers = ("_last",)

    def __init__(
        self,
        tasks: dict[str, pl.LightningDataModule],
        normalize: Normalization = "sum",
        limit_batches: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        checked(locals())
        if not tasks:
            raise ConfigError("tasks", tasks, "at least one data module, by the name of its task")
        self.tasks, self.normalize, self.limit_batches = tasks, normalize, limit_batches

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set up the questions, with the tokenizer of the module."""
        super().setup(trainer, pl_module, stage)
        if hasattr(pl_module, "generate"):  # its predict_step writes
            allowed = "a module whose predict_step gives log-probabilities, such as SupervisedFineTuning"
            raise ConfigError("callbacks", f"TaskScore beside {type(pl_module).__name__}", allowed)
        for name, data in self.tasks.items():
            if kind_of(data) != "options":
                raise ConfigError(f"tasks.{name}", type(data).__name__, "a data module of options")
            set_up(data, trainer)

    def measure(self, run: MeasuredRun) -> dict[str, float]:
        """The accuracy on each task."""
        for name, data in self.tasks.items():
            longest = max(longest_texts(data).values())
            check_positions(f"tasks.{name}.max_length", longest, getattr(run.module, "network", None))
        return {name: self._share_right(run, data) for name, data in self.tasks.items()}

    def _share_right(self, run: MeasuredRun, data: pl.LightningDataModule) -> float:
        counts = torch.zeros(2, dtype=torch.float64)
        for number, batch in enumerate(islice(run.loader("val_dataloader", data), self.limit_batches)):
            prior = None
            if self.normalize == "context" and "context_input_ids" in batch:
                prior = self._log_probs(run, batch, number, "context_")
            log_probs = self._log_probs(run, batch, number)
            scores = option_scores(log_probs, batch["weights"].sum(-1), self.normalize, prior)
            right = scores.argmax(1) == batch["labels"]
            counts += torch.tensor([float(right.sum()), len(right)])
        if run.trainer.world_size > 1:
            counts = run.trainer.strategy.reduce(counts.to(run.module.device), reduce_op="sum")  # type: ignore[assignment]
        if not counts[1]:
            raise ConfigError("tasks", type(data).__name__, "data modules with rows for validation; this one has none")
        return float(counts[0] / counts[1])

    def _log_probs(self, run: MeasuredRun, batch: Any, number: int, prefix: str = "") -> Tensor:
        rows = option_rows(batch, prefix)
        with run.precision():
            found = run.module.predict_step(rows, number)
        if not isinstance(found, Tensor) or found.shape != (len(rows["input_ids"]),):
            given = type(run.module).__name__
            raise ConfigError("callbacks", given, "a module whose predict_step gives log-probabilities (rows,)")
        return found.unflatten(0, batch["input_ids"].shape[:2])

    def report(self) -> dict[str, float]:
        """The last share of each task."""
        return self._last
