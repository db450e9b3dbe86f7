"""What Lightning and Method cost over a bare PyTorch loop that does the same on the same batches.

CPU seconds of one thread per step, several rounds interleaved, the median of the ratios. The final losses of all three
are compared before any time is printed.

    python benchmarks/overhead.py --steps 100 --rounds 5 --json overhead.json
"""

import json
import logging
import statistics
import tempfile
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from peer import arguments
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_ft.core.method import Method, Output
from lit_ft.running.metrics_file import MetricsFile
from lit_ft.running.run_checkpoint import RunCheckpoint
from lit_ft.running.run_report import RunReport

WIDTH, ROWS = 768, 128


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [part for _ in range(6) for part in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(ROWS, WIDTH, generator=generator), torch.randint(10, (ROWS,), generator=generator))
        for _ in range(steps)
    ]


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)


class Classifier(Method):
    def compute(self, batch: tuple[Tensor, Tensor]) -> Output:
        assert self.network is not None
        return Output(nn.functional.cross_entropy(self.network(batch[0]), batch[1]))

    def loss_weight(self, batch: tuple[Tensor, Tensor]) -> float:
        return len(batch[0])


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer(self.parameters())


class Clock(pl.Callback):
    """CPU seconds from the first step to the last, without set-up."""

    def on_train_start(self, *args: Any) -> None:
        self.start = time.process_time()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
        self.seconds, self.loss = time.process_time() - self.start, outputs


def bare(data: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    model = network()
    steps = optimizer(model.parameters())
    start = time.process_time()
    for x, y in data:
        steps.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        steps.step()
    return time.process_time() - start, loss.item()


def with_lightning(module: pl.LightningModule, data: list[tuple[Tensor, Tensor]], ours: bool) -> tuple[float, float]:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        own = [RunCheckpoint(every_n_steps=None), RunReport(folder)] if ours else []
        trainer = pl.Trainer(
            max_epochs=1,
            callbacks=[*own, clock],
            logger=[MetricsFile(folder)],
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(module, DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    return clock.seconds, float(clock.loss["loss"])


def main() -> None:
    options = arguments(__doc__, steps=60, rounds=5).parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    data = batches(options.steps)
    ways = {
        "bare loop": lambda: bare(data),
        "lightning": lambda: with_lightning(Plain(), data, ours=False),
        "lit_ft": lambda: with_lightning(Classifier(network(), optimizer), data, ours=True),  # type: ignore[arg-type]
    }
    bare(data[:5])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        losses = {}
        for name, way in ways.items():
            spent, losses[name] = way()
            seconds[name].append(spent / options.steps)
        assert max(losses.values()) - min(losses.values()) < 1e-5, f"not the same training: {losses}"
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, seconds["bare loop"], strict=True))
        for name, values in seconds.items()
    }
    for name, ratio in ratios.items():
        print(f"{name:10s} {1000 * statistics.median(seconds[name]):7.2f} ms a step   {ratio:.3f} x bare")
    if options.json:
        options.json.write_text(
            json.dumps({"ms": {n: [1000 * v for v in s] for n, s in seconds.items()}, "ratio": ratios})
        )


if __name__ == "__main__":
    main()
