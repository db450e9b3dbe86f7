"""What is in a batch of preferences, in pairs and one by one."""

from typing import TypedDict

from torch import Tensor


class PreferencesBatch(TypedDict):
    """Pairs of answers: the chosen ones, then the rejected ones in the same order; padded on the right.

    ================== =============================================================================== =======
    key                shape                                                                           type
    ================== =============================================================================== =======
    ``input_ids``      (2 * pairs, tokens): prompt and answer                                          int64
    ``attention_mask`` (2 * pairs, tokens): 1 on tokens, 0 on padding                                  int64
    ``weights``        (2 * pairs, tokens): weight of each token of the answer, 0 on prompt, padding   float32
    ``rows``           (2 * pairs,): number of each row within its split                               int64
    ``pair_weights``   (pairs,)                                                                        float32
    ================== =============================================================================== =======
    """

    input_ids: Tensor
    attention_mask: Tensor
    weights: Tensor
    rows: Tensor
    pair_weights: Tensor


class UnpairedPreferencesBatch(TypedDict):
    """Answers, then as many answers to other prompts behind the same prompts in turn; padded on the right.

    ================== =============================================================================== =======
    key                shape                                                                           type
    ================== =============================================================================== =======
    ``input_ids``      (2 * answers, tokens): prompt and answer                                        int64
    ``attention_mask`` (2 * answers, tokens): 1 on tokens, 0 on padding                                int64
    ``weights``        (2 * answers, tokens): weight of each token of the answer, 0 on prompt, padding float32
    ``rows``           (2 * answers,): number of each row within its split                             int64
    ``desirable``      (answers,): whether each answer is wanted                                       bool
    ================== =============================================================================== =======
    """

    input_ids: Tensor
    attention_mask: Tensor
    weights: Tensor
    rows: Tensor
    desirable: Tensor
