"""Texts that a language model samples, and the share of their characters that match a pattern."""

import re
from typing import Annotated, Any

import lightning.pytorch as pl
import torch

from lit_ft.core.checks import PositiveFloat, PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.measurement import MeasuredRun, Measurement


class SampledText(Measurement):
    """Samples texts after each validation and test, and logs which share of their characters matches a pattern.

    Logs ``val/sampled_share`` and ``test/sampled_share`` (matched characters over all; the prompt does not count);
    ``report()`` gives some ``examples`` of the last texts.

    Training does not change. Needs a module with ``network`` (of ``transformers``) and ``tokenizer``. Cost: one
    generation of ``samples`` texts.

    Args:
        pattern: A regular expression; matches do not overlap.
        prompt: Start of each text, after the beginning-of-text token, if the tokenizer has one.
        samples: Number of texts, at least 1. Paper: 4,096.
        max_new_tokens: Longest text, at least 1. Paper: 128.
        temperature: Above 0. Paper: 0.7.
        top_p: Share of the probability that is drawn from, in (0, 1]. Paper: 0.9.
        forbidden: Characters that are never written, such as the marks of conditional training.

    Source: the evaluation of Pretraining Language Models with Human Preferences (E19).

    Example:
        >>> from lit_ft.data import KnownFacts
        >>> from lit_ft.methods import SupervisedFineTuning
        >>> from lit_ft.testing import fit_foreign
        >>> gpt2 = {"model_type": "gpt2", "tokenizer": "bytes", "n_embd": 8, "n_head": 1, "n_layer": 1}
        >>> digits = SampledText("[0-9]", prompt="a", samples=2, max_new_tokens=8, forbidden="0123456789")
        >>> method = SupervisedFineTuning({"config": gpt2})
        >>> _, trainer = fit_foreign([digits], module=method, data=KnownFacts(4), max_epochs=1)
        >>> trainer.callback_metrics["val/sampled_share"]  # digits are never written
        tensor(0.)
    """

    needs = ("one of its class",)
    when = ("validation",)
    prefix = "val/"
    remembers = ()
    forgets = (*Measurement.forgets, "_found")

    def __init__(
        self,
        pattern: str,
        prompt: str = "",
        samples: PositiveInt = 64,
        max_new_tokens: PositiveInt = 64,
        temperature: PositiveFloat = 1.0,
        top_p: Annotated[float, Range(above=0, high=1)] = 1.0,
        forbidden: str = "",
    ) -> None:
        super().__init__()
        checked(locals())
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise ConfigError("pattern", pattern, f"a regular expression: {error}") from error
        self.prompt, self.samples, self.max_new_tokens = prompt, samples, max_new_tokens
        self.temperature, self.top_p, self.forbidden = temperature, top_p, forbidden
        self._found: dict[str, Any] = {}

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure after a test, too."""
        self.take(trainer, pl_module)
        pl_module.log("test/sampled_share", self._last["sampled_share"])

    def measure(self, run: MeasuredRun) -> dict[str, float]:
        """Sample texts."""
        words, network = getattr(run.module, "tokenizer", None), getattr(run.module, "network", None)
        if words is None or not hasattr(network, "generate"):
            given = type(run.module).__name__
            raise ConfigError("callbacks", given, "a module with a language model and its tokenizer")
        start = words(self.prompt)["input_ids"]
        if words.bos_token_id is not None and start[:1] != [words.bos_token_id]:
            start = [words.bos_token_id, *start]
        if not start:
            raise ConfigError("prompt", self.prompt, "a text: the tokenizer has no token that marks a beginning")
        refused = sorted(
            {token for mark in self.forbidden for token in words(mark, add_special_tokens=False)["input_ids"]}
        )
        written = network.generate(  # type: ignore[union-attr]
            input_ids=torch.tensor([start] * self.samples, device=run.module.device),
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
        return {"sampled_share": share}

    def report(self) -> dict[str, Any]:
        """The last share, and some texts."""
        return self._found


def matched_share(pattern: re.Pattern[str], texts: list[str]) -> float:
    """Characters in matches over all characters; 0 if there are none.

    Example:
        >>> matched_share(re.compile("[0-9]+"), ["a1", "22"])
        0.75
    """
    every = sum(map(len, texts))
    return sum(len(match.group()) for text in texts for match in pattern.finditer(text)) / every if every else 0.0
