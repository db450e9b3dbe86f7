"""What is in a batch of questions with options, and of texts whose parts are scored."""

from typing import NotRequired, TypedDict

from torch import Tensor


class OptionsBatch(TypedDict):
    """Questions, each with the options that stand behind it; a missing option and padding have weight 0.

    ===================== =================================================================== =======
    key                   shape                                                               type
    ===================== =================================================================== =======
    ``input_ids``         (questions, options, tokens): question and option                   int64
    ``weights``           (questions, options, tokens): 1 on the tokens of the option         float32
    ``labels``            (questions,): number of the right option                            int64
    ``rows``              (questions,): number of each question within its split              int64
    ``context_input_ids`` as ``input_ids``, behind the answer context, where data have one    int64
    ``context_weights``   as ``weights``, for ``context_input_ids``                           float32
    ===================== =================================================================== =======
    """

    input_ids: Tensor
    weights: Tensor
    labels: Tensor
    rows: Tensor
    context_input_ids: NotRequired[Tensor]
    context_weights: NotRequired[Tensor]


class ScoredTextBatch(TypedDict):
    """Documents whose tokens have the score of the part that they belong to, padded on the right.

    ================== ============================================================== =======
    key                shape                                                          type
    ================== ============================================================== =======
    ``input_ids``      (rows, tokens)                                                 int64
    ``attention_mask`` (rows, tokens): 1 on tokens, 0 on padding                      int64
    ``weights``        (rows, tokens): 1 on tokens that are learned, else 0           float32
    ``scores``         (rows, tokens): high is bad; 0 for the end of text and padding float32
    ``rows``           (rows,): number of each document within its split              int64
    ================== ============================================================== =======
    """

    input_ids: Tensor
    attention_mask: Tensor
    weights: Tensor
    scores: Tensor
    rows: Tensor
