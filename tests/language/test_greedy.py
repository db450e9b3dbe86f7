"""Greedy texts, against a loop over one prompt and the generation of transformers."""

import pytest
import torch
from torch import nn

from lit_ft.language.greedy import would_write, written

PROMPTS = [[5, 9, 3], [7], [1, 2, 3, 4, 5, 6]]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=20, num_key_value_heads=2, initializer_range=0.5, eos_token_id=None, **sizes)
    return LlamaForCausalLM(config).eval()


def test_texts_are_those_of_transformers(network: nn.Module) -> None:
    with torch.no_grad():
        ours = written(network, PROMPTS, 6)
        for prompt, text in zip(PROMPTS, ours, strict=True):
            theirs = network.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0)
            assert text == theirs[0, len(prompt) :].tolist()


@torch.no_grad()
def test_a_text_ends_with_the_end_and_others_go_on(network: nn.Module) -> None:
    whole = written(network, PROMPTS, 6)
    end = whole[0][2]
    stopped = written(network, PROMPTS, 6, end)
    for text, full in zip(stopped, whole, strict=True):
        assert text == (full[: full.index(end) + 1] if end in full else full)


@torch.no_grad()
def test_would_write_just_what_is_written(network: nn.Module) -> None:
    texts = written(network, PROMPTS, 4)
    assert would_write(network, PROMPTS, texts) == [True, True, True]
    for place in range(4):  # any other token, wherever it stands
        other = [[*text[:place], (text[place] + 1) % 20, *text[place + 1 :]] for text in texts]
        mixed = [other[0], texts[1], other[2]]
        assert would_write(network, PROMPTS, mixed) == [False, True, False]
