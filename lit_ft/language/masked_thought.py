"""Masked thought: supervised fine-tuning on answers that are masked in part in the input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lit_ft.core.checks import ClosedUnitInterval, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.language.supervised_fine_tuning import SupervisedFineTuning
from lit_ft.tokens.network import readout


def mask_thought(input_ids: Tensor, weights: Tensor, probability: float, token: int | None, vocabulary: int) -> Tensor:
    """Input ids in which tokens of the answer are replaced, each with the given probability.

    Args:
        input_ids: Shape (rows, tokens).
        weights: Weights of the tokens as targets; tokens of weight 0 (question, padding) are not replaced.
        probability: Probability of each replacement, in [0, 1].
        token: The replacement; None draws one at random for each token.
        vocabulary: Number of tokens to draw from.

    Example:
        >>> ids, weights = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])  # question, then answer
        >>> mask_thought(ids, weights, probability=1.0, token=4, vocabulary=263)
        tensor([[5, 6, 4, 4]])
    """
    chosen = (torch.rand(input_ids.shape, device=input_ids.device) < probability) & (weights != 0)
    drawn = torch.randint_like(input_ids, vocabulary) if token is None else torch.full_like(input_ids, token)
    return torch.where(chosen, drawn, input_ids)


class MaskedThought(SupervisedFineTuning):
    r"""Supervised fine-tuning with noise in the answers of the input, but not in the targets.

    .. math:: -\sum_t w_t\log p(x_t\mid\tilde x_{<t}),\qquad
              \tilde x_s=x_s\text{ with probability }1-p,\text{ else a mask or random token, for }s\text{ in the answer}

    so that later steps of the reasoning depend more on the question and less on the steps before. The probability rises
    with the optimizer step: :math:`p_k=p\min(1,k/(r K))` at step k of K. Validation and test use the true answer. Cost:
    that of supervised fine-tuning. Reads :class:`~lit_ft.tokens.batch.LanguageBatch`. Logs what
    :class:`SupervisedFineTuning` logs, and ``mask_probability``.

    Args:
        network: A causal language model.
        probability: p, in [0, 1]. Paper: 0.4 on GSM8K, 0.2 on MetaMath and MAmmoTH.
        rise: r, the share of the run in which p rises from 0, in [0, 1]; 0 keeps p constant. Paper: 0.66 on GSM8K.
        replace_by: ``random`` tokens (paper's recipe for GSM8K) or the ``mask`` token; the padding token where the
            tokenizer has none, as in the reference.
        **kwargs: As in :class:`SupervisedFineTuning`. Paper: rate 1e-5, cosine with 1 % warm-up.

    Source: C. Chen et al., Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical Reasoning
    Learning of Language Models, 2024, arXiv:2403.02178; ChangyuChen347/MaskedThought.

    See also: :class:`SupervisedFineTuning`, :func:`mask_thought`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import SumChains
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = MaskedThought({"config": config}, probability=0.4, rise=1.0)
        >>> trainer = pl.Trainer(fast_dev_run=4, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, SumChains(chains=64, asked=8))
        >>> trainer.callback_metrics["train/mask_probability"]  # after 3 of 4 steps
        tensor(0.3000)
    """

    def __init__(
        self,
        network: Network,
        probability: ClosedUnitInterval = 0.4,
        rise: ClosedUnitInterval = 0.66,
        replace_by: Literal["random", "mask"] = "random",
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.probability, self.rise, self.replace_by = probability, rise, replace_by

    def current_probability(self) -> float:
        """The probability at the current optimizer step."""
        if self.rise == 0 or self._trainer is None:
            return self.probability
        span = self.rise * self.trainer.estimated_stepping_batches
        if math.isinf(span):
            raise ConfigError("rise", self.rise, "0, or a run of known length: set trainer.max_steps")
        return self.probability * min(1.0, self.trainer.global_step / span)

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """Mean loss over the targets; in training with masked answers as input."""
        probability = self.current_probability() if self.training else 0.0
        if probability == 0:
            output = super().compute(batch)
            if self.training:
                output.scalars = {**output.scalars, "mask_probability": 0.0}
            return output
        words = self.network.get_input_embeddings().num_embeddings
        read = mask_thought(batch["input_ids"], batch["weights"], probability, self._mask(), words)
        coefficients, _ = self._shares(batch)
        said = readout(self.network, {**batch, "input_ids": read})
        loss = said.loss(batch["input_ids"], coefficients, self.token_loss)
        return Output(loss, scalars={"mask_probability": torch.tensor(probability, device=loss.device)})

    def _mask(self) -> int | None:
        if self.replace_by == "random":
            return None
        words = self.tokenizer
        token = words.pad_token_id if words.mask_token_id is None else words.mask_token_id
        if token is None:
            raise ConfigError("replace_by", "mask", "random: the tokenizer has no mask and no padding token")
        return token
