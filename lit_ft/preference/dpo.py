"""Direct preference optimisation and its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_ft.core.checks import NonNegativeFloat, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.preference.batches import PreferencesBatch
from lit_ft.preference.ches import ches
from lit_ft.preference.pair_rewards import judged, reward_scalars, weighted_mean
from lit_ft.preference.paired import LogSigmoidPreference, Pairs, PreferenceLoss
from lit_ft.preference.policy import Policy
from lit_ft.preference.reference import sequence_log_probs
from lit_ft.tokens.network import readout

BETA = 0.1


class DPO(Policy):
    r"""Learns which of two answers is preferred, from log-probabilities of both.

    .. math:: L=\frac{\sum_i w_i\,[\ell(h_i)-\lambda\,\tfrac1{|y_i^+|}\log\pi(y_i^+)]}{\sum_i w_i},\quad
              h=\log\frac{\pi(y^+)}{\pi_0(y^+)}-\log\frac{\pi(y^-)}{\pi_0(y^-)}

    Both answers go through the network in one forward pass; logits are computed for targets only, in chunks. Dropout
    is off in policy and reference, so that the first loss is exactly :math:`\ell(0)`.

    Reads :class:`PreferencesBatch`.

    Logs, besides ``loss``: ``rewards/chosen``, ``rewards/rejected``, ``rewards/margin``, ``rewards/accuracy``,
    ``logp/chosen``, ``logp/rejected``. Metrics read the rewards of chosen and rejected answers, shape (pairs, 2), as
    logits of the classes 0 and 1, and targets of 0, shape (pairs,), whatever the weights of the pairs.

    ``logp/chosen`` may fall while the loss falls; this is a known property of the loss: see the callback
    ``LikelihoodDisplacement``, ``sft_weight`` and the CHES filter of ``Preferences``.

    Args:
        network: A causal language model.
        loss: A loss over pairs (``LogSigmoidPreference``, ``RobustPreference``, ``IPO``, ``HingePreference``,
            ``SimPO``, ``ORPO``, ``BCO``, ``NCA``, ``APO``, ``SPPO``); None is DPO itself, with ``beta``.
        beta: Strength of the tie to the reference where ``loss`` is None, above 0; a loss has a strength of its own.
            Paper: 0.1.
        sft_weight: :math:`\lambda`, weight of the supervised loss on the chosen answer, 0 or more.
        **kwargs: As in :class:`Policy`.

    Source: R. Rafailov et al., Direct Preference Optimization, 2023, arXiv:2305.18290; the supervised term as in
    N. Razin et al., Unintentional Unalignment, 2024, arXiv:2410.08847 (C1). Values equal TRL 1.16.

    See also: :mod:`~lit_ft.preference.paired` (losses), :mod:`~lit_ft.preference.reference` (references),
        :class:`~lit_ft.data.Preferences`.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = DPO({"config": config}, beta=0.1)
        >>> model.configure_model()
        >>> tokens = torch.tensor([[5, 6, 7], [5, 8, 9]])  # prompt 5; the chosen answer 6 7, then the rejected one
        >>> weights = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
        >>> batch = {"input_ids": tokens, "weights": weights, "pair_weights": torch.ones(1)}
        >>> model.compute(batch).loss.detach()  # log 2: policy and reference are still equal
        tensor(0.6931)
    """

    batch: ClassVar[type] = PreferencesBatch

    def __init__(
        self,
        network: Network,
        loss: PreferenceLoss | None = None,
        beta: float = BETA,
        sft_weight: NonNegativeFloat = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        if loss is not None and beta != BETA:
            raise ConfigError("beta", beta, f"nothing beside loss: {type(loss).__name__} has arguments of its own")
        self.loss, self.sft_weight = LogSigmoidPreference(beta) if loss is None else loss, sft_weight
        self.needs_reference = self.loss.needs_reference

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """Mean loss over the pairs."""
        sums, tokens = sequence_log_probs(self.network, batch), batch["weights"].sum(1)
        pairs = Pairs(*sums.chunk(2), *tokens.chunk(2))
        if self.needs_reference:
            assert self.reference is not None
            before = self.reference.log_probs(self.network, batch)
            pairs.reference_chosen, pairs.reference_rejected = before.chunk(2)
        losses = self.loss(pairs)
        if self.sft_weight:
            losses = losses - pairs.per_token(self.sft_weight * pairs.chosen, pairs.rejected)[0]
        weights = batch["pair_weights"]
        chosen, rejected = self.loss.rewards(pairs)
        scalars = reward_scalars(chosen, rejected, weights) | {
            "logp/chosen": weighted_mean(pairs.chosen.detach(), weights),
            "logp/rejected": weighted_mean(pairs.rejected.detach(), weights),
        }
        return Output(weighted_mean(losses, weights), *judged(chosen, rejected), scalars)

    def loss_weight(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Summed weights of the pairs."""
        return batch["pair_weights"].sum()

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Log-probabilities of chosen and rejected answers, shape (pairs, 2)."""
        return torch.stack(sequence_log_probs(self.network, batch).chunk(2), dim=1)

    def prediction_rows(self, batch: Mapping[str, Tensor], predictions: Tensor) -> list[dict[str, Any]]:
        """The log-probability of each side."""
        return [
            {"log_probability": {"chosen": chosen, "rejected": rejected}} for chosen, rejected in predictions.tolist()
        ]

    @torch.no_grad()
    def ches(self, batch: Mapping[str, Tensor], length_normalize: bool = True) -> Tensor:
        """CHES scores of the pairs of a batch, shape (pairs,), for ``filter_column`` of ``Preferences``."""
        said = readout(self.network, batch)
        if said.weight is None:
            raise ConfigError("network", type(self.network).__name__, "a network whose head is one linear map")
        return ches(said.states, batch["weights"], length_normalize)
