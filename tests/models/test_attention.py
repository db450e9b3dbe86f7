"""Attention in half precision on a CPU is computed in float32, with and without a gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_ft.core.network import Network
from lit_ft.models import causal_lm
from lit_ft.models.build import bare_encoder

LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 40,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
BERT = {"model_type": "bert", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 40,
        "num_attention_heads": 4}  # fmt: skip
TOKENS = torch.randint(1, 40, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(TOKENS).index_put((torch.tensor([1]), torch.tensor([8])), torch.tensor(0))


def built(config: dict[str, Any], **more: Any) -> Any:
    torch.manual_seed(1)
    make = causal_lm if config is LLAMA else bare_encoder
    return make(Network(config=config, **more)).eval()


def types(monkeypatch: Any) -> list[torch.dtype]:
    seen, own = [], nn.functional.scaled_dot_product_attention

    def spied(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(query.dtype)
        assert not torch.is_autocast_enabled("cpu") or query.dtype is not torch.float32
        return own(query, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spied)
    return seen


@pytest.mark.parametrize("config", [LLAMA, BERT])
@pytest.mark.parametrize("way", ["weights", "autocast"])
@pytest.mark.parametrize("gradient", [True, False])
def test_it_is_in_float32(config: dict[str, Any], way: str, gradient: bool, monkeypatch: Any) -> None:
    network, exact = built(config, dtype="bfloat16" if way == "weights" else "float32"), built(config)
    seen = types(monkeypatch)
    with torch.set_grad_enabled(gradient), torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        found = network(input_ids=TOKENS, attention_mask=MASK)[0]
    assert seen == [torch.float32] * 2
    if way == "weights":
        assert found.dtype is torch.bfloat16, "what follows is in the type it had"
    wanted = exact(input_ids=TOKENS, attention_mask=MASK)[0]
    torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.05)
    if gradient:
        found.float().square().mean().backward()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_a_token_of_an_answer_does_not_copy_its_keys(monkeypatch: Any) -> None:
    seen = types(monkeypatch)
    network = built(LLAMA, dtype="bfloat16")
    network.generate(TOKENS[:1], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 4


def test_float32_is_what_it_was(monkeypatch: Any) -> None:
    """Also where a gradient flows, and in a network that another library has built."""
    network = built(BERT)
    ours = network(input_ids=TOKENS, attention_mask=MASK)[0]
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", sdpa_attention_forward)
    assert torch.equal(network(input_ids=TOKENS, attention_mask=MASK)[0], ours)
