"""Masked thought: supervised fine-tuning on answers parts of which cannot be read."""

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
        weights: Of the tokens as targets; tokens of weight 0 (question, padding) stay.
        probability: Of each replacement, in [0, 1].
        token: What is put in; None draws a token at random.
        vocabulary: Number of tokens to draw from.
    """
    chosen = (torch.rand(input_ids.shape, device=input_ids.device) < probability) & (weights != 0)
    drawn = torch.randint_like(input_ids, vocabulary) if token is None else torch.full_like(input_ids, token)
    return torch.where(chosen, drawn, input_ids)


class MaskedThought(SupervisedFineTuning):
    r"""Supervised fine-tuning with noise in the answer that is read, not in the answer that is learned.

    .. math:: -\sum_t w_t\log p(x_t\mid\tilde x_{<t}),\qquad
              \tilde x_s=x_s\text{ with probability }1-p,\text{ else a mask or random token, for }s\text{ in the answer}

    so that later steps lean on the question more and on the step before less. The probability rises with the optimizer
    step (not with what a loader's worker has counted): :math:`p_k=p\min(1,k/(r K))` at step k of K. Validation and test
    read the true answer. Costs nothing beside supervised fine-tuning. Logs ``mask_probability``.

    Args:
        network: A causal language model.
        probability: p, in [0, 1]. Paper: 0.4 on GSM8K, 0.2 on MetaMath and MAmmoTH.
        rise: r, the share of the run in which p rises from 0, in [0, 1]. Paper: 0.66 on GSM8K, 0 is constant.
        replace_by: ``random`` tokens (paper's recipe for GSM8K) or the ``mask`` token; the padding token where the
            tokenizer has none, as in the reference.
        **kwargs: As in :class:`SupervisedFineTuning`. Paper: rate 1e-5, cosine with 1 % warm-up.

    Source: C. Chen et al., Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical Reasoning
    Learning of Language Models, 2024, arXiv:2403.02178; ChangyuChen347/MaskedThought.
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
        """The probability p at the optimizer step that is under way."""
        if self.rise == 0 or self._trainer is None:
            return self.probability
        span = self.rise * self.trainer.estimated_stepping_batches
        if math.isinf(span):
            raise ConfigError("rise", self.rise, "0, or a run of known length: set trainer.max_steps")
        return self.probability * min(1.0, self.trainer.global_step / span)

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """The loss; in training after some of the answer has been replaced."""
        probability = self.current_probability() if self.training else 0.0
        if probability == 0:
            return super().compute(batch)
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
