"""Small generated tasks of numbers with known answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from lit_ft.classification.batches import NumbersBatch
from lit_ft.core.checks import NonNegativeFloat, NonNegativeInt, PositiveInt, Range, checked
from lit_ft.core.data_module import LitData
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.loader import ResumableLoader, make_loader
from lit_ft.sources.splits import Share
from lit_ft.vision.image_rows import ImageRow, ImageRows


class GaussianClusters(ImageRows):
    """Classification of vectors: each class is a normal distribution around a centre of its own.

    Centres are drawn from :math:`N(0, I)` and scaled to length ``distance``; a row is the centre of its class plus
    :math:`N(0, I)`. Use it with ``ImageClassifier`` and the network ``mlp``.

    Args:
        rows: Number of rows over all splits.
        features: Length of a vector.
        classes: Number of classes.
        distance: Length of each centre in standard deviations of a class.
        batch_size: Rows in a batch; None takes all training rows at once.
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        seed: Seed of the rows, the splits and the order.

    See also: :class:`~lit_ft.methods.ImageClassifier`.

    Example:
        >>> data = GaussianClusters(rows=100, features=3, classes=2, batch_size=8)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch["images"].shape), batch["labels"]
        ((8, 3), tensor([0, 0, 0, 0, 1, 0, 1, 0]))
        >>> {split: len(rows) for split, rows in data.rows.items()}
        {'val': 20, 'test': 20, 'train': 60}
    """

    def __init__(
        self,
        rows: PositiveInt = 1000,
        features: PositiveInt = 16,
        classes: Annotated[int, Range(low=2)] = 4,
        distance: float = 3.0,
        batch_size: PositiveInt | None = 32,
        val_fraction: Share = 0.2,
        test_fraction: Share = 0.2,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
        checked(locals())
        self.row_count, self.features, self.classes, self.distance = rows, features, classes, distance

    def read(self) -> tuple[Sequence[ImageRow], list[str]]:
        """Draw centres, classes and rows."""
        generator = torch.Generator().manual_seed(self.seed)
        centres = torch.randn(self.classes, self.features, generator=generator)
        centres = self.distance * centres / centres.norm(dim=1, keepdim=True)
        labels = torch.randint(self.classes, (self.row_count,), generator=generator)
        points = centres[labels] + torch.randn(self.row_count, self.features, generator=generator)
        return list(zip(points, labels.tolist(), strict=True)), [str(number) for number in range(self.classes)]


class NoisyLinear(LitData):
    r"""Regression with a known answer: :math:`y = Xw + \epsilon`, with :math:`X, w \sim N(0, I)`.

    A batch is ``{inputs, targets}`` of shapes (rows, features) and (rows,), see
    :class:`~lit_ft.classification.batches.NumbersBatch`. The attribute ``weights`` holds :math:`w`.

    Args:
        rows: Training rows; validation and test have as many each.
        features: Length of a vector.
        noise: Standard deviation of :math:`\epsilon`.
        batch_size: Rows in a batch; None takes all rows at once.
        seed: Seed of the rows and the order.

    See also: :class:`~lit_ft.methods.Regression`.

    Example:
        >>> data = NoisyLinear(rows=64, features=3, noise=0.0, batch_size=8)
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch["inputs"].shape), torch.allclose(batch["inputs"] @ data.weights, batch["targets"])
        ((8, 3), True)
    """

    batch: ClassVar[type] = NumbersBatch

    def __init__(
        self,
        rows: PositiveInt = 256,
        features: PositiveInt = 8,
        noise: NonNegativeFloat = 0.1,
        batch_size: PositiveInt | None = 32,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        checked(locals())
        self.batch_size, self.seed, self.noise = batch_size, seed, noise
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(features, generator=generator)
        inputs = torch.randn(3, rows, features, generator=generator)
        self.inputs = inputs
        self.targets = inputs @ self.weights + noise * torch.randn(3, rows, generator=generator)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (self.inputs.shape[-1],)

    def train_dataloader(self) -> ResumableLoader:
        """Freshly shuffled in every epoch."""
        return self._loader(0, shuffle=True)

    def val_dataloader(self) -> ResumableLoader:
        """In order."""
        return self._loader(1)

    def test_dataloader(self) -> ResumableLoader:
        """In order."""
        return self._loader(2)

    def _loader(self, part: int, shuffle: bool = False) -> ResumableLoader:
        rows = list(zip(self.inputs[part], self.targets[part], strict=True))
        plan = shuffled_batches(len(rows), self.batch_size, self.seed, shuffle)
        return make_loader(rows, plan, _collate_numbers, self.seed, training=shuffle)


def _collate_numbers(rows: list[Any]) -> dict[str, Tensor]:
    return {"inputs": torch.stack([x for x, _ in rows]), "targets": torch.stack([y for _, y in rows])}
