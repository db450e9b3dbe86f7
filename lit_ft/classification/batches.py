"""What is in a batch of texts with a class, and of vectors with a number."""

from typing import TypedDict

from torch import Tensor


class LabelledTextBatch(TypedDict):
    """Texts with a class, padded on the right.

    ================== ================================================= =====
    key                shape                                             type
    ================== ================================================= =====
    ``input_ids``      (rows, tokens)                                    int64
    ``attention_mask`` (rows, tokens): 1 on tokens, 0 on padding         int64
    ``labels``         (rows,)                                           int64
    ================== ================================================= =====
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


class NumbersBatch(TypedDict):
    """Vectors with a number each.

    =========== ================ =======
    key         shape            type
    =========== ================ =======
    ``inputs``  (rows, features) float32
    ``targets`` (rows,)          float32
    =========== ================ =======
    """

    inputs: Tensor
    targets: Tensor
