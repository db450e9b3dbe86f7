"""Supervised pre-training by nearest neighbours."""

from __future__ import annotations

import copy
from typing import Annotated, Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from typing_extensions import override

from lit_ft.core.checks import PositiveFloat, PositiveInt, Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import data_fact
from lit_ft.core.gathering import gather_rows
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.core.optimizers import adamw
from lit_ft.core.passes.window import window_starts
from lit_ft.core.schedules import Schedule
from lit_ft.vision.batch import ImagesBatch
from lit_ft.vision.image_classifier import ImageClassifier
from lit_ft.vision.linear_head import linear_head
from lit_ft.vision.neighbours import leave_one_out
from lit_ft.vision.row_memory import RowMemory


class WithMemory(nn.Module):
    """A network, a slowly moving copy of it, and the features of the last rows under the copy.

    Args:
        network: A network with a method ``features``.
        size: Rows in the memory.
        width: Dimension of the features.

    See also: :class:`~lit_ft.vision.row_memory.RowMemory`.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> network = WithMemory(MLP((4,), 2), size=10, width=64)
        >>> network.network.head.bias.data += 1.0
        >>> network.follow(momentum=0.75)
        >>> (network.network.head.bias - network.slow.head.bias).detach()
        tensor([0.7500, 0.7500])
    """

    def __init__(self, network: nn.Module, size: int, width: int) -> None:
        super().__init__()
        self.network, self.slow = network, copy.deepcopy(network).requires_grad_(False).eval()
        number = torch.tensor(0)
        self.memory = RowMemory(size, {"keys": torch.zeros(width), "labels": number, "rows": number}, key="rows")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the head, which is not trained; shape (rows, classes)."""
        return self.network(images)

    def features(self, images: Tensor) -> Tensor:
        """Shape (rows, width)."""
        return self.network.features(images)  # type: ignore[operator]

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the copy a share ``1 - momentum`` towards the network; buffers are copied."""
        for slow, fast in zip(self.slow.parameters(), self.network.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)
        for copied, buffer in zip(self.slow.buffers(), self.network.buffers(), strict=True):
            copied.copy_(buffer)


