"""Batches of preferences: pairs of answers, and single answers."""

from typing import TypedDict

from torch import Tensor


class PreferencesBatch(TypedDict):
    """Pairs of answers: all chosen ones, then the rejected ones in the same order; padded on the right.

    ================== =============================================================================== =======
    key                shape                                                                           type
    ================== =============================================================================== =======
    ``input_ids``      (2 * pairs, tokens): prompt and answer                                          int64
    ``attention_mask`` (2 * pairs, tokens): 1 on tokens, 0 on padding                                  int64
    ``weights``        (2 * pairs, tokens): weight of each token of the answer, 0 on prompt, padding   float32
    ``rows``           (2 * pairs,): number of each row within its split                               int64
    ``pair_weights``   (pairs,)                                                                        float32
    ================== =============================================================================== =======

    See also: :class:`~lit_ft.methods.DPO`, :class:`~lit_ft.methods.RewardModel`, :class:`~lit_ft.data.Preferences`.

    Example:
        >>> tokens = torch.tensor([[5, 6, 7], [5, 8, 9]])  # prompt 5; the chosen answer 6 7, then the rejected one
        >>> weights = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
        >>> batch = PreferencesBatch(
        ...     input_ids=tokens,
        ...     attention_mask=torch.ones_like(tokens),
        ...     weights=weights,
        ...     rows=torch.arange(2),
        ...     pair_weights=torch.ones(1),
        ... )
        >>> chosen, rejected = batch["input_ids"].chunk(2)
        >>> chosen, rejected
        (tensor([[5, 6, 7]]), tensor([[5, 8, 9]]))
    """

    input_ids: Tensor
    attention_mask: Tensor
    weights: Tensor
    rows: Tensor
    pair_weights: Tensor


class UnpairedPreferencesBatch(TypedDict):
    """Prompts with their answers, then the same prompts with answers to other prompts; padded on the right.

    ================== =============================================================================== =======
    key                shape                                                                           type
    ================== =============================================================================== =======
    ``input_ids``      (2 * answers, tokens): prompt and answer                                        int64
    ``attention_mask`` (2 * answers, tokens): 1 on tokens, 0 on padding                                int64
    ``weights``        (2 * answers, tokens): weight of each token of the answer, 0 on prompt, padding float32
    ``rows``           (2 * answers,): number of each row within its split                             int64
    ``desirable``      (answers,): whether each answer is wanted                                       bool
    ================== =============================================================================== =======

    See also: :class:`~lit_ft.methods.KTO`, :class:`~lit_ft.methods.UnpairedBCO`,
        :class:`~lit_ft.data.UnpairedPreferences`.

    Example:
        >>> tokens = torch.tensor([[5, 6], [7, 8], [5, 8], [7, 6]])  # prompts 5 and 7, answers 6 and 8, then exchanged
        >>> batch = UnpairedPreferencesBatch(
        ...     input_ids=tokens,
        ...     attention_mask=torch.ones_like(tokens),
        ...     weights=torch.tensor([[0.0, 1.0]] * 4),
        ...     rows=torch.arange(4),
        ...     desirable=torch.tensor([True, False]),
        ... )
        >>> len(batch["input_ids"]), len(batch["desirable"])
        (4, 2)
    """

    input_ids: Tensor
    attention_mask: Tensor
    weights: Tensor
    rows: Tensor
    desirable: Tensor
