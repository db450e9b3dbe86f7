"""Pairs of digits that both tell the class in training, one of them easy to read."""

from __future__ import annotations

from typing import Any

from lit_ft.core.checks import PositiveInt
from lit_ft.vision.digits import Digits
from lit_ft.vision.side_by_side import SideBySide

EASY = [[0], [1]]
HARD = [[3, 5], [8, 9]]


class RedundantDigits(SideBySide):
    """Two handwritten digits side by side: left 0 or 1, right one of 3 and 5, or one of 8 and 9; two classes.

    The label is the class of the right one. In training the left one agrees with it in a share ``correlation`` of the
    rows: 1 makes it redundant, 0.95 spurious. In validation and test the two are independent, so that accuracy there,
    and a linear probe on features, measure how well the hard one was learnt. Each split has its own digits.

    A batch is ``{images, labels, groups}`` of shapes (rows, 1, 8, 16), or (rows, 128) with ``flat``, (rows,), (rows,).
    The group is ``2 * label + class of the left digit``: 1 and 2 are the minorities of training. Use it
    with ``GroupedClassifier``.

    Source: built after CIFAR-MNIST and Waterbirds as used in "Sharpness-aware minimization enhances feature quality via
    balanced learning", 2024, from the digits of scikit-learn.

    Args:
        rows: Rows of each split.
        batch_size: Rows in a batch; None takes all training rows at once.
        seed: Seed of the splits, the pairs and the order.

    See also: :class:`~lit_ft.data.SideBySide`, :class:`~lit_ft.methods.GroupedClassifier`.

    Example:
        >>> data = RedundantDigits(rows=100, batch_size=4)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch["images"].shape), batch["labels"], batch["groups"]  # group 3 * label: the two digits agree
        ((4, 1, 8, 16), tensor([0, 1, 1, 1]), tensor([0, 3, 3, 3]))
        >>> data.class_names, sorted({group for *_, group in data.rows["test"]})
        (['3 or 5', '8 or 9'], [0, 1, 2, 3])
    """

    def __init__(
        self, rows: PositiveInt = 600, batch_size: PositiveInt | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        digits = Digits(val_fraction=0.25, test_fraction=0.25, seed=seed)
        super().__init__(
            easy=digits, hard=digits, easy_classes=EASY, hard_classes=HARD, rows=rows, image_size=None,
            batch_size=batch_size, seed=seed, **kwargs,
        )  # fmt: skip