class LeaveOneOutNeighbours(ImageClassifier):
    r"""LOOK: each image shares its label with most of its k nearest neighbours, so that a class may have several modes.

    Loss: :func:`~lit_ft.vision.neighbours.leave_one_out` on unit features, with the batch and a memory of earlier rows
    as keys. Keys come from a slow copy of the network, :math:`\xi \leftarrow m \xi + (1 - m) \theta`, and carry no
    gradient. A row is never its own neighbour: rows are identified by ``ids`` of the batch, else by a hash of their
    pixels (with random augmentation the data module must give ``ids``). The memory holds each row once.

    Reads :class:`ImagesBatch`. Logs ``loss``, and in validation and test ``accuracy`` of the vote of the k neighbours
    in the memory. The head is not trained; the callback ``FeatureProbe`` measures the features.

    Cost: another forward pass, and a product of (rows, width) with (memory + rows, width). Memory: a copy of the
    network, and ``memory`` x width numbers, also in checkpoints. Under DDP the memory of each rank holds the rows of
    all ranks.

    Source: "Rethinking Supervised Pre-training for Better Downstream Transferring" (LOOK). No code was found: the
    defaults are those with which small experiments worked, not the paper's. Where none of the k neighbours has the
    label, the nearest key that has it is added.

    Args:
        network: ``{config: {model_type: mlp | cnn, ...}}``.
        k: Number of neighbours, at least 1. With as many as there are rows, each class collapses to one mode.
        temperature: Temperature of the softmax over neighbours, above 0.
        memory: Rows in the memory, at least k; with as many as the data have, all neighbours are found.
        momentum: m of the slow copy, in [0, 1); 0 takes the network itself.
        num_classes: None takes it from the data module.
        input_shape: Shape of one row; None takes it from the data module.
        optimizer: Makes the optimizer from parameters.
        schedule: Learning-rate schedule; None keeps the rate constant.
        metrics: As in :class:`ImageClassifier`.

    See also: :func:`~lit_ft.vision.neighbours.leave_one_out`, :class:`~lit_ft.vision.row_memory.RowMemory`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import GaussianClusters
        >>> model = LeaveOneOutNeighbours({"config": {"model_type": "mlp", "width": 8, "depth": 1}}, k=5)
        >>> trainer = pl.Trainer(fast_dev_run=5, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, GaussianClusters())
        >>> int(model.network.memory.count)  # five batches of 32 rows
        160
    """

    def __init__(
        self,
        network: Network,
        k: PositiveInt = 50,
        temperature: PositiveFloat = 0.1,
        memory: int = 1024,
        momentum: Annotated[float, Range(low=0, below=1)] = 0.9,
        num_classes: int | None = None,
        input_shape: list[int] | None = None,
        optimizer: OptimizerCallable = adamw,
        schedule: Schedule | None = None,
        metrics: dict[str, Metric] | None = None,
    ) -> None:
        super().__init__(
            network=network,
            num_classes=num_classes,
            input_shape=input_shape,
            loss="cross_entropy",
            optimizer=optimizer,
            schedule=schedule,
            metrics=metrics,
        )
        checked(locals())
        if memory < k:
            raise ConfigError("memory", memory, f"at least k, {k}")
        self.k, self.temperature, self.memory, self.momentum = k, temperature, memory, momentum
        self._fresh: dict[str, Tensor] | None = None

    def build_network(self) -> nn.Module:
        """The network, its slow copy and the memory."""
        network = super().build_network()
        head = linear_head(network).requires_grad_(False)
        return WithMemory(network, self.memory, head.in_features)

    @override
    def frozen_parts(self) -> list[nn.Module]:
        assert isinstance(self.network, WithMemory)
        return [self.network.slow]

    def compute(self, batch: ImagesBatch) -> Output:
        """Mean loss over the rows; predictions are the log-probabilities of the vote of the neighbours."""
        network, images, labels = self.network, batch["images"], batch["labels"]
        assert isinstance(network, WithMemory)
        rows = batch["ids"] if "ids" in batch else digests(images)
        queries = F.normalize(network.features(images).float(), dim=-1)
        keys, known, numbers = (network.memory.column(name) for name in ("keys", "labels", "rows"))
        keys = keys.to(queries)  # bf16-true keeps the memory in bf16
        if self.training:
            with torch.no_grad():
                fresh = F.normalize(network.slow.features(images).float(), dim=-1)  # type: ignore[operator]
            self._fresh = {"keys": fresh, "labels": labels, "rows": rows}
            kept = ~torch.isin(numbers, rows)  # the others have a newer key
            keys, known = torch.cat([fresh, keys[kept]]), torch.cat([labels, known[kept]])
            numbers = torch.cat([rows, numbers[kept]])
        same_row = rows[:, None] == numbers[None]
        losses = leave_one_out(queries, keys, labels[:, None] == known[None], same_row, self.k, self.temperature)
        return Output(losses.mean(), predictions=self._vote(queries.detach(), keys, known), targets=labels)

    def _vote(self, queries: Tensor, keys: Tensor, known: Tensor) -> Tensor:
        votes = queries.new_zeros(len(queries), data_fact(self, "num_classes"))
        if len(keys):
            near = (queries @ keys.T / self.temperature).float().topk(min(self.k, len(keys)), dim=1)
            votes.scatter_add_(1, known[near.indices], near.values.softmax(-1))
        return votes.clamp(min=1e-9).log()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Move the slow copy, once per optimizer step."""
        super().on_train_batch_start(batch, batch_idx)
        assert isinstance(self.network, WithMemory)
        if window_starts(self.trainer, batch_idx):
            self.network.follow(self.momentum)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add the rows of the batch to the memory, once, also after several forward passes."""
        if self._fresh is not None:
            assert isinstance(self.network, WithMemory)
            self.network.memory.add({name: gather_rows(part)[0] for name, part in self._fresh.items()})
        self._fresh = None


def digests(images: Tensor) -> Tensor:
    """A hash of the pixels of each image, shape (rows,), int64.

    Example:
        >>> first, second, again = digests(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])).tolist()
        >>> first == again, first == second
        (True, False)
    """
    bits = images.detach().float().contiguous().flatten(1).view(torch.int32).long()
    places = torch.arange(1, bits.shape[1] + 1, device=bits.device)
    return ((bits ^ (places * 2654435761)) * (2 * places + 1)).sum(1).abs()
