"""Two ranks with half of the batches each measure what one rank measures on all of them."""

import os

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lit_ft.callbacks import EdgeOfStability
from lit_ft.core.curvature import Objective, OutputCurvature, hessian_eigenvalues
from lit_ft.running.processes import run_ranks


def batches():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(14, 4, generator=generator), torch.randint(3, (14,), generator=generator)
    return list(zip(x.split([5, 4, 3, 2]), y.split([5, 4, 3, 2]), strict=True))


def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    module.loss_weight = lambda batch: float(len(batch[1]))
    return module


def loss(module, batch):
    return nn.functional.cross_entropy(module(batch[0]), batch[1])


def outputs(module, batch):
    return module(batch[0]), batch[1]


def measured(mine):
    module = network()
    pairs = hessian_eigenvalues(module, mine, 2, 1e-6, loss)
    objective = Objective(module, mine, loss)
    with objective.evaluating():
        fisher = OutputCurvature(objective, outputs).apply(torch.ones(1, objective.size))
    return pairs.values, pairs.products, fisher


def one_rank():
    torch.distributed.init_process_group("gloo")
    share = batches()
    result = measured([share[:3], share[3:]][torch.distributed.get_rank()])
    torch.distributed.destroy_process_group()
    return result


class Rows(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        return loss(self.net, batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def tracked(world_size, rank_batches):
    """Rank r of two reads rows r, r + 2, ...; a single rank reads them all."""
    x, y = (torch.cat(parts)[:12] for parts in zip(*batches(), strict=True))
    results = {}
    for name, options in {"window": {}, "fixed": {"num_batches": rank_batches * world_size}}.items():
        data = TensorDataset(x, y)
        sampler = DistributedSampler(data, world_size, int(os.environ.get("RANK", 0)), shuffle=False)
        tracker = EdgeOfStability(every_n_steps=1, k=2, tol=1e-6, **options)
        pl.Trainer(
            max_steps=3,
            accelerator="cpu",
            devices=world_size,
            strategy="ddp" if world_size > 1 else "auto",
            callbacks=[tracker],
            logger=False,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Rows(), DataLoader(data, batch_size=6 // world_size, sampler=sampler))
        results[name] = [[row["lambda_1"], row["lambda_2"], row["ratio"]] for row in tracker.measurements]
    return results


def test_two_ranks_measure_what_one_measures():
    values, products, fisher = measured(batches())
    for found, spent, matrix in run_ranks(one_rank, 2):
        assert torch.allclose(found, values, atol=1e-6 * float(values[0]))
        assert spent == products
        assert torch.allclose(matrix, fisher, atol=1e-6)


def test_the_callback_under_ddp():
    alone = tracked(1, 2)
    both = run_ranks(tracked, 2, 2, 2)  # four batches of three are the same twelve rows as two of six
    assert both[0] == both[1]
    for name, rows in alone.items():
        assert len(rows) == 3
        assert torch.allclose(torch.tensor(both[0][name]), torch.tensor(rows), rtol=1e-4)
