"""Rules that change the next-token distribution of a language model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_ft.core.checks import NonNegativeFloat, PositiveInt, checked
from lit_ft.core.errors import ConfigError


@dataclass
class ResponseRules:
    r"""Three rules that make a base model answer like an assistant, as a product of experts.

    .. math:: \log p(t)=\log p_{LM}(t)+r(t)+const,\quad r(t)=b\,\frac{n}{N}[t=\text{end}]-c\,[t\text{ occurred}]+u_t

    where n counts the new tokens, up to N. With b = c = 0 and no biases the model is unchanged.

    Args:
        end_bonus: b, in nats: bonus of the end token, which grows to b until token N; 0 or more. Paper: 15.
        end_after: N, in tokens, at least 1. Paper: 250.
        repeat_penalty: c, in nats, for every token that occurs in the prompt or the answer so far. Paper: 1.5.
        token_bias: u, in nats, by the text of one token each. Paper: such as -5 for "I", -3 for "We", +1 for line ends
            and list marks.

    Source: J. Hewitt et al., Instruction Following without Instruction Tuning, 2024, arXiv:2409.14254 (E89);
    john-hewitt/implicit-ins. Deviation: the bonus stays at b after token N instead of ending there.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> rules = ResponseRules(end_bonus=2.0, end_after=2, repeat_penalty=1.5)
        >>> process = rules.bind(byte_tokenizer(), mask=torch.ones(1, 1))
        >>> process(torch.tensor([[4, 5]]), torch.zeros(1, 6))  # one new token; the end is token 2
        tensor([[ 0.0000,  0.0000,  1.0000,  0.0000, -1.5000, -1.5000]])
    """

    end_bonus: NonNegativeFloat = 15.0
    end_after: PositiveInt = 250
    repeat_penalty: NonNegativeFloat = 1.5
    token_bias: dict[str, float] | None = None

    def __post_init__(self) -> None:
        """Refuse values that would lengthen answers, or never end them."""
        checked({"self": self, **vars(self)})

    def bind(self, tokenizer: Any, mask: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """A logits processor for ``generate`` of ``transformers``.

        Args:
            tokenizer: Tokenizer of the model.
            mask: Attention mask of the prompts, padded on the left, shape (rows, tokens).
        """
        end, bias = tokenizer.eos_token_id, {}
        if end is None and self.end_bonus > 0:
            raise ConfigError("rules.end_bonus", self.end_bonus, "0: the tokenizer has no token that marks an end")
        for text, value in (self.token_bias or {}).items():
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) != 1:
                raise ConfigError("rules.token_bias", text, f"a text of one token; this one has {len(ids)}")
            bias[ids[0]] = value
        length = mask.shape[1]

        def process(input_ids: Tensor, scores: Tensor) -> Tensor:
            new = input_ids.shape[1] - length
            rules = torch.zeros_like(scores)
            said = torch.cat([mask, mask.new_ones(len(mask), new)], 1).bool()
            for row, ids, real in zip(rules, input_ids, said, strict=True):
                row[ids[real].unique()] -= self.repeat_penalty
            for token, value in bias.items():
                rules[:, token] += value
            if end is not None:
                rules[:, end] += self.end_bonus * min(1.0, new / self.end_after)
            return scores + rules

        return process
