"""Training a language model from scratch on texts whose parts are scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torchmetrics import Metric

from lit_ft.core.checks import NonNegativeFloat, PositiveFloat, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.language.batches import ScoredTextBatch
from lit_ft.language.token_perplexity import TokenPerplexity
from lit_ft.tokens.language_method import LanguageMethod
from lit_ft.tokens.losses import log1mexp
from lit_ft.tokens.network import readout

Objective = Literal["likelihood", "unlikelihood", "reward_weighted", "advantage_weighted"]


def unlikelihood(log_probs: Tensor, scores: Tensor, alpha: float, threshold: float | None) -> Tensor:
    r"""Loss of tokens by score: :math:`-\log p` up to a threshold, else the unlikelihood :math:`-\alpha\log(1-p)`.

    Args:
        log_probs: Log-probabilities of the tokens.
        scores: Scores of the tokens, of the same shape; high is bad.
        alpha: Weight of the unlikelihood.
        threshold: None mixes both by the score, :math:`-(1-s)\log p-\alpha s\log(1-p)`, for scores in [0, 1].

    See also: :func:`~lit_ft.tokens.losses.log1mexp`.

    Example:
        >>> log_probs, scores = torch.tensor([0.25, 0.25]).log(), torch.tensor([0.0, 1.0])
        >>> unlikelihood(log_probs, scores, alpha=1.0, threshold=0.5)  # -log 0.25, -log 0.75
        tensor([1.3863, 0.2877])
    """
    bad = scores.clamp(0, 1) if threshold is None else (scores > threshold).float()
    return -(1 - bad) * log_probs - alpha * bad * log1mexp(log_probs)


def exponential_weights(advantages: Tensor, beta: float, most: float = 1000.0) -> Tensor:
    r""":math:`\min(e^{A/\beta},1000)`, without gradient.

    Example:
        >>> exponential_weights(torch.tensor([0.0, 1.0, 100.0]), beta=1.0)
        tensor([   1.0000,    2.7183, 1000.0000])
    """
    return (advantages.detach() / beta).exp().clamp(max=most)


READ: dict[str, tuple[str, ...]] = {  # which arguments an objective reads
    "likelihood": (),
    "unlikelihood": ("alpha", "threshold"),
    "reward_weighted": ("beta",),
    "advantage_weighted": ("alpha", "beta"),
}


class PreferencePretraining(LanguageMethod):
    r"""Trains on all tokens; those of bad parts with less weight, without any, or by unlikelihood.

    Reads :class:`ScoredTextBatch`.

    With the score s of each token (high is bad), p its probability, and R = -s, the mean over tokens of

    ======================== =================================================================================
    ``likelihood``           :math:`-\log p`; with marks or a filter in the data, conditional training or filtering
    ``unlikelihood``         :math:`-\log p` where :math:`s\le t`, else :math:`-\alpha\log(1-p)`
    ``reward_weighted``      :math:`-e^{R/\beta}\log p`
    ``advantage_weighted``   :math:`-\alpha e^{(R-V)/\beta}\log p+(1-\alpha)(R-V)^2`, V a linear map of hidden states
    ======================== =================================================================================

    V predicts the reward of a token from the hidden state before it. Weights are clipped at 1000 and not normalised, as
    in the reference, so that each objective needs its own learning rate.

    Logs ``loss``, and in validation and test ``perplexity``; both measure the plain likelihood there. Metrics read what
    those of :class:`~lit_ft.methods.SupervisedFineTuning` read.

    Args:
        network: A causal language model, in general from ``config``.
        objective: One of the four in the table.
        alpha: :math:`\alpha` of unlikelihood, 0 or more (paper: 1; 0.01 for code style), and of advantage weighting, in
            [0, 1] (paper: 0.5; 0.05 for code style). None is the paper's first value for the objective; a number is
            refused for an objective without it.
        beta: Temperature of the weights, above 0, of both weighted objectives, which give it no common value. Paper: 10
            for rewards; 10, 0.1 and 1 for advantages.
        threshold: t of unlikelihood; None mixes both terms by the score. 0 is a threshold. (The reference treated 0 as
            None, so that two of its published runs mixed both terms.)
        **kwargs: As in :class:`~lit_ft.core.method.Method`. Paper: rate 5e-4, decay 0.1.

    Source: Pretraining Language Models with Human Preferences (E19); tomekkorbak/pretraining-with-human-feedback.

    See also: :class:`~lit_ft.data.ScoredText`, :func:`unlikelihood`, :func:`exponential_weights`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import MarkedCorpus
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = PreferencePretraining({"config": config}, objective="unlikelihood", alpha=1.0, threshold=0.0)
        >>> trainer = pl.Trainer(fast_dev_run=2, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, MarkedCorpus(documents=64))
        >>> sorted(trainer.callback_metrics)
        ['train/loss', 'val/loss', 'val/perplexity']
    """

    batch: ClassVar[type] = ScoredTextBatch

    def __init__(
        self,
        network: Network,
        objective: Objective = "likelihood",
        alpha: NonNegativeFloat | None = None,
        beta: PositiveFloat | None = None,
        threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        read = READ[objective]
        for name, value in (("alpha", alpha), ("beta", beta), ("threshold", threshold)):
            if value is not None and name not in read:
                raise ConfigError(name, value, f"null: {objective} reads {' and '.join(read) or 'none of the three'}")
        if objective == "advantage_weighted" and alpha is not None and alpha > 1:
            raise ConfigError("alpha", alpha, "0 or more; for advantages in [0, 1]")
        if "beta" in read and beta is None:
            raise ConfigError("beta", beta, f"a temperature for {objective}; the paper's are 10, 1 and 0.1")
        self.objective, self.threshold = objective, threshold
        self.alpha = (0.5 if objective == "advantage_weighted" else 1.0) if alpha is None else alpha
        self.beta = 1.0 if beta is None else beta

    def after_build(self, network: Any) -> None:
        """For ``advantage_weighted``, add the linear map V of hidden states, which starts at 0."""
        super().after_build(network)
        if self.objective == "advantage_weighted":
            self.value = nn.Linear(network.get_output_embeddings().weight.shape[1], 1)
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)

    def configure_metrics(self) -> dict[str, Metric]:
        """Perplexity."""
        return {"perplexity": TokenPerplexity()}

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """Weighted mean over the tokens."""
        said, weights = readout(self.network, batch), batch["weights"].float()  # sums in bf16 are rounded
        log_probs = said.log_probs(batch["input_ids"], weights)
        total = weights.sum().clamp(min=1e-6)
        plain = -(weights * log_probs).sum() / total
        if not self.training:
            return Output(plain, predictions=plain.detach(), targets=weights.sum())
        if self.objective == "likelihood":
            return Output(plain)
        return Output((weights * self._terms(log_probs, batch["scores"], said.states)).sum() / total)

    def _terms(self, log_probs: Tensor, scores: Tensor, states: Tensor) -> Tensor:
        """The loss of each token, shape (rows, tokens)."""
        if self.objective == "unlikelihood":
            return unlikelihood(log_probs, scores, self.alpha, self.threshold)
        if self.objective == "reward_weighted":
            return -exponential_weights(-scores, self.beta) * log_probs
        values = (
            self.value(states.to(self.value.weight.dtype))[:, :, 0].float().roll(1, 1)
        )  # the position before a token predicts its reward
        advantages = -scores - values
        learned = -exponential_weights(advantages, self.beta) * log_probs
        return self.alpha * learned + (1 - self.alpha) * advantages.square()

    def loss_weight(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Summed weights of the tokens."""
        return batch["weights"].float().sum()
