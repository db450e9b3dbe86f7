"""Two classifiers that are trained apart on the same batches, and the loss on the paths between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor, nn

from lit_ft.connectivity.barrier import barrier
from lit_ft.connectivity.dropout_path import dropout_path
from lit_ft.connectivity.paths import Path, linear_path
from lit_ft.connectivity.profile import losses_along
from lit_ft.connectivity.unit_layers import unit_layers
from lit_ft.core.checks import Range, checked
from lit_ft.core.facts import data_of
from lit_ft.core.method import Output
from lit_ft.core.network import Network
from lit_ft.models.small import MLP, ConvNet
from lit_ft.sources.loader import ResumableLoader
from lit_ft.vision.batch import ImagesBatch
from lit_ft.vision.image_classifier import ImageClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def each_once(data: Any, split: str) -> Any:
    """The loader of a split, without the rows that a training loader repeats to give every rank equally many.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> data = GaussianClusters(rows=100, batch_size=32)
        >>> data.setup("fit")
        >>> [len(batch["labels"]) for batch in each_once(data, "train")]  # 60 % of the rows
        [32, 28]
    """
    loader = getattr(data, f"{split}_dataloader")()
    if isinstance(loader, ResumableLoader):
        loader.sampler.training = False
    return loader


class Ends(nn.Module):
    """The two networks between which paths run.

    Args:
        first: The network at t = 0.
        last: The network at t = 1.

    Example:
        >>> ends = Ends(MLP((4,), 2), MLP((4,), 2))
        >>> images = torch.ones(1, 4)
        >>> torch.equal(ends(images), ends.first(images)), torch.equal(ends(images), ends.last(images))
        (True, False)
    """

    def __init__(self, first: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = first, last

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the first network."""
        return self.first(images)

    def features(self, images: Tensor) -> Tensor:
        """Features of the first network: the input of its head."""
        return self.first.features(images)  # type: ignore[operator]


class ClassifierPair(ImageClassifier):
    r"""Trains two networks that differ in their random weights, :math:`\ell(w_A) + \ell(w_B)` on the same batches.

    Each gets the gradient that it would get alone. In the test, the loss is measured along the straight line between
    them and, for an ``mlp`` or ``cnn`` of d hidden layers, along the path of dropout stability
    (:func:`~lit_ft.connectivity.dropout_path.dropout_path`), over all rows of one split.

    Reads :class:`ImagesBatch`. Logs ``loss`` and ``accuracy`` over both networks, and in the test
    ``test/linear_max``, ``test/linear_barrier``, ``test/dropout_max``, ``test/dropout_barrier``, and
    ``test/dropout_bound``, an upper bound of the loss on that path. Draws the losses along the paths. Cost: that
    of two networks; in the test ``num_positions`` passes over the split for each path, twice as many with batch norm,
    whose statistics are estimated anew at every position.

    Source: "Explaining landscape connectivity of low-cost solutions for multilayer nets", 2019.

    Args:
        network: As for :class:`ImageClassifier`.
        num_positions: Number of positions where the loss is measured, the ends included; 1 more than a multiple of
            4 d + 1 includes the corners of the dropout path.
        split: ``train``, ``val`` or ``test``: rows on which the loss is measured.
        **kwargs: As in :class:`ImageClassifier`.

    See also: :class:`~lit_ft.methods.ModeConnectivity`, :class:`~lit_ft.connectivity.paths.Path`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import GaussianClusters
        >>> model = ClassifierPair({"config": {"model_type": "mlp", "width": 8, "depth": 1}}, num_positions=6)
        >>> data = GaussianClusters(rows=200)
        >>> trainer = pl.Trainer(fast_dev_run=3, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, data)
        >>> found = trainer.test(model, data, verbose=False)[0]
        >>> sorted(name for name in found if "dropout" in name)
        ['test/dropout_barrier', 'test/dropout_bound', 'test/dropout_max']
        >>> found["test/dropout_max"] <= found["test/dropout_bound"]
        True
    """

    def __init__(
        self,
        network: Network,
        num_positions: Annotated[int, Range(low=2)] = 21,
        split: Literal["train", "val", "test"] = "train",
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.num_positions, self.split = num_positions, split
        self._profiles: dict[str, list[float]] = {}

    def build_network(self) -> nn.Module:
        """Two networks with weights of their own."""
        return Ends(super().build_network(), super().build_network())

    @property
    def ends(self) -> Ends:
        """The two networks."""
        assert isinstance(self.network, Ends)
        return self.network

    def compute(self, batch: ImagesBatch) -> Output:
        """The sum of both losses; predictions of the first network, then of the last."""
        both = [end(batch["images"]).float() for end in (self.ends.first, self.ends.last)]
        loss = sum(self.row_losses(logits, batch["labels"]).mean() for logits in both)
        assert isinstance(loss, Tensor)
        return Output(loss, predictions=torch.cat(both), targets=batch["labels"].repeat(2))

    def paths(self) -> dict[str, Path]:
        """The paths that are measured, by name."""
        first, last = (dict(end.named_parameters()) for end in (self.ends.first, self.ends.last))
        found = {"linear": linear_path(first, last)}
        if isinstance(self.ends.first, (MLP, ConvNet)) and len(self.ends.first.blocks) > 0:
            found["dropout"] = dropout_path(first, last, *unit_layers(self.ends.first))
        return found

    def _losses(self, network: nn.Module, batch: ImagesBatch) -> Tensor:
        images = batch["images"].to(next(network.parameters()))  # its device, and its type where that is bf16
        return self.row_losses(network(images).float(), batch["labels"].to(self.device))

    def on_test_epoch_end(self) -> None:
        """Log ``test/...``, and the values of the paths over the rows of all ranks."""
        super().on_test_epoch_end()
        data = data_of(self)
        positions = torch.linspace(0, 1, self.num_positions, dtype=torch.float64).tolist()
        for name, path in self.paths().items():
            rows, train = each_once(data, self.split), each_once(data, "train")
            losses = losses_along(self.ends.first, path, positions, self._losses, rows, train)
            self._profiles[name] = losses
            height = barrier(torch.tensor(positions), torch.tensor(losses))
            self.log_dict({f"test/{name}_max": max(losses), f"test/{name}_barrier": height.float()})
            if name == "dropout":
                ends = len(path.points) - 1
                knots = [k / ends for k in range(ends + 1)]
                corners = losses_along(self.ends.first, path, knots, self._losses, rows, train)
                self.log("test/dropout_bound", max(corners))

    def plots(self, history: Mapping[str, Any]) -> dict[str, Figure]:
        """The losses along the paths; nothing before a test."""
        if not self._profiles:
            return {}
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for name, losses in self._profiles.items():
            axes.plot(torch.linspace(0, 1, len(losses)), losses, marker=".", linewidth=1.2, label=name)
        axes.set(xlabel="position on the path", ylabel=f"{self.split} loss", title="mode connectivity")
        axes.legend(fontsize="small", frameon=False)
        axes.grid(alpha=0.25)
        return {"mode_connectivity": figure}
