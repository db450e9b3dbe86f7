"""What a step with SAM costs, as a multiple of a plain step, beside pytorch_optimizer's SAM when that is installed.

    python benchmarks/sam.py --steps 40 --rounds 5 --threads 1 --json sam.json

All arms train the same small transformer in Lightning and are measured in turn, round after round, in CPU seconds of
the process; the ratio is taken within a round and its median over rounds is printed.
"""

import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from peer import arguments
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lit_ft.callbacks import SAM

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]

VOCABULARY = 30522  # of BERT: the optimizer then has its usual share of a step


class SmallTransformer(pl.LightningModule):
    """A classifier of token sequences; a step takes about 50 ms on one core."""

    def __init__(self, make_optimizer: MakeOptimizer) -> None:
        super().__init__()
        self.make_optimizer = make_optimizer
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.1, batch_first=True, norm_first=True)
        self.embedding = nn.Embedding(VOCABULARY, 128)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(128, 2)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        x, y = batch
        loss = F.cross_entropy(self.head(self.encoder(self.embedding(x)).mean(1)), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """What the arm asks for."""
        return self.make_optimizer(self.parameters())


class StepByClosure(SmallTransformer):
    """As the documentation of closure optimizers asks; given to Lightning alone they never see a first gradient."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        """First gradient, then both steps."""
        closure()
        optimizer.step(closure=closure)


class Clock(pl.Callback):
    """CPU seconds from the end of the first step, which allocates, to the end of the last."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        """Look at the clock."""
        self.times.append(time.process_time())


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)  # as a Method would have it


def seconds_per_step(module: pl.LightningModule, callbacks: list[pl.Callback], steps: int) -> float:
    torch.manual_seed(0)
    data = TensorDataset(torch.randint(0, VOCABULARY, (16 * (steps + 1), 48)), torch.randint(0, 2, (16 * (steps + 1),)))
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[*callbacks, clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, 16))
    return (clock.times[-1] - clock.times[0]) / steps


def arms() -> dict[str, Callable[[], tuple[pl.LightningModule, list[pl.Callback]]]]:
    """How each arm is made."""
    found: dict[str, Callable[[], tuple[pl.LightningModule, list[pl.Callback]]]] = {
        "plain": lambda: (SmallTransformer(adamw), []),
        "SAM": lambda: (SmallTransformer(adamw), [SAM()]),
        "SAM every 5 steps": lambda: (SmallTransformer(adamw), [SAM(every_n_steps=5)]),
    }
    try:
        import pytorch_optimizer
    except ImportError:
        return found

    def closure_sam(parameters: Any) -> torch.optim.Optimizer:
        return pytorch_optimizer.SAM(parameters, torch.optim.AdamW, lr=1e-4, fused=True)

    return found | {"pytorch_optimizer SAM": lambda: (StepByClosure(closure_sam), [])}


def main() -> None:
    args = arguments(__doc__, steps=40, rounds=5).parse_args()
    if args.steps % 5:
        raise SystemExit("--steps: a multiple of 5, so that every arm does its share of second passes")
    torch.set_num_threads(args.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    chosen = arms()
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(args.rounds):
        for name, make in chosen.items():
            seconds[name].append(seconds_per_step(*make(), args.steps))
    result = {}
    for name, values in seconds.items():
        ratios = [value / plain for value, plain in zip(values, seconds["plain"], strict=True)]
        result[name] = {"ms": 1e3 * statistics.median(values), "ratio": statistics.median(ratios), "ratios": ratios}
        print(f"{name:22s} {1e3 * statistics.median(values):7.1f} ms   x {statistics.median(ratios):.3f}", end="   ")
        print(f"({min(ratios):.3f} to {max(ratios):.3f})")
    if args.json:
        args.json.write_text(
            json.dumps({"steps": args.steps, "threads": args.threads, "arms": result}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
