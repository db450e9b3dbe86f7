"""Generation of answers with a language model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_ft.core.checks import NonNegativeFloat, PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_of
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.core.passes.second_pass import Randomness
from lit_ft.language.answers import AnswerMetric
from lit_ft.language.rules import ResponseRules
from lit_ft.language.supervised_fine_tuning import SupervisedFineTuning
from lit_ft.tokens.positions import positions


class TextGeneration(SupervisedFineTuning):
    """Supervised fine-tuning whose ``predict`` generates answers to each row, and whose evaluation can measure them.

    The prompt of a row is its tokens before the first target. ``predictions.jsonl`` has one line per row: ``{row,
    prompt, expected, answers, answer_ids, ended}``, where ``answers`` are the samples, ``answer_ids`` their tokens,
    ``ended`` says of each whether it ended by itself, and ``expected`` is whole, also where ``max_length`` cuts what is
    learned; new rows without an answer have none. An answer ends at the tokenizer's end token and at those that the
    generation config of the checkpoint names. The samples of a batch depend on ``--seed_everything`` and its rows. With
    ``answers``, validation and test generate too, and log ``val/<name>`` and ``test/<name>``; training is not changed
    by it.

    Reads :class:`~lit_ft.tokens.batch.LanguageBatch`, padded.

    Args:
        network: A causal language model.
        max_new_tokens: Longest answer in tokens, at least 1.
        temperature: Sampling temperature, 0 or more; 0 is greedy decoding.
        top_p: Nucleus sampling: the share of the probability that is sampled from, in (0, 1].
        samples: Answers per row; more than one needs a temperature above 0.
        rules: Rules on the next token (E89); None applies none.
        answers: Metrics over generated and expected answers, by logged name (``AnswerAccuracy``, ``ToolCallReward``);
            None generates nothing in validation and test.
        **kwargs: As in :class:`SupervisedFineTuning`.

    Source of the rules: J. Hewitt et al., Instruction Following without Instruction Tuning, 2024, arXiv:2409.14254.

    See also: :class:`SupervisedFineTuning`, :class:`~lit_ft.metrics.AnswerAccuracy`,
        :class:`~lit_ft.language.rules.ResponseRules`.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = TextGeneration({"config": config}, max_new_tokens=4, temperature=1.0, samples=3)
        >>> model.configure_model()
        >>> answers = model.generate([model.tokenizer("1;2;=")["input_ids"]])
        >>> len(answers), len(answers[0]), max(len(answer) for answer in answers[0])  # prompts, samples, tokens
        (1, 3, 4)
    """

    def __init__(
        self,
        network: Network,
        max_new_tokens: PositiveInt = 128,
        temperature: NonNegativeFloat = 0.0,
        top_p: Annotated[float, Range(above=0, high=1)] = 1.0,
        samples: PositiveInt = 1,
        rules: ResponseRules | None = None,
        answers: dict[str, AnswerMetric] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        if samples > 1 and temperature == 0:
            raise ConfigError("samples", samples, "1 at temperature 0: they would all be the same")
        self.max_new_tokens, self.temperature, self.top_p = max_new_tokens, temperature, top_p
        self.samples, self.rules, self.answers = samples, rules, answers or {}
        taken = ["loss", *self.new_metrics()]
        for name in self.answers:
            if name in taken:
                raise ConfigError("answers", name, f"a name other than {' and '.join(taken)}")

    def after_build(self, network: nn.Module) -> None:
        """Copy the metrics over answers for validation and test."""
        super().after_build(network)
        clones = {stage: {name: m.clone() for name, m in self.answers.items()} for stage in ("val", "test")}
        self.answer_metrics = nn.ModuleDict({stage: nn.ModuleDict(each) for stage, each in clones.items()})  # type: ignore[arg-type]

    def _evaluate(self, batch: Mapping[str, Tensor], stage: str) -> Output:
        output = super()._evaluate(batch, stage)
        if self.answers:
            written = self._written(batch, stage)
            said = [answer for row in written for answer in row["answers"]]
            expected = [row["expected"] for row in written for _ in row["answers"]]
            for metric in self.answer_metrics[stage].values():  # type: ignore[operator, union-attr]
                metric.update(said, expected)
        return output

    def _finish_evaluation(self, stage: str) -> None:
        super()._finish_evaluation(stage)
        for name, metric in self.answer_metrics[stage].items():  # type: ignore[operator, union-attr]
            if metric.update_called:
                self.log(f"{stage}/{name}", metric.compute(), prog_bar=True)
                metric.reset()

    @torch.no_grad()
    def generate(self, prompts: list[list[int]]) -> list[list[list[int]]]:
        """Answers to prompts as token ids, without the end-of-text token: ``samples`` for each prompt.

        Args:
            prompts: Token ids of each prompt, at least one.
        """
        if not all(prompts):
            raise ConfigError("prompts", "one without tokens", "at least one token in each, to write from")
        longest, ends = max(map(len, prompts)), self.ends()
        most = positions(self.network)
        if most is not None and longest + self.max_new_tokens > most:
            allowed = f"{most - longest} or less behind a prompt of {longest} tokens: there are {most} positions"
            raise ConfigError("max_new_tokens", self.max_new_tokens, allowed)
        padding = next(token for token in (self.tokenizer.pad_token_id, *ends, 0) if token is not None)
        ids = torch.tensor([[padding] * (longest - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        settings: dict[str, Any] = {"do_sample": self.temperature > 0}
        if self.temperature > 0:
            settings |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        if self.rules is not None:
            settings["logits_processor"] = [self.rules.bind(self.tokenizer, mask.repeat_interleave(self.samples, 0))]
        found = self.network.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=self.max_new_tokens, pad_token_id=padding,
            eos_token_id=ends or None, num_return_sequences=self.samples, **settings,
        )  # fmt: skip
        answers = [list(takewhile(lambda token: token not in ends, row)) for row in found[:, longest:].tolist()]
        return [answers[i : i + self.samples] for i in range(0, len(answers), self.samples)]

    def has_ended(self, answer: list[int]) -> bool:
        """Whether an answer that ``generate`` gave ended by itself: all others have ``max_new_tokens``."""
        return len(answer) < self.max_new_tokens

    def ends(self) -> list[int]:
        """The tokens that end an answer: that of the tokenizer, and those that the checkpoint names for generation."""
        named = getattr(getattr(self.network, "generation_config", None), "eos_token_id", None)
        named = named if isinstance(named, list) else [named]
        return [token for token in dict.fromkeys([self.tokenizer.eos_token_id, *named]) if token is not None]

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> list[dict[str, Any]]:  # type: ignore[override]
        """Answers to each row, as described in the class."""
        return self._written(batch, getattr(data_of(self), "predicted", "test"))

    def prediction_rows(self, batch: Mapping[str, Tensor], predictions: Any) -> Any:
        """As ``predict_step`` gives them."""
        return predictions

    def _written(self, batch: Mapping[str, Tensor], split: str) -> list[dict[str, Any]]:
        lengths, first = batch["attention_mask"].sum(1).tolist(), (batch["weights"] != 0).int().argmax(1).tolist()
        rows = batch["input_ids"].tolist()
        prompts = [ids[:start] for ids, start in zip(rows, first, strict=True)]
        words = self.tokenizer
        for number, ids in zip(batch["rows"].tolist(), prompts, strict=True):
            if not ids:
                raise ConfigError("data", f"row {number}, which has no prompt", "a token before the first learned one")
        before = Randomness()
        # samples of their own for each batch, whichever process it is in and wherever a run went on
        words_of = (torch.initial_seed() % 2**64, *batch["rows"].tolist())
        torch.manual_seed(int(np.random.SeedSequence(words_of).generate_state(1, np.uint64)[0]))
        try:
            samples = self.generate(prompts)
        finally:
            before.restore()
        data = data_of(self)
        whole = getattr(data, "whole_answer", lambda split, row: None)
        known = getattr(data, "is_answered", lambda split, row: True)

        def expected(number: int, learned: list[int]) -> dict[str, str]:
            if not known(split, number):
                return {}
            return {"expected": words.decode(whole(split, number) or learned, skip_special_tokens=True)}

        return [
            {
                "row": number,
                "prompt": words.decode(ids[:start]),
                **expected(number, ids[start:length]),
                "answers": [words.decode(answer, skip_special_tokens=True) for answer in answers],
                "answer_ids": answers,
                "ended": [self.has_ended(answer) for answer in answers],
            }
            for number, ids, start, length, answers in zip(
                batch["rows"].tolist(), rows, first, lengths, samples, strict=True
            )
        ]
