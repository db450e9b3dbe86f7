"""Batches of questions with options, and of texts whose parts are scored."""

from typing import NotRequired, TypedDict

from torch import Tensor


class OptionsBatch(TypedDict):
    """Questions, each joined with each of its options; missing options and padding have weight 0.

    ===================== =================================================================== =======
    key                   shape                                                               type
    ===================== =================================================================== =======
    ``input_ids``         (questions, options, tokens): question and option                   int64
    ``weights``           (questions, options, tokens): 1 on the tokens of the option         float32
    ``labels``            (questions,): number of the right option                            int64
    ``rows``              (questions,): number of each question within its split              int64
    ``context_input_ids`` as ``input_ids``, after the answer context, where data have one     int64
    ``context_weights``   as ``weights``, for ``context_input_ids``                           float32
    ===================== =================================================================== =======

    See also: :class:`~lit_ft.methods.OptionScoring`, :class:`~lit_ft.data.AnswerOptions`.

    Example:
        >>> from lit_ft.data import PermutedQuestions
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = PermutedQuestions(classes=4, shots=0, tasks=2, batch_size=2)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("test")
        >>> batch = next(iter(data.test_dataloader()))
        >>> [data.tokenizer.decode(option) for option in batch["input_ids"][0]], batch["labels"].shape
        (['d0', 'd1', 'd2', 'd3'], torch.Size([2]))
    """

    input_ids: Tensor
    weights: Tensor
    labels: Tensor
    rows: Tensor
    context_input_ids: NotRequired[Tensor]
    context_weights: NotRequired[Tensor]


class ScoredTextBatch(TypedDict):
    """Documents with a score for each token, that of its part of the text; padded on the right.

    ================== ============================================================== =======
    key                shape                                                          type
    ================== ============================================================== =======
    ``input_ids``      (rows, tokens)                                                 int64
    ``attention_mask`` (rows, tokens): 1 on tokens, 0 on padding                      int64
    ``weights``        (rows, tokens): 1 on tokens that are learned, else 0           float32
    ``scores``         (rows, tokens): high is bad; 0 for the end of text and padding float32
    ``rows``           (rows,): number of each document within its split              int64
    ================== ============================================================== =======

    See also: :class:`~lit_ft.methods.PreferencePretraining`, :class:`~lit_ft.data.ScoredText`.

    Example:
        >>> from lit_ft.data import MarkedCorpus
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = MarkedCorpus(documents=8, sentences=2, batch_size=4)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> {name: tuple(value.shape) for name, value in batch.items()}
        {'input_ids': (4, 16), 'attention_mask': (4, 16), 'weights': (4, 16), 'rows': (4,), 'scores': (4, 16)}
    """

    input_ids: Tensor
    attention_mask: Tensor
    weights: Tensor
    scores: Tensor
    rows: Tensor
