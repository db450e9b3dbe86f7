"""Half fine-tuning against full fine-tuning: time of a step and memory beside the weights, as ratios in one run.

CPU seconds of one thread a step on a Llama of 11 M weights with AdamW, arms in turn, the median of the ratios. Memory
is counted exactly: bytes of gradients before a step, and of optimizer states after it.

    python benchmarks/half_finetuning.py --steps 6 --rounds 3 --json half.json
"""

import json
import logging
import statistics
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from peer import arguments
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_ft.callbacks import GradientMask
from lit_ft.core.selection import RandomHalf

ROWS, LENGTH, VOCABULARY = 4, 128, 2000


class Llama(pl.LightningModule):
    """A language model that learns random tokens."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        sizes = {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 8, "num_attention_heads": 5}
        self.network: nn.Module = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.network(input_ids=batch, labels=batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=1e-4, foreach=False)


class Meter(pl.Callback):
    """CPU seconds from the end of the first step to the last one; bytes of gradients before a step, of states after."""

    def on_before_optimizer_step(self, trainer: Any, module: pl.LightningModule, optimizer: Any) -> None:
        self.gradients = sum(p.grad.nbytes for p in module.parameters() if p.grad is not None)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step == 1:
            self.start = time.process_time()
        self.seconds = time.process_time() - self.start
        states = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        self.states = sum(value.nbytes for value in states if isinstance(value, Tensor))


def measure(half: bool, steps: int) -> dict[str, float]:
    """One run of an arm."""
    meter = Meter()
    data = torch.randint(VOCABULARY, (steps + 1, ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[*([GradientMask(RandomHalf(embeddings=False, head=True))] if half else []), meter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Llama(), DataLoader(list(data), batch_size=None))  # type: ignore[arg-type]
    return {"seconds": meter.seconds / steps, "gradients": meter.gradients, "states": meter.states}


def main() -> None:
    options = arguments(__doc__, steps=6, rounds=3).parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    runs: dict[str, list[dict[str, float]]] = {"full": [], "half": []}
    for _ in range(options.rounds):
        for arm, found in runs.items():
            found.append(measure(arm == "half", options.steps))
    ratios = {
        key: statistics.median(h[key] / f[key] for h, f in zip(runs["half"], runs["full"], strict=True))
        for key in ("seconds", "gradients", "states")
    }
    for key, ratio in ratios.items():
        print(f"{key:10s} half / full = {ratio:.3f}")
    if options.json:
        options.json.write_text(json.dumps({"runs": runs, "ratio": ratios}))


if __name__ == "__main__":
    main()
