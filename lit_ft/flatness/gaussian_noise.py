"""Training on noisy inputs."""

from collections.abc import MutableMapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import NonNegativeFloat, checked
from lit_ft.core.errors import ConfigError
from lit_ft.flatness.sam import SAM


class GaussianNoise(FitCallback):
    r"""Adds :math:`\mathcal{N}(0, \sigma^2)` to one tensor of each training batch, as randomised smoothing requires.

    A network trained so can be certified with ``SmoothedClassifier``. Validation and test stay clean.

    Requires: batches that are mappings or lists with a tensor of floating-point numbers under ``key``. The entry is
    replaced; the tensor itself is not changed. Must stand before ``SAM`` in the list of callbacks, so that both passes
    see the same noise.

    Cost: one random tensor a batch. Logs nothing. The noise is drawn from torch's global generator of the device.

    Source: J. Cohen, E. Rosenfeld, J. Z. Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
    arXiv 1902.02918; perceptually aligned gradients: S. Kaur, J. Cohen, Z. Lipton, 2019, arXiv 1910.08640.

    Args:
        sigma: Standard deviation in the units of the batch, at least 0 (paper: 0.25, 0.5, 1 for pixels in [0, 1];
            divide by the standard deviation of the pixels where the data module standardises them).
        key: Key or position of the inputs.

    See also: :class:`~lit_ft.vision.smoothed_classifier.SmoothedClassifier`, which certifies the network.

    Example:
        >>> batch = {"images": torch.zeros(10000)}
        >>> GaussianNoise(sigma=0.5).on_train_batch_start(None, None, batch, 0)  # as the trainer calls it
        >>> round(batch["images"].std().item(), 1)
        0.5
    """

    before = (SAM,)

    def __init__(self, sigma: NonNegativeFloat = 0.25, key: str | int = "images") -> None:
        super().__init__()
        checked(locals())
        self.sigma, self.key = sigma, key

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Replace the inputs by noisy ones. With sigma 0 nothing is drawn, so that other randomness stays as it is."""
        if self.sigma == 0:
            return
        allowed = "the key of a tensor of floating-point numbers in a mapping, or its position in a list"
        if not isinstance(batch, (MutableMapping, list)):
            raise ConfigError("key", f"{self.key} of a {type(batch).__name__}", allowed)
        try:
            inputs = batch[self.key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            inputs = None
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise ConfigError("key", self.key, allowed)
        batch[self.key] = inputs + self.sigma * torch.randn_like(inputs)  # type: ignore[index]
