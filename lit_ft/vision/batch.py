"""A batch of images."""

from typing import NotRequired, TypedDict

from torch import Tensor


class ImagesBatch(TypedDict):
    """Images, or vectors of numbers, with a label.

    ========== ==================================================================== =======
    key        shape                                                                type
    ========== ==================================================================== =======
    ``images`` (rows, channels, height, width), or (rows, features)                 float32
    ``labels`` (rows,): a class                                                     int64
    ``groups`` (rows,): number of the group of each row, where rows have groups     int64
    ``ids``    (rows,): unique number of each row, where rows are augmented         int64
    ========== ==================================================================== =======

    Labels of any number of classes are marks of shape (rows, classes), and numbers have shape (rows,), in float32.

    See also: :class:`~lit_ft.methods.ImageClassifier`, :class:`~lit_ft.data.ImageFolder`.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> data = GaussianClusters(features=4, batch_size=8)
        >>> data.setup("fit")
        >>> {name: tuple(value.shape) for name, value in next(iter(data.train_dataloader())).items()}
        {'images': (8, 4), 'labels': (8,)}
    """

    images: Tensor
    labels: Tensor
    groups: NotRequired[Tensor]
    ids: NotRequired[Tensor]
