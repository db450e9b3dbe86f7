"""An image classifier whose test measures certified radii, and the alignment of its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_ft.core.checks import NonNegativeFloat, PositiveFloat, PositiveInt, checked
from lit_ft.core.facts import data_fact, data_of
from lit_ft.core.network import Network
from lit_ft.vision.aligned_gradients import agreement, pictures, towards
from lit_ft.vision.certified_accuracy import CertifiedAccuracy
from lit_ft.vision.image_classifier import ImageClassifier
from lit_ft.vision.nearest_neighbours import NearestNeighbours
from lit_ft.vision.smoothed_classifier import SmoothedClassifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10  # columns of the picture


class CertifiedClassifier(ImageClassifier):
    r"""An :class:`ImageClassifier` whose test certifies it by randomised smoothing, and measures its gradients.

    The first rows of the test get certificates of :class:`~lit_ft.vision.smoothed_classifier.SmoothedClassifier`. Then
    each is moved towards another class along the gradients of the smoothed score, inside an L2 ball
    (:func:`~lit_ft.vision.aligned_gradients.towards`). Where gradients are perceptually aligned the results look like
    that class: an independent classifier, the nearest training rows, agrees. Train with the callback ``GaussianNoise``
    of the same ``sigma``; otherwise certified radii are small.

    Reads :class:`~lit_ft.vision.batch.ImagesBatch`. Logs ``loss``, in validation and test ``accuracy``, and in the test
    ``test/certified_accuracy_<radius>``, ``test/reached`` (share of moved rows that the network assigns to the class
    they were moved to) and ``test/agreement`` (share of these that the nearest neighbours assign to it too). Draws some
    rows before and after where inputs are images. Cost in the test: ``rows`` times (100 + n) forward passes of one row,
    and 400 forward and backward passes of ``rows`` rows.

    Source: S. Kaur, J. Cohen, Z. Lipton, "Are Perceptually-Aligned Gradients a General Property of Robust
    Classifiers?", 2019, arXiv 1910.08640; J. Cohen, E. Rosenfeld, J. Z. Kolter, "Certified Adversarial Robustness via
    Randomized Smoothing", 2019, arXiv 1902.02918. Deviation: alignment is a number here, where the authors show
    pictures.

    Args:
        network: As for :class:`ImageClassifier`.
        sigma: Standard deviation of the smoothing noise in the units of the input, above 0 (paper: 0.25, 0.5, 1 for
            pixels in [0, 1]). A small one hardly changes the classifier and its gradients.
        radii: L2 radii at which certified accuracy is logged.
        n: Noisy copies of a row for its certificate, at least 1 (paper: 100,000).
        budget: L2 radius of the ball in which rows are moved, above 0. With a large one, the gradients of every
            classifier lead to something that looks like the class.
        rows: Rows of the test that are certified and moved, at least 1.
        neighbours: Number of nearest training rows of the independent classifier, at least 1.
        **kwargs: As in :class:`ImageClassifier`.

    See also: :class:`~lit_ft.vision.smoothed_classifier.SmoothedClassifier`,
        :class:`~lit_ft.metrics.CertifiedAccuracy`, :class:`~lit_ft.callbacks.GaussianNoise`.

    Example:
        >>> import lightning.pytorch as pl
        >>> from lit_ft.data import GaussianClusters
        >>> model = CertifiedClassifier({"config": {"model_type": "mlp"}}, radii=[0.0, 0.5], n=50, rows=8)
        >>> data = GaussianClusters(classes=2)
        >>> trainer = pl.Trainer(fast_dev_run=20, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(model, data)
        >>> found = trainer.test(model, data, verbose=False)[0]
        >>> found["test/certified_accuracy_0"] >= found["test/certified_accuracy_0.5"]
        True
    """

    def __init__(
        self,
        network: Network,
        sigma: PositiveFloat = 0.25,
        radii: list[NonNegativeFloat] = [0.0, 0.25, 0.5, 1.0],  # noqa: B006  never changed
        n: PositiveInt = 1000,
        budget: PositiveFloat = 3.0,
        rows: PositiveInt = 100,
        neighbours: PositiveInt = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(network=network, **kwargs)
        checked(locals())
        self.sigma, self.radii, self.n, self.budget = sigma, list(radii), n, budget
        self.rows, self.neighbours = rows, neighbours
        self._moved: tuple[Tensor, Tensor, list[str]] | None = None

    def on_test_epoch_end(self) -> None:
        """Log ``test/...``, the certified accuracies, and the alignment of gradients."""
        super().on_test_epoch_end()
        with torch.inference_mode(False):  # gradients are needed
            images, labels = self._first("test", self.rows)
            judge = NearestNeighbours(*self._first("train", None), self.neighbours)
            self.log_dict({**self._certify(images, labels), **self._follow(images, labels, judge)}, sync_dist=True)

    def _first(self, split: str, limit: int | None) -> tuple[Tensor, Tensor]:
        """The first rows of a split, or all."""
        found: list[tuple[Tensor, Tensor]] = []
        for batch in getattr(data_of(self), f"{split}_dataloader")():
            found.append((batch["images"], batch["labels"]))
            if limit is not None and sum(len(labels) for _, labels in found) >= limit:
                break
        images, labels = (torch.cat(parts)[:limit].to(self.device) for parts in zip(*found, strict=True))
        return images, labels

    def _certify(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        found = SmoothedClassifier(self, self.sigma, n=self.n).certify(images)
        given = torch.tensor([one.label for one in found]), torch.tensor([one.radius for one in found])
        values = {}
        for radius in self.radii:
            metric = CertifiedAccuracy(radius)
            metric.update(*given, labels.cpu())
            values[f"test/certified_accuracy_{radius:g}"] = metric.compute()
        return values

    def _follow(self, images: Tensor, labels: Tensor, judge: NearestNeighbours) -> dict[str, Tensor]:
        classes = data_fact(self, "num_classes")
        steps = 1 + torch.arange(len(labels), device=labels.device) % (classes - 1)
        targets = (labels + steps) % classes
        moved = towards(self, images, targets, self.budget, self.sigma)
        with torch.no_grad():
            reached = (self(moved).argmax(-1) == targets).float().mean()
        if images.ndim == 4:
            titles = [f"{a} to {b}" for a, b in zip(labels.tolist(), targets.tolist(), strict=True)]
            self._moved = images[:SHOWN].mean(1), moved[:SHOWN].mean(1), titles[:SHOWN]
        return {"test/reached": reached, "test/agreement": torch.tensor(agreement(self, judge, moved, targets))}

    def plots(self, history: Mapping[str, Any]) -> dict[str, Figure]:
        """Some rows before and after; nothing before a test."""
        return {"aligned_gradients": pictures(*self._moved)} if self._moved else {}
