"""What edits of a language model have changed: what they should, and what they should not."""

from typing import Any

import lightning.pytorch as pl
import torch

from lit_ft.core.anew import begins_anew
from lit_ft.core.errors import ConfigError
from lit_ft.core.last_epoch import training_ends
from lit_ft.core.passes.second_pass import silent
from lit_ft.language.greedy import would_write, written

Examples = list[tuple[list[int], list[int]]]
KINDS = ("reliability", "generality", "locality")


class EditingScores(pl.Callback):
    r"""Shares of edits that greedy decoding does as wanted, at the start of the fit, every n steps, and at its end.

    ``reliability``: after the prompt of an edit the network writes its target, to the end-of-text token.
    ``generality``: it does so after the paraphrase. ``locality``: after a prompt that has nothing to do with the edit,
    it writes what it wrote before the first step (``locality_tokens`` tokens, or fewer to the end of text).

    Logs ``editing/<kind>`` at the end, with ``every_n_steps`` the newest values in every row. The report has all
    evaluations, the first one included. Training does not notice. Cost of an evaluation: a forward pass over
    prompts, paraphrases and prompts for locality; at the start ``locality_tokens`` passes over the last ones.

    Needs a causal language model of ``transformers`` as ``network`` of the module, and a data module with
    ``editing_examples``, such as ``ModelEdits``. Every process evaluates all edits.

    Source: the measures of "Fine-tuning Done Right in Model Editing"; deviation: a text counts as a whole.

    Args:
        every_n_steps: Optimizer steps between two evaluations; None evaluates at the start and the end only.
        locality_tokens: Longest text that is compared for locality, at least 1.
        batch_size: Prompts of a forward pass, at least 1.
    """

    def __init__(self, every_n_steps: int | None = None, locality_tokens: int = 8, batch_size: int = 32) -> None:
        counts = {"every_n_steps": every_n_steps, "locality_tokens": locality_tokens, "batch_size": batch_size}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ConfigError(name, value, "a whole number of at least 1")
        self.every_n_steps, self.locality_tokens, self.batch_size = every_n_steps, locality_tokens, batch_size
        self.steps: list[int] = []
        self.history: dict[str, list[float]] = {}
        self._before: Examples = []
        self._examples: dict[str, Examples] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget what another fit has measured."""
        if begins_anew(trainer, stage):
            self.steps, self.history, self._before = [], {}, []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what is written before the first step; not again after a resume."""
        examples = getattr(getattr(trainer, "datamodule", None), "editing_examples", None)
        if examples is None or getattr(pl_module, "network", None) is None:
            allowed = "a module with a `network`, and a data module with editing_examples such as ModelEdits"
            raise ConfigError("callbacks", type(self).__name__, allowed)
        self._examples = examples()
        if not self.steps:
            with silent(trainer, pl_module), torch.no_grad(), trainer.precision_plugin.val_step_context():
                pl_module.eval()
                self._before = self._written(pl_module)
            self._evaluate(trainer, pl_module)

    def _written(self, module: Any) -> Examples:
        prompts = [prompt for prompt, _ in self._examples["locality"]]
        end = getattr(getattr(module, "tokenizer", None), "eos_token_id", None)
        found: Examples = []
        for start in range(0, len(prompts), self.batch_size):
            part = prompts[start : start + self.batch_size]
            found += zip(part, written(module.network, part, self.locality_tokens, end), strict=True)
        return found

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Every n steps."""
        if self.every_n_steps is None:
            return
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step > self.steps[-1]:
            self._evaluate(trainer, pl_module)
        # Lightning repeats the last value in every row; so after a resume
        pl_module.log_dict(self._newest(), on_step=True, on_epoch=False, batch_size=1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the last step."""
        if not training_ends(trainer):
            return
        if trainer.global_step > self.steps[-1]:
            self._evaluate(trainer, pl_module)
        pl_module.log_dict(self._newest(), batch_size=1)

    def _newest(self) -> dict[str, float]:
        return {f"editing/{kind}": values[-1] for kind, values in self.history.items()}

    def _evaluate(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        with silent(trainer, module), torch.no_grad(), trainer.precision_plugin.val_step_context():
            module.eval()
            examples = {**self._examples, "locality": self._before}
            found = {kind: self._share(module, examples[kind]) for kind in KINDS}  # all of them or none, if stopped
        for kind, share in found.items():
            self.history.setdefault(kind, []).append(share)
        self.steps.append(trainer.global_step)

    def _share(self, module: Any, examples: Examples) -> float:
        right = 0
        for start in range(0, len(examples), self.batch_size):
            prompts, texts = zip(*examples[start : start + self.batch_size], strict=True)
            right += sum(would_write(module.network, prompts, texts))
        return right / len(examples)

    def state_dict(self) -> dict[str, Any]:
        """All evaluations so far, and what was written before the first step."""
        return {"steps": list(self.steps), "history": self.history, "before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after them."""
        self.steps, self.history = list(state_dict["steps"]), state_dict["history"]
        self._before = state_dict["before"]

    def report(self) -> dict[str, Any]:
        """First and last shares, and all of them over the steps."""
        ends = {"start": 0, "end": -1} if self.steps else {}
        shares = {name: {kind: values[place] for kind, values in self.history.items()} for name, place in ends.items()}
        return {**shares, "steps": self.steps, "curves": self.history}
