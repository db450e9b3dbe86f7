"""The update is scaled exactly, under optimizers that a scaled gradient does not touch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.sparse.soft_mask import SoftMask
from lit_ft.testing import ForeignModule, fit_foreign

ROWS = torch.linspace(0, 1, 12)[:, None]  # one number a row of 0.weight


class Plain(ForeignModule):
    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__(norm=False)
        self.kind = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.kind == "sgd":
            return torch.optim.SGD(self.parameters(), lr=0.1)
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)


def first_update(callbacks: list[Any], optimizer: str) -> torch.Tensor:
    module, _ = fit_foreign(callbacks, module=Plain(optimizer), max_epochs=-1, max_steps=1)
    return module.model[0].weight.detach() - Plain().model[0].weight.detach()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_update_is_scaled(optimizer: str) -> None:
    plain = first_update([], optimizer)
    masked = first_update([SoftMask({"0.weight": ROWS})], optimizer)
    torch.testing.assert_close(masked, (1 - ROWS) * plain, atol=1e-7, rtol=1e-4)
    assert torch.equal(masked[-1], torch.zeros(6))  # importance 1 does not move a bit


@pytest.mark.parametrize("trainer", [{}, {"accumulate_grad_batches": 3}])
def test_under_plain_sgd_gradient_and_update_are_the_same(trainer: dict) -> None:
    runs = [
        fit_foreign([SoftMask({"0.weight": ROWS}, apply_to=how)], module=Plain(), **trainer)[0]  # type: ignore[arg-type]
        for how in ("update", "gradient")
    ]
    for a, b in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_scaled_gradient_is_refused_where_it_does_nothing() -> None:
    with pytest.raises(ConfigError, match="AdamW"):
        fit_foreign([SoftMask({"0.weight": ROWS}, apply_to="gradient")], module=Plain("adamw"))


def test_a_file_is_named_by_a_string_or_a_path(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"0.weight": ROWS.expand(12, 6).contiguous()}, tmp_path / "importance.safetensors")
    for file in (str(tmp_path / "importance.safetensors"), tmp_path / "importance.safetensors"):
        assert torch.equal(first_update([SoftMask(file)], "sgd"), first_update([SoftMask({"0.weight": ROWS})], "sgd"))


def test_bad_importance_is_refused() -> None:
    for name, value, message in (
        ("0.weight", ROWS * 2, r"\[0, 1\]"),
        ("0.weight", torch.zeros(5), "of shape"),
        ("0.wieght", ROWS, r"0\.weight"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit_foreign([SoftMask({name: value})], module=Plain())
