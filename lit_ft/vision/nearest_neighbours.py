"""A classifier without training, as an independent judge of others."""

import torch
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError


class NearestNeighbours(nn.Module):
    """The classes of the k nearest rows, by Euclidean distance between inputs.

    Args:
        images: Reference rows, shape (rows, ...).
        labels: Their classes, shape (rows,).
        k: Number of neighbours, from 1 to the number of rows.

    Example:
        >>> judge = NearestNeighbours(torch.tensor([[0.0], [1.0], [9.0]]), labels=torch.tensor([0, 0, 1]), k=2)
        >>> judge(torch.tensor([[0.2], [6.0]]))
        tensor([[2, 0],
                [1, 1]])
    """

    images: Tensor
    labels: Tensor

    def __init__(self, images: Tensor, labels: Tensor, k: int = 5) -> None:
        super().__init__()
        if not 1 <= k <= len(labels):
            raise ConfigError("k", k, f"1 to the number of rows, {len(labels)}")
        self.k, self.classes = k, int(labels.max()) + 1
        self.register_buffer("images", images.flatten(1))
        self.register_buffer("labels", labels)

    def forward(self, x: Tensor) -> Tensor:
        """How many neighbours have each class, shape (rows, classes)."""
        nearest = torch.cdist(x.flatten(1).to(self.images), self.images).topk(self.k, largest=False).indices
        return nn.functional.one_hot(self.labels[nearest], self.classes).sum(1)
