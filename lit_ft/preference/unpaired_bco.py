"""Binary classifier optimisation: single answers, classified as desirable or not around their mean reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_ft.core.checks import PositiveFloat
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.preference.batches import UnpairedPreferencesBatch
from lit_ft.preference.reference import sequence_log_probs
from lit_ft.preference.unpaired import bco
from lit_ft.preference.unpaired_policy import UnpairedPolicy, halves, judged, reward_scalars


class UnpairedBCO(UnpairedPolicy):
    r"""Trains the policy as a classifier of single answers whose logit is their reward, shifted by the mean reward.

    .. math:: L=\frac1n\sum_i-\log\sigma(\pm(r_i-\delta)),\quad r=\beta\log\frac{\pi(y|x)}{\pi_0(y|x)}

    with + for desirable answers and - for the others. :math:`\delta` has no gradient: it is the mean reward of all
    answers seen in training so far, those of this batch and of all ranks included; evaluation does not change it. It is
    part of the checkpoint. Under gradient accumulation each micro-batch changes it, so that accumulation equals one
    large batch only approximately.

    Reads :class:`UnpairedPreferencesBatch`; answers to other prompts are not used. Cost: that of DPO for as many
    answers. Dropout is off. Logs, besides ``loss``: ``shift`` (:math:`\delta`), ``rewards/signed`` (mean of :math:`\pm
    r`) and ``rewards/accuracy`` (share of answers on the right side of :math:`\delta`). Metrics read
    :math:`\sigma(r-\delta)` and whether an answer is desirable (1 or 0), both of shape (answers,).

    Args:
        network: A causal language model.
        beta: Strength of the tie to the reference, above 0. TRL's default: 0.1.
        **kwargs: As in :class:`~lit_ft.preference.policy.Policy`.

    Source: S. Jung et al., Binary Classifier Optimization for LLM Alignment, 2024, arXiv:2404.04656, without the
    weights for prompts that differ between desirable and other answers. Loss and shift equal ``BCOTrainer`` of TRL 1.9
    (1.16 has none).

    See also: :func:`~lit_ft.preference.unpaired.bco`, :class:`~lit_ft.methods.KTO`,
        :class:`~lit_ft.data.UnpairedPreferences`.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = UnpairedBCO({"config": config})
        >>> model.configure_model()
        >>> tokens = torch.tensor([[5, 6], [7, 8], [5, 8], [7, 6]])  # prompts 5 and 7, answers 6 and 8, then exchanged
        >>> weights, desirable = torch.tensor([[0.0, 1.0]] * 4), torch.tensor([True, False])
        >>> batch = {"input_ids": tokens, "attention_mask": tokens > 0, "weights": weights, "desirable": desirable}
        >>> output = model.compute(batch)
        >>> output.loss.detach(), output.scalars["shift"]  # log 2: policy and reference are still equal, all rewards 0
        (tensor(0.6931), tensor(0.))
    """

    batch: ClassVar[type] = UnpairedPreferencesBatch
    seen: Tensor

    def __init__(self, network: Network, beta: PositiveFloat = 0.1, **kwargs: Any) -> None:
        super().__init__(network=network, beta=beta, **kwargs)
        # sum and number of the rewards so far; a buffer, so that second passes restore it
        self.register_buffer("seen", torch.zeros(2, dtype=torch.float64))

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """Mean loss over the answers; in training they move the shift first."""
        assert self.reference is not None
        wanted, n = batch["desirable"], len(batch["desirable"])
        own = {**halves(batch)[0], "rows": batch["rows"][:n]} if "rows" in batch else halves(batch)[0]
        rewards = self.beta * (sequence_log_probs(self.network, own) - self.reference.log_probs(self.network, own))
        if self.training:
            self.seen = self.seen + self.sum_and_number(rewards.detach()).to(self.seen)
        shift = (self.seen[0] / self.seen[1].clamp(min=1)).to(rewards.dtype)
        scalars = {"shift": shift, **reward_scalars(rewards, wanted, shift)}
        return Output(bco(rewards, wanted, shift).mean(), *judged(rewards - shift, wanted), scalars)
