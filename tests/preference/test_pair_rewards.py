import pytest
import torch

from lit_ft.preference.pair_rewards import reward_scalars, weighted_mean


def test_means_by_hand() -> None:
    chosen = torch.tensor([1.0, -2.0, 5.0], requires_grad=True)
    found = reward_scalars(chosen, torch.tensor([0.0, 1.0, 9.0]), torch.tensor([1.0, 2.0, 0.0]))
    assert not any(value.requires_grad for value in found.values())
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"rewards/chosen": -1.0, "rewards/rejected": 2 / 3, "rewards/margin": -5 / 3, "rewards/accuracy": 1 / 3}
    )
    assert weighted_mean(chosen, torch.zeros(3)) == 0
    many = torch.ones(257, dtype=torch.bfloat16)  # in bf16 their sum would be 256
    assert weighted_mean(torch.ones(257), many) == 1
