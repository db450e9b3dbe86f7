"""What a language model writes by itself, and how much of it is of a certain kind."""

import re
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback

from lit_ft.core.anew import begins_anew
from lit_ft.core.companions import refuse_another
from lit_ft.core.errors import ConfigError
from lit_ft.core.passes.second_pass import silent


class SampledText(Callback):
    """Samples texts after each validation and test, and logs which share of their characters matches a pattern.

    Logs ``val/sampled_share`` and ``test/sampled_share`` (matched characters by all; the prompt does not count);
    ``report()`` gives some ``examples`` of the last texts.

    Training does not notice. Needs a module with ``network`` (of ``transformers``) and ``tokenizer``. Cost: one
    generation of ``samples`` texts.

    Args:
        pattern: A regular expression; matches do not overlap.
        prompt: What each text starts with, after the token that marks a beginning, where the tokenizer has one.
        samples: Number of texts, at least 1. Paper: 4,096.
        max_new_tokens: Longest text, at least 1. Paper: 128.
        temperature: Above 0. Paper: 0.7.
        top_p: Share of the probability that is drawn from, in (0, 1]. Paper: 0.9.
        forbidden: Characters that are never written, such as the marks of conditional training.

    Source: the evaluation of Pretraining Language Models with Human Preferences (E19).
    """

    def __init__(
        self,
        pattern: str,
        prompt: str = "",
        samples: int = 64,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float = 1.0,
        forbidden: str = "",
    ) -> None:
        for name, value in (("samples", samples), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise ConfigError(name, value, "at least 1")
        if not temperature > 0:
            raise ConfigError("temperature", temperature, "a number above 0")
        if not 0 < top_p <= 1:
            raise ConfigError("top_p", top_p, "a share in (0, 1]")
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise ConfigError("pattern", pattern, f"a regular expression: {error}") from error
        self.prompt, self.samples, self.max_new_tokens = prompt, samples, max_new_tokens
        self.temperature, self.top_p, self.forbidden = temperature, top_p, forbidden
        self._found: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a second one; forget the texts of another fit."""
        refuse_another(trainer, self)
        if begins_anew(trainer, stage):
            self._found = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write."""
        if not trainer.sanity_checking:
            pl_module.log("val/sampled_share", self._write(trainer, pl_module))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write."""
        pl_module.log("test/sampled_share", self._write(trainer, pl_module))

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> float:
        words, network = getattr(pl_module, "tokenizer", None), getattr(pl_module, "network", None)
        if words is None or not hasattr(network, "generate"):
            raise ConfigError("callbacks", type(pl_module).__name__, "a module with a language model and its tokenizer")
        start = words(self.prompt)["input_ids"]
        if words.bos_token_id is not None and start[:1] != [words.bos_token_id]:
            start = [words.bos_token_id, *start]
        if not start:
            raise ConfigError("prompt", self.prompt, "a text: the tokenizer has no token that marks a beginning")
        refused = sorted(
            {token for mark in self.forbidden for token in words(mark, add_special_tokens=False)["input_ids"]}
        )
        with silent(trainer, pl_module), torch.no_grad():
            pl_module.eval()
            written = network.generate(  # type: ignore[union-attr, operator]
                input_ids=torch.tensor([start] * self.samples, device=pl_module.device),
                do_sample=True,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=0,
                pad_token_id=words.pad_token_id if words.pad_token_id is not None else words.eos_token_id,
                suppress_tokens=refused or None,
            )
        texts = [words.decode(row[len(start) :], skip_special_tokens=True) for row in written.tolist()]
        share = matched_share(self.pattern, texts)
        self._found = {"share": share, "examples": texts[:3]}
        return share

    def report(self) -> dict[str, Any]:
        """The last share, and some texts."""
        return self._found


def matched_share(pattern: re.Pattern[str], texts: list[str]) -> float:
    """Characters in matches by all characters; 0 where nothing was written."""
    every = sum(map(len, texts))
    return sum(len(match.group()) for text in texts for match in pattern.finditer(text)) / every if every else 0.0
