"""Kahneman-Tversky optimisation: learning from desirable and undesirable answers, without pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_ft.core.checks import NonNegativeFloat, PositiveFloat, checked
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.preference.batches import UnpairedPreferencesBatch
from lit_ft.preference.reference import sequence_log_probs
from lit_ft.preference.unpaired import kto
from lit_ft.preference.unpaired_policy import UnpairedPolicy, halves, judged, reward_scalars


class KTO(UnpairedPolicy):
    r"""Raises desirable answers above a reference point and lowers undesirable ones below it.

    .. math:: L=\frac1n\sum_i\lambda_{y_i}\,[1-\sigma(\pm\beta(r_i-z))],\quad r=\log\frac{\pi(y|x)}{\pi_0(y|x)},\quad
              z=\max\Big(0,\frac1n\sum_i\log\frac{\pi(y'_i|x_i)}{\pi_0(y'_i|x_i)}\Big)

    with + for desirable answers, - for the others, and :math:`y'_i` an answer to another prompt. z has no gradient. It
    is the mean over the micro-batch, of all ranks in training and of one rank in validation and test. Under gradient
    accumulation each micro-batch has its own z, so that accumulation equals one large batch only where z is 0.

    Reads :class:`UnpairedPreferencesBatch`.

    Cost: that of DPO, and one more forward pass without gradient. Dropout is off in policy and reference, so that the
    first loss is exactly half the mean weight. Logs, besides ``loss``: ``divergence`` (z), ``rewards/signed`` (mean of
    :math:`\pm\beta r`) and ``rewards/accuracy`` (share of answers on the right side of z). Metrics read
    :math:`\sigma(\beta(r-z))` and whether an answer is desirable (1 or 0), both of shape (answers,).

    Args:
        network: A causal language model.
        beta: Strength of the tie to the reference, above 0. Paper: 0.1.
        desirable_weight: :math:`\lambda_D`, 0 or more. Paper: weights times numbers of answers in a ratio of 1 to 4/3,
            desirable to undesirable.
        undesirable_weight: :math:`\lambda_U`, 0 or more.
        **kwargs: As in :class:`~lit_ft.preference.policy.Policy`.

    Source: K. Ethayarajh et al., KTO, 2024, arXiv:2402.01306, eq. 7 and 8. Values equal TRL 1.16, which borrows answers
    from the same batch.

    See also: :func:`~lit_ft.preference.unpaired.kto`, :class:`~lit_ft.methods.UnpairedBCO`,
        :class:`~lit_ft.data.UnpairedPreferences`.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = KTO({"config": config}, undesirable_weight=2.0)
        >>> model.configure_model()
        >>> tokens = torch.tensor([[5, 6], [7, 8], [5, 8], [7, 6]])  # prompts 5 and 7, answers 6 and 8, then exchanged
        >>> weights, desirable = torch.tensor([[0.0, 1.0]] * 4), torch.tensor([True, False])
        >>> batch = {"input_ids": tokens, "attention_mask": tokens > 0, "weights": weights, "desirable": desirable}
        >>> model.compute(batch).loss.detach()  # half the mean weight, 1.5: policy and reference are still equal
        tensor(0.7500)
    """

    batch: ClassVar[type] = UnpairedPreferencesBatch

    def __init__(
        self,
        network: Network,
        beta: PositiveFloat = 0.1,
        desirable_weight: NonNegativeFloat = 1.0,
        undesirable_weight: NonNegativeFloat = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, beta=beta, **kwargs)
        checked(locals())
        self.weights = (desirable_weight, undesirable_weight)

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """Mean loss over the answers."""
        assert self.reference is not None
        wanted, n = batch["desirable"], len(batch["desirable"])
        own, borrowed = halves(batch)
        with torch.no_grad():
            before, before_borrowed = self.reference.log_probs(self.network, batch).split(n)
            divergence = self._divergence(sequence_log_probs(self.network, borrowed) - before_borrowed)
        ratios = sequence_log_probs(self.network, own) - before
        losses = kto(ratios, wanted, divergence, self.beta, self.weights)
        scalars = {"divergence": divergence, **reward_scalars(self.beta * ratios, wanted, self.beta * divergence)}
        return Output(losses.mean(), *judged(self.beta * (ratios - divergence), wanted), scalars)

    def _divergence(self, ratios: Tensor) -> Tensor:
        """Mean log-ratio of borrowed answers, at least 0."""
        total, number = self.sum_and_number(ratios)
        return (total / number).clamp(min=0)
