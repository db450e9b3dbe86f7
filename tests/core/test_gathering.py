"""Two processes with different numbers of rows have the loss and gradient of one process with all rows."""

import os

import torch
import torch.distributed as dist

from lit_ft.embedding.contrastive import InBatchContrastive, Vectors
from lit_ft.running.processes import run_ranks

SIZES = (3, 2)


def parts() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)


def on_one_rank() -> list[list[float]]:
    dist.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    start = sum(SIZES[: dist.get_rank()])
    rows = slice(start, start + SIZES[dist.get_rank()])
    weight = torch.eye(4, requires_grad=True)
    anchors, positives = (x[rows] @ weight for x in parts())
    InBatchContrastive()(Vectors(anchors, positives)).sum().backward()
    dist.all_reduce(weight.grad)
    dist.destroy_process_group()
    return (weight.grad / 5).tolist()


def test_gradient_over_ranks_is_that_of_all_rows() -> None:
    weight = torch.eye(4, requires_grad=True)
    InBatchContrastive()(Vectors(*(x @ weight for x in parts()))).mean().backward()
    for found in run_ranks(on_one_rank, 2):
        torch.testing.assert_close(torch.tensor(found), weight.grad, rtol=1e-5, atol=1e-6)
