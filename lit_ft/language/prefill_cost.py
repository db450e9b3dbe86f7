"""What packing prompts saves before the first new token."""

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_ft.core.callback import FitCallback
from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.language.prepack import Prefill, padded_prefill, prepacked_prefill


class PrefillCost(FitCallback):
    """Runs the prompts of the test padded and prepacked, side by side, and compares tokens, time and logits.

    A prompt is what stands before the first target of an example; the prompts of the first ``prompts`` test examples
    (fewer where there are fewer) make one batch. The two ways take turns for ``rounds`` rounds after one that is not
    counted, and the time of each is its median.

    Logs ``prefill/token_ratio`` and ``prefill/time_ratio`` (padded over packed: above 1 packing wins),
    ``prefill/tokens`` (packed), and ``prefill/difference``, the largest difference of logits. Cost: 2 (``rounds`` + 1)
    forward passes over the prompts. Training is not touched. Needs a causal language model with full attention in
    every layer as ``network`` of the module, and batches with ``input_ids`` and ``weights``.

    Args:
        prompts: Prompts of the batch, at least 1. Paper: 64.
        rounds: Rounds that are timed, at least 1.

    Source: S. Zhao et al., Prepacking: A Simple Method for Fast Prefilling and Increased Throughput in Large Language
    Models, 2024, arXiv:2404.09529; see :func:`lit_ft.language.prepack.prepacked_prefill`.
    """

    def __init__(self, prompts: PositiveInt = 32, rounds: PositiveInt = 5) -> None:
        super().__init__()
        checked(locals())
        self.prompts, self.rounds = prompts, rounds
        self._found: list[list[int]] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to collect."""
        self._found = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the prompts of the batch."""
        if not isinstance(batch, Mapping) or not {"input_ids", "weights"} <= set(batch):
            raise ConfigError("callbacks", "PrefillCost", "a data module whose batches have input_ids and weights")
        room = self.prompts - len(self._found)
        self._found += [p for p in map(_prompt, batch["input_ids"][:room], batch["weights"][:room]) if p]

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Run both ways and compare."""
        network: Any = getattr(pl_module, "network", None)
        if not self._found or network is None:
            raise ConfigError("callbacks", "PrefillCost", "a module with a `network`, and examples that have a prompt")
        ways = {"padded": padded_prefill, "packed": prepacked_prefill}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        done: dict[str, Prefill] = {}
        for _ in range(self.rounds + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                done[name] = way(network, self._found)
                done[name].logits.sum().item()  # waits for the device
                seconds[name].append(time.perf_counter() - start)
        median = {name: float(torch.tensor(times[1:]).median()) for name, times in seconds.items()}
        difference = (done["padded"].logits.float() - done["packed"].logits.float()).abs().max()
        values = {
            "tokens": float(done["packed"].processed),
            "token_ratio": done["padded"].processed / done["packed"].processed,
            "time_ratio": median["padded"] / median["packed"],
            "difference": float(difference),
        }
        pl_module.log_dict({f"prefill/{name}": value for name, value in values.items()})


def _prompt(ids: Tensor, weights: Tensor) -> list[int]:
    """The tokens before the first target."""
    targets = weights.nonzero()
    return ids[: int(targets[0, 0])].tolist() if len(targets) else []
