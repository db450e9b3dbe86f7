"""What a step of half fine-tuning costs and holds in memory, as a share of full fine-tuning.

    python benchmarks/half_finetuning.py --steps 10 --rounds 3 --threads 1 --json half.json

All arms train the same small Llama under AdamW in one process and are measured in turn, round after round, in CPU
seconds of the process; the ratio is taken within a round and its median over rounds is printed. Memory is counted from
the tensors: gradients and optimizer states. Elements drawn one by one are the arm that saves nothing.
"""

import argparse
import json
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_ft.callbacks import GradientMask
from lit_ft.core.selection import RandomElements, RandomHalf, Selection

VOCABULARY = 512  # small: what the embedding takes is no matter of halves

ARMS: dict[str, Selection | None] = {"full": None, "half": RandomHalf(), "half of the elements": RandomElements(0.5)}


class SmallLlama(pl.LightningModule):
    """Six blocks of 256 units; a step takes a few tenths of a second on one core."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            tie_word_embeddings=True,
        )
        self.network = LlamaForCausalLM(config)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Next tokens."""
        return self.network(input_ids=batch, labels=batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all of them: those without a gradient get no state."""
        return torch.optim.AdamW(self.parameters(), lr=1e-4)


class Meter(pl.Callback):
    """CPU seconds from the end of the first step, which allocates, to the end of the last; bytes at the last."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.gradients = self.states = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Look at the clock and at the tensors."""
        self.times.append(time.process_time())
        held = [state.values() for optimizer in trainer.optimizers for state in optimizer.state.values()]
        self.gradients = sum(p.grad.nbytes for p in pl_module.parameters() if p.grad is not None)
        self.states = sum(value.nbytes for values in held for value in values)


def measure(selection: Selection | None, steps: int) -> dict[str, float]:
    meter = Meter()
    torch.manual_seed(0)
    data: Any = [torch.randint(0, VOCABULARY, (4, 128)) for _ in range(steps + 1)]
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[*([] if selection is None else [GradientMask(selection)]), meter],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SmallLlama(), DataLoader(data, batch_size=None))
    seconds = (meter.times[-1] - meter.times[0]) / steps
    return {"seconds": seconds, "gradient_bytes": meter.gradients, "state_bytes": meter.states}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="steps an arm and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    rounds = [{name: measure(selection, args.steps) for name, selection in ARMS.items()} for _ in range(args.rounds)]
    result = {}
    for name in ARMS:
        ratios = {key: [run[name][key] / run["full"][key] for run in rounds] for key in rounds[0][name]}
        result[name] = {key: statistics.median(values) for key, values in ratios.items()}
        times = f"({min(ratios['seconds']):.3f} to {max(ratios['seconds']):.3f})"
        shares = "   ".join(f"{key} x {value:.3f}" for key, value in result[name].items())
        print(f"{name:22s} {1e3 * rounds[0][name]['seconds']:6.1f} ms   {shares}   {times}")
    if args.json:
        args.json.write_text(
            json.dumps({"steps": args.steps, "threads": args.threads, "arms": result}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
