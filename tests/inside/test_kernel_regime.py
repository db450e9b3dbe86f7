"""The regime callback: exact for a network that is linear, against explicit Jacobians for one that is not."""

from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lit_ft.callbacks import KernelRegime
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Names
from lit_ft.inside.kernel_regime import one_row
from lit_ft.testing import ForeignData, ForeignModule, fit_foreign


class Plain(ForeignModule):
    """Without dropout and norm, by gradient descent; linear or not."""

    def __init__(self, linear: bool, rate: float = 0.1) -> None:
        super().__init__(norm=False)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.Identity() if linear else nn.Tanh(), nn.Linear(16, 3))
        self.rate = rate
        if linear:
            self.model[0].requires_grad_(False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.rate)


def run(module: pl.LightningModule, **arguments: Any) -> dict[str, Any]:
    callback = KernelRegime("model", every_n_steps=1, **arguments)
    fit_foreign([callback], module=module)
    return callback.report()


def test_a_linear_network_is_in_the_regime_and_its_kernel_is_least_squares() -> None:
    module = Plain(linear=True)
    hidden_of = module.model[0]
    start = [p.detach().clone() for p in module.model[2].parameters()]
    found = run(module, num_batches=4, ridge=0.01)
    assert found["verdict"] == "kernel regime"
    assert found["linearization_error"] < 1e-5
    assert found["feature_drift"] < 1e-6

    # the same rows, by ridge regression on the change of the head's weights
    rows = {}
    for name in ("train", "val"):
        batches = list(getattr(ForeignData(), f"{name}_dataloader")())[:4]
        rows[name] = [torch.cat(parts).double() for parts in zip(*batches, strict=True)]
    features = {k: torch.cat([hidden_of(x.float()), torch.ones(len(x), 1)], 1).double() for k, (x, _) in rows.items()}
    weights = torch.cat([start[0], start[1][:, None]], 1).double().T
    targets = 2 * F.one_hot(rows["train"][1].long(), 3).double() - 1
    inner = features["train"].T @ features["train"]
    ridge = 0.01 * features["train"].square().sum(1).mean()
    change = torch.linalg.solve(
        inner + ridge * torch.eye(17), features["train"].T @ (targets - features["train"] @ weights)
    )
    said = (features["val"] @ (weights + change)).argmax(1)
    assert found["kernel_accuracy"] == pytest.approx((said == rows["val"][1]).double().mean().item())


def test_measures_what_jacobians_say() -> None:
    module = Plain(linear=False)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    found = run(module)
    x = next(iter(ForeignData().train_dataloader()))[0].double()
    network = module.model.double()
    names = [name for name, _ in network.named_parameters()]

    def outputs(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(network, weights, (x,))

    start = {name: before[f"model.{name}"].double() for name in names}
    end = {name: p.detach() for name, p in network.named_parameters()}
    _, linear = torch.func.jvp(outputs, (start,), ({name: end[name] - start[name] for name in names},))
    change = outputs(end) - outputs(start)
    assert found["linearization_error"] == pytest.approx(float((change - linear).norm() / change.norm()), rel=1e-3)
    jacobians = [
        torch.cat([part.flatten(2) for part in torch.func.jacrev(outputs)(at).values()], 2) for at in (start, end)
    ]
    drift = (jacobians[1] - jacobians[0]).norm() / jacobians[0].norm()
    assert found["feature_drift"] == pytest.approx(float(drift), rel=1e-3)
    assert found["feature_drift"] > 0.01


def test_larger_steps_leave_the_regime() -> None:
    errors = [run(Plain(linear=False, rate=rate))["linearization_error"] for rate in (1e-3, 0.05, 1.0)]
    assert errors == sorted(errors)
    assert errors[0] < 0.05 < 0.3 < errors[-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a checkpoint is read to the CPU; this needs another device")
def test_a_resumed_run_has_its_start_on_the_device_of_the_module() -> None:
    first, second = (KernelRegime("model", every_n_steps=1) for _ in range(2))
    fit_foreign([first], module=Plain(linear=False), max_epochs=1)
    second.load_state_dict(first.state_dict())
    fit_foreign([second], module=Plain(linear=False), max_epochs=1, accelerator="gpu")
    assert second.report()["verdict"] != "not measured"


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    for bad in ({"kind": "adam"}, {"ridge": -1.0}, {"every_n_steps": 0}, {"num_batches": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            KernelRegime(**bad)  # type: ignore[arg-type]
    module = Plain(linear=True)
    with pytest.raises(ConfigError, match="selection"):
        run(module, selection=Names(["model.0.*"]))  # is not trained
    with pytest.raises(ConfigError, match="modl"):
        fit_foreign([KernelRegime("modl")], module=Plain(linear=True))


def test_one_row_of_strings_lists_and_named_tuples() -> None:
    class Pair(NamedTuple):
        x: torch.Tensor
        names: list[str]

    x = torch.arange(6).view(2, 3)
    batch = {
        "source": "a file",
        "texts": ["ab", "cd"],
        "tokens": [[1, 2], [3]],
        "pair": Pair(x, ["e", "f"]),
        "all": [x, x],
    }
    found = one_row(batch, 1, 2)
    assert found["source"] == "a file"
    assert found["texts"] == ["cd"]
    assert found["tokens"] == [[3]]
    assert isinstance(found["pair"], Pair)
    assert torch.equal(found["pair"].x, x[1:])
    assert found["pair"].names == ["f"]
    assert all(torch.equal(part, x[1:]) for part in found["all"])
