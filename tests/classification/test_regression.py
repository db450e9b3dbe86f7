import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import NoisyLinear
from lit_ft.methods import Regression


def test_gradient_descent_finds_the_least_squares_solution(tmp_path):
    data = NoisyLinear(rows=64, features=4, noise=0.3, batch_size=None)
    method = Regression({"config": {"model_type": "mlp", "depth": 0}}, optimizer=lambda p: torch.optim.SGD(p, lr=0.2))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, max_steps=300,
                         check_val_every_n_epoch=300, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(method, data)
    x = torch.cat([data.inputs[0], torch.ones(64, 1)], 1)
    solution = torch.linalg.lstsq(x, data.targets[0]).solution
    torch.testing.assert_close(method.network.head.weight[0], solution[:4], atol=1e-4, rtol=1e-4)
    residual = data.inputs[1] @ solution[:4] + solution[4] - data.targets[1]
    (result,) = trainer.validate(method, data, verbose=False)
    assert result["val/loss"] == pytest.approx(residual.square().mean().item(), rel=1e-3)
    assert result["val/absolute_error"] == pytest.approx(residual.abs().mean().item(), rel=1e-3)


def test_networks_that_do_not_take_numbers_are_refused():
    with pytest.raises(ConfigError, match="mlp"):
        Regression({"config": {"model_type": "cnn"}})
