"""A batch of related texts."""

from typing import NotRequired, TypedDict

from torch import Tensor


class PairsBatch(TypedDict):
    """Related texts: all anchors, then all positives, then the negatives, column by column; padded on the right.

    ================== ======================================================================== =====
    key                shape                                                                    type
    ================== ======================================================================== =====
    ``input_ids``      (columns * rows, tokens)                                                 int64
    ``attention_mask`` (columns * rows, tokens): 1 on tokens, 0 on padding                      int64
    ``pool_mask``      (columns * rows, tokens): 1 on the tokens that are pooled                int64
    ``keys``           (rows, columns): equal texts have equal keys                             int64
    ``labels``         (rows,): class or domain of each row, where data have one                int64
    ================== ======================================================================== =====

    See also: :class:`~lit_ft.methods.SentenceEmbedding`, :class:`~lit_ft.data.TextPairs`.

    Example:
        >>> from lit_ft.embedding.text_pairs import encode_texts, padded
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> texts = encode_texts(byte_tokenizer(), ["cat", "dog", "a cat", "a dog"], None, 8)  # anchors, positives
        >>> batch = PairsBatch(**padded(texts, padding=0), keys=torch.tensor([[0, 2], [1, 3]]))
        >>> batch["attention_mask"].sum(1)
        tensor([3, 3, 5, 5])
    """

    input_ids: Tensor
    attention_mask: Tensor
    pool_mask: Tensor
    keys: Tensor
    labels: NotRequired[Tensor]
