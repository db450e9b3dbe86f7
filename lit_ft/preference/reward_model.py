"""A reward model from pairs of answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_ft.core.adapters import has_prompt
from lit_ft.core.checks import NonNegativeFloat, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.preference.batches import PreferencesBatch
from lit_ft.preference.pair_rewards import judged, reward_scalars, weighted_mean
from lit_ft.preference.paired import bradley_terry
from lit_ft.tokens.language_method import LanguageMethod


def rewards(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Rewards of the rows of a batch, shape (rows,), float32.

    The head of a decoder reads the last token that the mask does not exclude. (``transformers`` takes the last token
    other than ``pad_token_id``, which is an earlier one where an answer ends with a token that also pads.) An encoder
    uses its own head.

    Args:
        network: A sequence classifier with one label, with or without an adapter.
        batch: ``input_ids`` and ``attention_mask``, padded on the right.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = RewardModel({"config": config})
        >>> model.configure_model()
        >>> padded = {"input_ids": torch.tensor([[5, 6], [5, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
        >>> alone = {"input_ids": torch.tensor([[5]]), "attention_mask": torch.tensor([[1]])}
        >>> network = model.network.eval()
        >>> torch.allclose(rewards(network, padded)[1], rewards(network, alone)[0])  # padding does not count
        True
    """
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    inner: Any = network.get_base_model() if hasattr(network, "peft_config") else network  # type: ignore[operator]
    if not hasattr(inner, "score"):
        return network(**inputs).logits[:, 0].float()
    hidden = getattr(inner, inner.base_model_prefix)(**inputs, use_cache=False).last_hidden_state
    last = batch["attention_mask"].sum(1) - 1
    return inner.score(hidden[torch.arange(len(last), device=last.device), last])[:, 0].float()


class RewardModel(LanguageMethod):
    r"""Bradley-Terry: the preferred answer of a pair gets the higher reward.

    .. math:: L=\frac{\sum_iw_i\,[-\log\sigma(r_i^+-r_i^--m)+c\,(r_i^++r_i^-)^2]}{\sum_iw_i}

    Reads :class:`PreferencesBatch`.

    The head is new and has one output; with ``network.peft`` it trains with the adapter. Both answers go through the
    network in one forward pass. Logs, besides ``loss``: ``rewards/chosen``, ``rewards/rejected``, ``rewards/margin``,
    ``rewards/accuracy``. Predicts rewards of shape (pairs, 2); metrics read them as logits of the classes 0
    (chosen) and 1, and targets of 0, shape (pairs,). Refuses adapters that put tokens in front of the batch.

    Args:
        network: Decoder or encoder.
        margin: m, by how much the preferred answer should win, 0 or more.
        center: c, 0 or more, draws the rewards of a pair towards opposite values; with 0 their mean is not determined.
            TRL suggests 0.01.
        **kwargs: As in :class:`~lit_ft.core.method.Method`.

    Source: R. A. Bradley, M. E. Terry, 1952; margin as in H. Touvron et al., Llama 2, 2023, arXiv:2307.09288, one
    for each pair.

    See also: :class:`~lit_ft.methods.DPO`, :func:`~lit_ft.preference.paired.bradley_terry`,
        :class:`~lit_ft.data.Preferences`.

    Example:
        >>> config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"}
        >>> model = RewardModel({"config": config}, margin=1.0).eval()
        >>> model.configure_model()
        >>> tokens = torch.tensor([[5, 6, 7], [5, 8, 9]])  # prompt 5; the chosen answer 6 7, then the rejected one
        >>> batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pair_weights": torch.ones(1)}
        >>> chosen, rejected = rewards(model.network.eval(), batch)
        >>> torch.isclose(model.compute(batch).loss, -(chosen - rejected - 1).sigmoid().log())
        tensor(True)
    """

    batch: ClassVar[type] = PreferencesBatch

    def __init__(
        self, network: Network, margin: NonNegativeFloat = 0.0, center: NonNegativeFloat = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.margin, self.center = margin, center

    def build_network(self) -> nn.Module:
        """The network with a head of one output."""
        from lit_ft.models.build import sequence_classifier

        assert self.spec is not None
        return sequence_classifier(self.spec, 1)

    def after_build(self, network: nn.Module) -> None:
        """Refuse a network whose rewards cannot be read."""
        super().after_build(network)
        if has_prompt(network):
            raise ConfigError("network.peft", "prompt learning", "an adapter inside the network, such as LoRA")

    def compute(self, batch: Mapping[str, Tensor]) -> Output:
        """Mean loss over the pairs."""
        chosen, rejected = rewards(self.network, batch).chunk(2)
        losses = bradley_terry(chosen, rejected, self.margin) + self.center * (chosen + rejected).square()
        weights = batch["pair_weights"]
        scalars = reward_scalars(chosen, rejected, weights)
        return Output(weighted_mean(losses, weights), *judged(chosen, rejected), scalars)

    def loss_weight(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Summed weights of the pairs."""
        return batch["pair_weights"].sum()

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Rewards of chosen and rejected answers, shape (pairs, 2)."""
        return torch.stack(rewards(self.network, batch).chunk(2), dim=1)

    def prediction_rows(self, batch: Mapping[str, Tensor], predictions: Tensor) -> list[dict[str, Any]]:
        """The reward of each side."""
        return [{"reward": {"chosen": chosen, "rejected": rejected}} for chosen, rejected in predictions.tolist()]
