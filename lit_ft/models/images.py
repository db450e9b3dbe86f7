"""Image classifiers: small ones of our own, or those of ``transformers``."""

from __future__ import annotations

import torch
from torch import nn

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.core.network import Network
from lit_ft.models.adapter import with_adapter
from lit_ft.models.build import pretrained_image_classifier
from lit_ft.models.efficientnet import ASSET, CLASSES, packaged_efficientnet
from lit_ft.models.small import SMALL, small_network
from lit_ft.sources.assets import PREFIX


def image_classifier(spec: Network, num_labels: int, input_shape: tuple[int, ...]) -> nn.Module:
    """A network that maps images (rows, channels, height, width), or vectors, to logits.

    Args:
        spec: ``config: {model_type: mlp | cnn, ...}`` for :mod:`lit_ft.models.small`; ``packaged:efficientnet-lite0``;
            else a path or a config of ``transformers``.
        num_labels: Number of classes.
        input_shape: Shape of one row: ``(channels, height, width)``, or ``(features,)`` for ``mlp``.

    Example:
        >>> spec = Network(config={"model_type": "cnn", "width": 8})
        >>> network = image_classifier(spec, num_labels=10, input_shape=(1, 8, 8))
        >>> network(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """
    kind = None if spec.config is None else spec.config.get("model_type")
    if isinstance(kind, str) and kind not in SMALL and (close := nearest(kind, SMALL)):
        from transformers import CONFIG_MAPPING

        if kind not in CONFIG_MAPPING:
            allowed = f"{', '.join(SMALL)}, or a model type of transformers{close}"
            raise ConfigError("network.config.model_type", kind, allowed)
    if kind in list(SMALL):
        if spec.gradient_checkpointing:
            raise ConfigError("network.gradient_checkpointing", True, "false for mlp and cnn")
        return with_adapter(small_network(spec.config or {}, input_shape, num_labels, _dtype(spec)), spec)
    if len(input_shape) != 3:
        raise ConfigError("network", spec.plain(), f"mlp for vectors of shape {tuple(input_shape)}")
    if spec.path == PREFIX + ASSET:
        if input_shape[0] != 3:
            raise ConfigError("network.path", spec.path, f"images with 3 channels, not {input_shape[0]}")
        network = packaged_efficientnet(num_labels).to(_dtype(spec))
        new = [f"head.{name}" for name, _ in network.head.named_parameters()] if num_labels != CLASSES else []
        return with_adapter(network, spec, absent=new)
    return pretrained_image_classifier(spec, num_labels, (input_shape[0], input_shape[1], input_shape[2]))


def _dtype(spec: Network) -> torch.dtype:
    return torch.float32 if spec.dtype == "auto" else getattr(torch, spec.dtype)
