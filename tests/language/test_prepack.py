"""Packed prefill equals one prompt after another."""

from typing import Any

import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.language.prepack import generate_prepacked, prepacked_prefill

SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def network(model_type: str = "llama", attention: str = "sdpa", **more: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES, max_position_embeddings=128, **more)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(97, (n,), generator=generator).tolist() for n in (23, 1, 9, 4, 9, 1, 17)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_tokens_are_those_of_single_prompts(attention: str) -> None:
    model = network(attention=attention)
    state = prepacked_prefill(model, prompts())
    assert state.processed == 3 * 23 < 7 * 23, "64 tokens need three rows of 23"
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([p])).logits[:, -1] for p in prompts()])
        torch.testing.assert_close(state.logits, alone, rtol=1e-4, atol=1e-5)
        answers = []
        for prompt in prompts():
            ids = list(prompt)
            for _ in range(8):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            answers.append(ids[len(prompt) :])
    assert generate_prepacked(model, prompts(), 8) == answers
    end = answers[0][2]
    cut = [a[: a.index(end) + 1] if end in a else a for a in answers]
    assert generate_prepacked(model, prompts(), 8, end=end) == cut


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ConfigError, match="sliding_attention"):
        prepacked_prefill(network("gemma2", "eager", head_dim=8, num_key_value_heads=4), prompts())
    with pytest.raises(ConfigError, match="at least one token"):
        prepacked_prefill(network(), [[1], []])
