"""What is in a batch of token examples."""

from typing import NotRequired, TypedDict

from torch import Tensor


class LanguageBatch(TypedDict):
    """Token examples: padded on the right with ``attention_mask``, or packed into rows with ``position_ids``.

    ================== ========================================================================== =======
    key                shape                                                                      type
    ================== ========================================================================== =======
    ``input_ids``      (rows, tokens)                                                             int64
    ``weights``        (rows, tokens): weight of each token as a target; 0 is only read           float32
    ``rows``           (examples,): number of each example within its split                       int64
    ``attention_mask`` (rows, tokens), padded: 1 on tokens, 0 on padding                          int64
    ``position_ids``   (rows, tokens), packed: position within its example, from 0                int64
    ``tasks``          (rows,), packed (rows, tokens): number of the task, where rows name theirs int64
    ================== ========================================================================== =======
    """

    input_ids: Tensor
    weights: Tensor
    rows: Tensor
    attention_mask: NotRequired[Tensor]
    position_ids: NotRequired[Tensor]
    tasks: NotRequired[Tensor]
