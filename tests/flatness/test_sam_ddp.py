"""SAM on two ranks against the same in one process, written by hand."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lit_ft.callbacks import GSAM, SAM
from lit_ft.core.method import Method, Output
from lit_ft.running.processes import run_ranks

RANKS, ROWS, STEPS, RATE = 2, 4, 5, 0.1

RUNS: dict[str, tuple[dict, int]] = {  # SAM's arguments and accumulation
    "synced": ({"rho": 0.5}, 1),
    "synced, accumulated": ({"rho": 0.5}, 2),
    "alone": ({"rho": 0.5, "sync": False}, 1),
    "alone, accumulated": ({"rho": 0.5, "sync": False}, 2),
    "alone, mixed": ({"rho": 0.5, "sync": False, "alpha": 0.25}, 2),
    "alone, in groups": ({"rho": 0.5, "sync": False, "group_size": 1}, 2),
    "in groups": ({"rho": 0.5, "group_size": 1}, 2),
    "every second": ({"rho": 0.5, "sync": False, "every_n_steps": 2}, 1),
    "gsam": ({"rho": 0.5, "variant": GSAM()}, 1),
}


def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS * 2, RANKS, ROWS, 6, generator=generator)  # enough for two micro-batches a step
    return x, (x[..., :3] + torch.randn(*x.shape[:3], 3, generator=generator)).argmax(-1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=RATE)


class Weighed(Method):
    """Rows of class 2 count eight times."""

    def __init__(self) -> None:
        super().__init__(network(), lambda p: torch.optim.SGD(p, lr=RATE))

    def compute(self, batch: Any) -> Output:
        weight = 1.0 + 7 * (batch[1] == 2)
        losses = F.cross_entropy(self.network(batch[0]), batch[1], reduction="none")
        return Output((losses * weight).sum() / weight.sum())

    def loss_weight(self, batch: Any) -> Tensor:
        return (1.0 + 7 * (batch[1] == 2)).sum()


def train(module: pl.LightningModule, sam: SAM, parts: int, data: TensorDataset, batch: int, **trainer: Any) -> Tensor:
    pl.Trainer(
        max_epochs=1,
        max_steps=STEPS,
        callbacks=[sam],
        accumulate_grad_batches=parts,
        accelerator="cpu",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer,
    ).fit(module, DataLoader(data, batch))
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def on_a_rank() -> dict[str, list[float]]:
    import os

    x, y = (t[:, int(os.environ["RANK"])].flatten(0, 1) for t in rows())
    data, trainer = TensorDataset(x, y), {"strategy": "ddp", "devices": RANKS}
    found = {name: train(Module(), SAM(**sam), parts, data, ROWS, **trainer) for name, (sam, parts) in RUNS.items()}
    found["method"] = train(Weighed(), SAM(rho=0.5), 2, data, ROWS, **trainer)
    return {name: weights.tolist() for name, weights in found.items()}


def by_hand(sam: dict, parts: int) -> Tensor:
    """The gradient of every group climbs alone; a group is all ranks or one, a window or a micro-batch."""
    model, (x, y) = network(), rows()
    parameters = list(model.parameters())
    rho, alpha, every = sam["rho"], sam.get("alpha", 1.0), sam.get("every_n_steps", 1)

    def gradient(places: list[tuple[int, int]]) -> list[Tensor]:
        losses = [F.cross_entropy(model(x[i, r]), y[i, r]) for i, r in places]
        return list(torch.autograd.grad(torch.stack(losses).mean(), parameters))

    for step in range(STEPS):
        micro = range(step * parts, (step + 1) * parts)
        everything = [(i, r) for i in micro for r in range(RANKS)]
        ranks = [range(RANKS)] if sam.get("sync", True) else [[r] for r in range(RANKS)]
        windows = [micro] if "group_size" not in sam else [[i] for i in micro]
        groups = [[(i, r) for i in window for r in some] for window in windows for some in ranks]
        plain, final = gradient(everything), [torch.zeros_like(p) for p in parameters]
        for group in groups:
            own = gradient(group)
            length = torch.cat([g.flatten() for g in own]).norm()
            before = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                for p, g in zip(parameters, own, strict=True):
                    p += rho * g / length
            sharp = gradient(group)
            with torch.no_grad():
                for p, b, f, s in zip(parameters, before, final, sharp, strict=True):
                    p.copy_(b)
                    f += s / len(groups)
        if "variant" in sam:
            g, s = (torch.cat([t.flatten() for t in v]) for v in (plain, final))
            mixed = s - 0.4 * (g - s * (g @ s) / (s @ s))
            final = [
                m.view_as(p) for m, p in zip(mixed.split([p.numel() for p in parameters]), parameters, strict=True)
            ]
        with torch.no_grad():
            for p, g, f in zip(parameters, plain, final, strict=True):
                p -= RATE * ((1 - alpha) * g + alpha * f if step % every == 0 else g)
    return torch.cat([p.detach().flatten() for p in parameters])


def test_two_ranks_equal_one_process_by_hand() -> None:
    first, second = run_ranks(on_a_rank, RANKS)
    assert first == second  # ranks never come apart, to the last bit
    expected = {name: by_hand(*run) for name, run in RUNS.items()}
    for name, weights in expected.items():
        assert (torch.tensor(first[name]) - weights).abs().max() < 1e-7, name
    assert (expected["synced, accumulated"] - expected["alone, accumulated"]).abs().max() > 1e-3
    assert (expected["alone, in groups"] - expected["alone, accumulated"]).abs().max() > 1e-3
    x, y = rows()
    whole = TensorDataset(x.flatten(0, 2), y.flatten(0, 2))
    weighed = train(Weighed(), SAM(rho=0.5), 1, whole, 2 * RANKS * ROWS)
    assert (torch.tensor(first["method"]) - weighed).abs().max() < 1e-6
