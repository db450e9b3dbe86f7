"""The saving of packed prompts before the first new token."""

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
    r"""Runs the prompts of the test padded and prepacked, and compares tokens, time and logits.

    A prompt is the part of an example before its first target; the prompts of the first ``prompts`` test examples
    (or of all, if there are fewer) are one batch. The two ways alternate for ``rounds`` rounds after one that is not
    timed, and the time of each is its median.

    Logs ``prefill/token_ratio`` and ``prefill/time_ratio`` (padded over packed: above 1 packing is better),
    ``prefill/tokens`` (packed), and ``prefill/difference``, the largest difference of logits. Cost: 2 (``rounds`` + 1)
    forward passes over the prompts. Training does not change. Needs a causal language model with full attention in
    every layer as ``network`` of the module, and batches with ``input_ids`` and ``weights``.

    Args:
        prompts: Prompts in the batch, at least 1. Paper: 64.
        rounds: Timed rounds, at least 1.

    Source: S. Zhao et al., Prepacking: A Simple Method for Fast Prefilling and Increased Throughput in Large Language
    Models, 2024, arXiv:2404.09529.

    See also: :func:`~lit_ft.language.prepack.prepacked_prefill`.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from lit_ft.data import Instructions
        >>> from lit_ft.methods import SupervisedFineTuning
        >>> rows = [{"prompt": "x" * length, "completion": "y"} for length in (30, 10, 10, 10)]
        >>> _ = Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        >>> data = Instructions("rows.jsonl", test_path="rows.jsonl", val_fraction=0.0)
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> method = SupervisedFineTuning({"config": {"model_type": "llama", "tokenizer": "bytes", **sizes}})
        >>> trainer = pl.Trainer(callbacks=PrefillCost(), accelerator="cpu", logger=False, enable_progress_bar=False)
        >>> found = trainer.test(method, data, verbose=False)[0]
        >>> found["prefill/tokens"], found["prefill/token_ratio"]  # two rows of 30 tokens, not four
        (60.0, 2.0)
    """

    def __init__(self, prompts: PositiveInt = 32, rounds: PositiveInt = 5) -> None:
        super().__init__()
        checked(locals())
        self.prompts, self.rounds = prompts, rounds
        self._found: list[list[int]] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to collect prompts."""
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
        """Keep the prompts of the batch, until there are enough."""
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
