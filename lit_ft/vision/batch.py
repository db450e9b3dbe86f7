"""What is in a batch of images."""

from typing import NotRequired, TypedDict

from torch import Tensor


class ImagesBatch(TypedDict):
    """Rows with a class.

    ========== ==================================================================== =======
    key        shape                                                                type
    ========== ==================================================================== =======
    ``images`` (rows, channels, height, width), or (rows, features)                 float32
    ``labels`` (rows,)                                                              int64
    ``groups`` (rows,): number of the group of each row, where rows are in groups   int64
    ``ids``    (rows,): a number that is each row's own, where rows are augmented   int64
    ========== ==================================================================== =======
    """

    images: Tensor
    labels: Tensor
    groups: NotRequired[Tensor]
    ids: NotRequired[Tensor]
