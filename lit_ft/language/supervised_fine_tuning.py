"""Supervised fine-tuning of a causal language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_ft.core.checks import NonNegativeFloat, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_of
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.language.token_perplexity import TokenPerplexity
from lit_ft.tokens.batch import LanguageBatch
from lit_ft.tokens.language_method import LanguageMethod
from lit_ft.tokens.losses import Reduction, Smoothing, TokenLoss, document_numbers, shares
from lit_ft.tokens.network import readout


class SupervisedFineTuning(LanguageMethod):
    r"""Trains on the tokens of each example that have a weight.

    .. math:: L=\frac{\sum_t w_t\,(-\log p(x_t\mid x_{<t}))}{\sum_t|w_t|}

    over all tokens of the accumulation window and of all ranks: accumulating 4 batches of 2 equals one batch of 8,
    however long their answers are. Softmax and loss are in float32. Logits are computed for targets only, in chunks, so
    that memory does not grow with the vocabulary; the loss of a token is :class:`~lit_ft.tokens.losses.TokenLoss`.

    Reads :class:`LanguageBatch`, padded or packed. Logs ``loss`` and, in validation and test, ``perplexity``, which is
    exp of the token mean for every reduction. Metrics read the mean negative log-likelihood of the targets of a batch
    and the sum of their weights, both scalars, as ``TokenPerplexity`` and ``MeanMetric`` do. With ``task`` and
    ``task_sequence``, tasks are balanced within each batch; over a window, batches are weighted by the summed weights
    of their tasks.

    Args:
        network: A causal language model.
        reduction: ``token``: mean over tokens (default); ``sequence``: mean over sequences of their token means;
            ``task``: mean over tasks of their token means; ``task_sequence``: mean over tasks of their means over
            sequences; the cases 1 to 4 of MFTCoder.
        task_weights: Weight of each task by name, for reductions over tasks; others have weight 1.
        label_smoothing: Share of the target probability that is spread over the vocabulary, in [0, 1).
        focal: Focal exponent, 0 or more: tokens of high probability have less weight.
        unlikelihood: Whether tokens of negative weight are pushed down by :math:`-\log(1-p)`, which is bounded.
        **kwargs: As in :class:`~lit_ft.core.method.Method`.

    Source: reductions as in B. Liu et al., MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning, 2023,
    arXiv:2311.02303.

    See also: :class:`~lit_ft.data.Instructions`, :class:`~lit_ft.methods.TextGeneration`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import SumChains
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = SupervisedFineTuning({"config": config})
        >>> trainer = pl.Trainer(fast_dev_run=2, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, SumChains(chains=32, asked=8))
        >>> trainer.callback_metrics["val/perplexity"].allclose(trainer.callback_metrics["val/loss"].exp())
        True
    """

    batch: ClassVar[type] = LanguageBatch

    def __init__(
        self,
        network: Network,
        reduction: Reduction = "token",
        task_weights: dict[str, NonNegativeFloat] | None = None,
        label_smoothing: Smoothing = 0.0,
        focal: NonNegativeFloat = 0.0,
        unlikelihood: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        if task_weights is not None and not reduction.startswith("task"):
            raise ConfigError("task_weights", task_weights, "null: only reductions over tasks read them")
        self.reduction, self.task_weights = reduction, task_weights
        self.token_loss = TokenLoss(label_smoothing, focal, unlikelihood)

    def configure_metrics(self) -> dict[str, Metric]:
        """Perplexity."""
        return {"perplexity": TokenPerplexity()}

    def importance(self, device: torch.device) -> Tensor | None:
        """Weights of the tasks by number; None where all are equal."""
        if self.task_weights is None:
            return None
        names = getattr(data_of(self), "task_names", [])
        for name in self.task_weights:
            if name not in names:
                raise ConfigError(f"task_weights.{name}", self.task_weights[name], f"the tasks {', '.join(names)}")
        weights = [self.task_weights.get(name, 1.0) for name in names]
        return torch.tensor(weights, device=device, dtype=torch.float32)  # under bf16-true the default type is bf16

    def _shares(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        documents = document_numbers(batch["position_ids"]) if "position_ids" in batch else None
        weights = batch["weights"]
        return shares(weights, self.reduction, documents, batch.get("tasks"), self.importance(weights.device))

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """Mean loss over the targets; in evaluation also their mean negative log-likelihood, for the perplexity."""
        coefficients, _ = self._shares(batch)
        said = readout(self.network, batch)
        loss = said.loss(batch["input_ids"], coefficients, self.token_loss)
        if self.training:
            return Output(loss)
        size = batch["weights"].abs()
        plain = loss.detach()
        if self.reduction != "token" or not self.token_loss.is_plain or bool((batch["weights"] < 0).any()):
            with torch.no_grad():
                plain = said.loss(batch["input_ids"], shares(size)[0])
        return Output(loss, predictions=plain, targets=size.sum())

    def loss_weight(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Denominator of the mean: summed weights of targets, examples, or tasks."""
        return self._shares(batch)[1]

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Summed log-probability of the targets of each row, each times its weight; shape (rows,)."""
        found = readout(self.network, batch).log_probs(batch["input_ids"], batch["weights"])
        return (found * batch["weights"]).sum(1)

    def prediction_rows(self, batch: Mapping[str, Tensor], predictions: Any) -> Any:
        """The log-probability of each row."""
        return [{"log_probability": value} for value in predictions.tolist()]
