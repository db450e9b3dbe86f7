"""Every parameter of every family gets its block and its role, by structure."""

from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.core.roles import entries_of

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def tiny(family: str, **more: object) -> nn.Module:
    import transformers as hf

    torch.manual_seed(0)
    sizes = SIZES | more
    ids = {key: sizes[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if family == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**{"num_key_value_heads": 2, "tie_word_embeddings": True, **sizes}))
    if family == "gpt2":
        return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=32, n_embd=16, n_layer=3, n_head=4, n_positions=16, **ids))
    if family == "gpt_neox":
        return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**sizes))
    if family == "phi3":
        return hf.Phi3ForCausalLM(hf.Phi3Config(**{"num_key_value_heads": 2, **sizes}))
    if family == "bert":
        return hf.BertForSequenceClassification(hf.BertConfig(**sizes))
    if family == "opt":
        names = {"ffn_dim": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 16}
        return hf.OPTForCausalLM(hf.OPTConfig(vocab_size=32, hidden_size=16, **names, **ids))
    if family == "vit":
        del sizes["vocab_size"]
        return hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=8, patch_size=4))
    names = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 3, "num_heads": 4, "feed_forward_proj": "gated-gelu"}
    return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=32, **names, pad_token_id=0, eos_token_id=1))


A, F = "attention", "feed_forward"
ATTENTION = {f"{A}.query": 1, f"{A}.key": 1, f"{A}.value": 1, f"{A}.output": 1}
GATED = {f"{F}.in": 1, f"{F}.gate": 1, f"{F}.out": 1}
FUSED = {f"{A}.qkv": 1, f"{A}.output": 1}
PLAIN = {f"{F}.in": 1, f"{F}.out": 1}
EXPECTED = {  # weights of one block by role, stacks, roles of the weights outside of blocks
    "llama": ({**ATTENTION, **GATED, "norm": 2}, 1, {"embedding": 1, "norm": 1}),
    "gpt2": ({**FUSED, **PLAIN, "norm": 2}, 1, {"embedding": 2, "norm": 1}),
    "gpt_neox": ({**FUSED, **PLAIN, "norm": 2}, 1, {"embedding": 1, "norm": 1, "head": 1}),
    "phi3": ({**FUSED, f"{F}.gate_in": 1, f"{F}.out": 1, "norm": 2}, 1, {"embedding": 1, "norm": 1, "head": 1}),
    "bert": ({**ATTENTION, **PLAIN, "norm": 2}, 1, {"embedding": 3, "norm": 1, "head": 2}),
    "opt": ({**ATTENTION, **PLAIN, "norm": 2}, 1, {"embedding": 2, "norm": 1}),
    "vit": ({**ATTENTION, **PLAIN, "norm": 2}, 1, {"embedding": 3, "norm": 1, "head": 1}),
    "t5": ({**ATTENTION, **GATED, "norm": 2}, 2, {"embedding": 1, "norm": 2}),
}


@pytest.mark.parametrize("family", EXPECTED)
def test_roles_and_blocks(family: str) -> None:
    block, stacks, outside = EXPECTED[family]
    network = tiny(family)
    index = ParameterIndex(network)
    assert sum(e.parameter.numel() for e in index.values()) == sum(p.numel() for p in network.parameters())
    assert len(index.stacks) == stacks
    assert set(index.stacks.values()) == {3}
    stack = next(iter(index.stacks))
    weights = [entry for entry in index.values() if not entry.bias]
    for number in range(1, 3):
        found = Counter(e.role for e in weights if e.stack == stack and e.block == number)
        assert found == block, (family, number)
    assert Counter(e.role for e in weights if e.block is None) == outside
    assert {e.depth for e in index.values() if e.block == 1} == {0.5}
    assert {e.depth for e in index.values() if e.block is None and e.role in ("norm", "head")} <= {0.0, 1.0}


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "vit", "t5"])
def test_a_final_norm_is_deep_and_an_embedding_is_shallow(family: str) -> None:
    outside = [e for e in ParameterIndex(tiny(family)).values() if e.block is None]
    assert {e.depth for e in outside if e.role == "norm"} == {1.0}
    assert {e.depth for e in outside if e.role == "embedding"} == {0.0}


