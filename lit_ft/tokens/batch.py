"""A batch of token examples."""

from typing import NotRequired, TypedDict

from torch import Tensor


class LanguageBatch(TypedDict):
    """Token examples: padded on the right with ``attention_mask``, or packed into rows with ``position_ids``.

    ================== ========================================================================== =======
    key                shape                                                                      type
    ================== ========================================================================== =======
    ``input_ids``      (rows, tokens)                                                             int64
    ``weights``        (rows, tokens): weight of each token as a target; 0: context alone         float32
    ``rows``           (examples,): number of each example within its split                       int64
    ``attention_mask`` (rows, tokens), padded: 1 on tokens, 0 on padding                          int64
    ``position_ids``   (rows, tokens), packed: position within its example, from 0                int64
    ``tasks``          (rows,), packed (rows, tokens): number of the task, where rows name theirs int64
    ================== ========================================================================== =======

    See also: :class:`~lit_ft.methods.SupervisedFineTuning`, :class:`~lit_ft.data.Instructions`.

    Example:
        >>> from lit_ft.data import SumChains
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> data = SumChains(chains=8, batch_size=4)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> {name: tuple(value.shape) for name, value in batch.items()}
        {'input_ids': (4, 24), 'attention_mask': (4, 24), 'weights': (4, 24), 'rows': (4,)}
        >>> data.tokenizer.decode(batch["input_ids"][0][batch["weights"][0] > 0])  # what is learned
        '5;4;6;4;0;0</s>'
    """

    input_ids: Tensor
    weights: Tensor
    rows: Tensor
    attention_mask: NotRequired[Tensor]
    position_ids: NotRequired[Tensor]
    tasks: NotRequired[Tensor]
