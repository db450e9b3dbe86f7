"""Batches of texts with a label, and of vectors with a number."""

from typing import NotRequired, TypedDict

from torch import Tensor


class LabelledTextBatch(TypedDict):
    """Texts, or pairs of texts, with a label, padded on the right.

    ================== ======================================================= =====
    key                shape                                                   type
    ================== ======================================================= =====
    ``input_ids``      (rows, tokens)                                          int64
    ``attention_mask`` (rows, tokens): 1 on tokens, 0 on padding               int64
    ``labels``         (rows,): a class                                        int64
    ``token_type_ids`` (rows, tokens): which text of a pair a token is of,     int64
                       where the tokenizer tells
    ================== ======================================================= =====

    Labels of any number of classes are marks of shape (rows, classes), and numbers have shape (rows,), in float32.

    See also: :class:`~lit_ft.methods.TextClassifier`, :class:`~lit_ft.data.LabelledText`.

    Example:
        >>> from lit_ft.classification.labelled_text import collate_labelled
        >>> rows = [(torch.tensor([5, 6, 7]), 1), (torch.tensor([5]), 0)]
        >>> batch: LabelledTextBatch = collate_labelled(rows, padding=0)
        >>> batch["input_ids"], batch["attention_mask"].sum(1), batch["labels"]
        (tensor([[5, 6, 7],
                [5, 0, 0]]), tensor([3, 1]), tensor([1, 0]))
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    token_type_ids: NotRequired[Tensor]


class NumbersBatch(TypedDict):
    """Vectors, each with a number to predict.

    =========== ================ =======
    key         shape            type
    =========== ================ =======
    ``inputs``  (rows, features) float32
    ``targets`` (rows,)          float32
    =========== ================ =======

    See also: :class:`~lit_ft.methods.Regression`, :class:`~lit_ft.data.NoisyLinear`.

    Example:
        >>> from lit_ft.data import NoisyLinear
        >>> batch = next(iter(NoisyLinear(features=3, batch_size=4).train_dataloader()))
        >>> {name: tuple(value.shape) for name, value in batch.items()}
        {'inputs': (4, 3), 'targets': (4,)}
    """

    inputs: Tensor
    targets: Tensor