def test_t5_blocks_are_not_sublayers() -> None:
    index = ParameterIndex(tiny("t5"))
    assert index["encoder.block.2.layer.1.DenseReluDense.wo.weight"].block == 2
    assert index["decoder.block.1.layer.1.EncDecAttention.q.weight"].role == "attention.query"


def test_tied_weights_count_once() -> None:
    index = ParameterIndex(tiny("llama"))
    assert "lm_head.weight" in index["model.embed_tokens.weight"].aliases
    assert "lm_head.weight" not in index.parameters
    assert index.match("lm_head*") == ["model.embed_tokens.weight"]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "phi3"])
def test_fused_parts_are_the_query_rows(family: str) -> None:
    """Changing the key rows leaves the queries that the attention sees as they were, and moves the keys."""
    network = tiny(family).eval()
    index = ParameterIndex(network)
    name = next(n for n in index.parameters if index[n].role == "attention.qkv" and not index[n].bias)
    entry = index[name]
    masks = {role: entries_of(part, entry.parameter.shape) for role, part in entry.parts.items()}
    assert torch.equal(sum(m.int() for m in masks.values()), torch.ones_like(entry.parameter, dtype=torch.int32))
    module = type(network)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def attend(self: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *a: object, **k: object):
        seen.append((query.clone(), key.clone(), value.clone()))
        return value.transpose(1, 2).repeat(1, 1, query.shape[1] // value.shape[1], 1), None

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS["spy"] = attend
    network.set_attn_implementation("spy")
    ids = torch.arange(6)[None]
    for place, role in enumerate(masks):
        seen.clear()
        with torch.no_grad():
            network(ids)
            kept = entry.parameter.clone()
            entry.parameter.add_(masks[role].float())
            network(ids)
            entry.parameter.copy_(kept)
        first, second = seen[0], seen[3]
        same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
        assert same == [i != place for i in range(3)], (module, role)


def test_names_without_wrappers() -> None:
    import peft

    network = tiny("llama")
    own = set(ParameterIndex(network).parameters)
    assert set(ParameterIndex(torch.compile(network)).parameters) == own

    class Wrapped(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.temperature = nn.Parameter(torch.ones(()))

    index = ParameterIndex(Wrapped())
    assert set(index.parameters) == own | {"temperature"}
    pattern = "*layers.0.mlp.up_proj.weight"
    assert index.match(pattern) == index.match("network.model.layers.0.mlp.up_proj.weight")
    assert index.match("model.layers.0.mlp.up_proj.weight") == index.match(pattern)
    adapted = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    names = set(ParameterIndex(adapted).parameters)
    assert own <= names
    assert all("lora_" in name for name in names - own)


def test_plain_modules() -> None:
    block = lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))  # noqa: E731
    module = nn.Sequential(nn.Linear(3, 4), nn.ModuleList([block(), block()]), nn.Linear(4, 2))
    index = ParameterIndex(module)
    assert [index[n].role for n in ("0.weight", "1.0.0.weight", "1.0.2.weight", "2.weight")] == [
        "embedding",
        "feed_forward.in",
        "feed_forward.out",
        "head",
    ]
    assert [index[n].block for n in ("0.weight", "1.0.0.weight", "1.1.2.bias", "2.weight")] == [None, 0, 1, None]
    assert ParameterIndex(nn.Linear(2, 2)).match("*") == ["weight", "bias"]


def test_patterns_are_anchored_and_errors_list_the_nearest() -> None:
    index = ParameterIndex(tiny("bert"))
    assert len(index.match("bert.encoder.layer.0.attention.*")) == 10
    with pytest.raises(ConfigError, match=r"encoder\.layer\.0\.attention"):
        index.match("encoder.layer.0.attention.*")  # not anchored at the start of the network's own name
    with pytest.raises(ConfigError, match=r"classifier\.weight"):
        index.match(["clasifier.weight"])
