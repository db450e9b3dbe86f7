"""Floating-point operations against arithmetic."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lit_ft.sparse.flops import Flops, attention_backward, attention_forward


def flops_of(module: nn.Module, run: object) -> Flops:
    flops = Flops()
    flops.count_zeros(module)
    with flops.counting(module):
        run()  # type: ignore[operator]
    return flops


def test_two_layers_by_hand() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        net[0].weight[:, :3] = 0.0  # half
        net[2].weight[:, :2] = 0.0  # a quarter
    x = torch.randn(5, 6)
    found = flops_of(net, lambda: net(x).sum().backward())
    first, second = 2 * 5 * 6 * 8, 2 * 5 * 8 * 4
    assert found.total == 2 * first + 3 * second, "the input of the first layer needs no gradient"
    assert found.nonzero == 0.5 * 2 * first + 0.75 * 3 * second
    net[0].weight.requires_grad_(False)
    net[0].bias.requires_grad_(False)
    frozen = flops_of(net, lambda: net(x).sum().backward())
    assert frozen.total == first + 2 * second, "below the lowest trained layer nothing is computed backwards"
    assert frozen.nonzero == 0.5 * first + 0.75 * 2 * second
    with torch.no_grad():
        assert flops_of(net, lambda: net(x)).nonzero == 0.5 * first + 0.75 * second


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpointing_computes_again_counts_once_more(reentrant: bool) -> None:
    block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())  # a product at the very end would not be computed again
    with torch.no_grad():
        block[0].weight[:, :3] = 0.0
    x = torch.randn(5, 6, requires_grad=True)
    found = flops_of(block, lambda: checkpoint(block, x, use_reentrant=reentrant).sum().backward())
    assert found.total == 4 * 2 * 5 * 6 * 6
    assert found.nonzero == 0.5 * found.total


def test_dense_weights_cost_everything() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 16, 2))
    found = flops_of(conv, lambda: conv(torch.randn(2, 3, 4, 4)).sum().backward())
    assert found.total == found.nonzero > 0


FORWARD = 2 * (2 * 2 * 4 * 16 * 16 * 8)  # scores and their mixture: 2 rows, 4 heads, 16 tokens, 8 channels


def test_attention_on_the_cpu_counts() -> None:
    query = torch.randn(2, 4, 16, 8, requires_grad=True)
    found = flops_of(nn.Identity(), lambda: F.scaled_dot_product_attention(query, query, query).sum().backward())
    assert found.total == 3.5 * FORWARD, "the fused kernel computes the scores again on its way back"


def test_heads_that_share_keys() -> None:
    query, key = (2, 4, 16, 8), (2, 2, 16, 8)
    assert attention_forward(query, key, key) == FORWARD
    assert attention_backward(query, query, key, key) == 2.5 * FORWARD


def test_nothing_stays_behind() -> None:
    net = nn.Linear(3, 3)
    with pytest.raises(ZeroDivisionError):
        flops_of(net, lambda: net(torch.randn(1, 3)) / (1 // 0))
    assert not net._forward_hooks
    assert not net._forward_pre_hooks
