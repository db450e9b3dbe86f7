"""What is replaced, what is learned, and what drives the schedule."""

import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.language.masked_thought import MaskedThought, mask_thought

LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "tokenizer": "bytes"}  # fmt: skip


def test_only_the_answer_is_replaced_at_the_given_rate() -> None:
    ids = torch.randint(100, (50, 200))
    weights = torch.zeros(50, 200)
    weights[:, 80:] = torch.rand(50, 120) + 0.1
    torch.manual_seed(0)
    read = mask_thought(ids, weights, 0.3, 777, 1000)
    assert torch.equal(read[:, :80], ids[:, :80])
    assert (read[:, 80:] == 777).float().mean().item() == pytest.approx(0.3, abs=0.02)
    drawn = mask_thought(ids, weights, 1.0, None, 1000)[:, 80:]
    assert drawn.float().mean().item() == pytest.approx(499.5, abs=15)
    assert torch.equal(mask_thought(ids, weights, 0.0, 777, 1000), ids)


def made(**arguments: float) -> MaskedThought:
    torch.manual_seed(0)
    module = MaskedThought({"config": LLAMA}, **arguments)  # type: ignore[arg-type]
    module.configure_model()
    return module


def test_targets_stay_and_inputs_change() -> None:
    ids = torch.randint(10, 200, (2, 12))
    weights = torch.ones(2, 12)
    weights[:, :4] = 0
    batch = {"input_ids": ids, "weights": weights}
    module = made(probability=1.0, rise=0.0, replace_by="mask").train()  # type: ignore[arg-type]
    read = torch.where(weights > 0, module.tokenizer.mask_token_id, ids)
    log_probs = module.network(read).logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]  # type: ignore[misc]
    expected = -(log_probs * weights[:, 1:]).sum() / weights.sum()
    assert module.compute(batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    plain = made(probability=0.0).train().compute(batch).loss
    assert module.eval().compute(batch).loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert abs(expected.item() - plain.item()) > 1e-4


def test_the_probability_follows_the_optimizer_step() -> None:
    module = made(probability=0.4, rise=0.5)
    module._trainer = type("Trainer", (), {"estimated_stepping_batches": 100, "global_step": 0})()
    found = []
    for step in (0, 25, 50, 90):
        module._trainer.global_step = step
        found.append(module.current_probability())
    assert found == pytest.approx([0, 0.2, 0.4, 0.4])


def test_an_evaluation_does_not_ask_for_the_length_of_training() -> None:
    """Lightning would set up the training data to tell it."""
    module = made(probability=0.4, rise=0.5)
    module._trainer = type("Trainer", (), {"training": False})()
    ids = torch.randint(10, 200, (2, 12))
    batch = {"input_ids": ids, "weights": torch.ones(2, 12)}
    plain = made(probability=0.0).eval().compute(batch).loss
    assert module.eval().compute(batch).loss.item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_run_of_unknown_length_cannot_rise() -> None:
    module = made(probability=0.4, rise=0.5)
    module._trainer = type("Trainer", (), {"estimated_stepping_batches": float("inf"), "global_step": 3})()
    with pytest.raises(ConfigError, match="max_steps"):
        module.current_probability()


def test_a_mask_needs_a_token() -> None:
    module = made(replace_by="mask")  # type: ignore[arg-type]
    module._tokenizer = type("Words", (), {"mask_token_id": None, "pad_token_id": None})()
    with pytest.raises(ConfigError, match="random"):
        module._mask()


def test_wrong_values() -> None:
    with pytest.raises(ConfigError, match="probability"):
        MaskedThought({"config": LLAMA}, probability=1.5)  # type: ignore[arg-type]
