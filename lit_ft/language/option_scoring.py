"""Multiple-choice questions, answered by the likelihood of each option under a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from lit_ft.core.checks import checked
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.language.batches import OptionsBatch
from lit_ft.language.options import Normalization, option_rows, option_scores
from lit_ft.tokens.language_method import LanguageMethod
from lit_ft.tokens.network import readout


class OptionScoring(LanguageMethod):
    r"""Scores every option of a question by a language model; ``test`` and ``predict`` need no training.

    The scores s are those of :func:`~lit_ft.language.options.option_scores`. Trained, it is a classifier with the head
    of the language model, as in prompt-based fine-tuning: :math:`-\log\operatorname{softmax}(s)_y`.

    Reads :class:`OptionsBatch`. Logs ``loss`` and ``accuracy``; ``predict`` writes the scores of each question, with
    the lowest finite number for options that it lacks. Metrics read scores of shape (questions, options) and labels of
    shape (questions,).

    Args:
        network: A causal language model.
        normalize: ``sum``, ``token`` (mean over tokens), or ``context`` (relative to the answer context of the data).
        **kwargs: As in :class:`~lit_ft.core.method.Method`.

    Source: Language Models are Few-Shot Learners (E83).

    See also: :class:`~lit_ft.data.AnswerOptions`, :class:`~lit_ft.methods.TextClassifier`, which adds a head.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import PermutedQuestions
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = OptionScoring({"config": config})
        >>> trainer = pl.Trainer(fast_dev_run=2, enable_progress_bar=False, enable_model_summary=False)
        >>> found = trainer.test(model, PermutedQuestions(classes=4, tasks=2), verbose=False)[0]
        >>> round(found["test/loss"], 1)  # an untrained model guesses one of four: log 4
        1.4
    """

    batch: ClassVar[type] = OptionsBatch

    def __init__(self, network: Network, normalize: Normalization = "sum", **kwargs: Any) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.normalize = normalize

    def _log_probs(self, batch: Mapping[str, Tensor], prefix: str = "") -> Tensor:
        rows = option_rows(batch, prefix)
        found = readout(self.network, rows).log_probs(rows["input_ids"], rows["weights"])
        return (found * rows["weights"]).sum(1).unflatten(0, batch["input_ids"].shape[:2])

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Scores of shape (questions, options)."""
        prior = None
        if self.normalize == "context" and "context_input_ids" in batch:
            prior = self._log_probs(batch, "context_")
        return option_scores(self._log_probs(batch), batch["weights"].sum(-1), self.normalize, prior)

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """Mean cross-entropy over the questions."""
        scores, labels = self(batch), batch["labels"]
        accuracy = (scores.argmax(1) == labels).float().mean()
        return Output(F.cross_entropy(scores, labels), scores, labels, {"accuracy": accuracy})

    def loss_weight(self, batch: Mapping[str, Tensor]) -> float:
        """Number of questions."""
        return float(len(batch["labels"]))

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Scores of shape (questions, options)."""
        return self(batch)

    def prediction_rows(self, batch: Mapping[str, Tensor], predictions: Tensor) -> list[dict[str, Any]]:
        """Numbers, from 0, of the predicted and of the expected option, and the score of each option of a question."""
        counts = (batch["weights"].sum(-1) > 0).sum(-1).tolist()
        rows = zip(predictions.argmax(1).tolist(), batch["labels"].tolist(), predictions.tolist(), counts, strict=True)
        return [{"label": best, "expected": right, "scores": row[:n]} for best, right, row, n in rows]
