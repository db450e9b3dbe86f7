import pytest
import torch
from torch.nn import functional as F

from lit_ft.callbacks import SAM
from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.methods import LeaveOneOutNeighbours
from lit_ft.testing import fit_foreign
from lit_ft.vision.leave_one_out_neighbours import WithMemory, digests
from lit_ft.vision.neighbours import leave_one_out

CNN = {"config": {"model_type": "cnn", "width": 2, "depth": 1, "batch_norm": True, "dropout": 0.2}}
FACTS = {"num_classes": 2, "input_shape": [1, 8, 8]}


def data(batch_size=40):
    return Digits(classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], max_rows=160, batch_size=batch_size)


def adam(params):
    return torch.optim.Adam(params, lr=1e-2)


def batches():
    rows = data()
    rows.setup("fit")
    return list(rows.train_dataloader())


def test_a_row_meets_the_batch_and_the_memory_but_never_itself():
    torch.manual_seed(0)
    method = LeaveOneOutNeighbours({"config": {"model_type": "cnn", "width": 2, "depth": 1}}, k=10, **FACTS)
    method.configure_model()
    first, second = batches()[:2]
    both = {key: torch.cat([first[key], second[key]]) for key in first}
    z = F.normalize(method.features(both), dim=-1).detach()
    method.compute(first)
    method.on_train_batch_end(None, first, 0)
    found = method.compute(second).loss
    own = torch.arange(40, 80)[:, None] == torch.arange(80)
    expected = leave_one_out(z[40:], z, both["labels"][40:, None] == both["labels"], own, 10, 0.1)
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    again = method.compute(first).loss  # its rows are in the memory too: they count once, and not for themselves
    own = torch.arange(40)[:, None] == torch.arange(40)
    expected = leave_one_out(z[:40], z[:40], first["labels"][:, None] == first["labels"], own, 10, 0.1)
    assert again.item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_slow_copy_and_memory():
    torch.manual_seed(0)
    method = LeaveOneOutNeighbours(CNN, k=3, memory=50, momentum=0.75, **FACTS)
    method.configure_model()
    network = method.network
    before = network.slow.head.weight.clone()
    with torch.no_grad():
        network.network.head.weight.add_(1)
    network.follow(0.75)
    torch.testing.assert_close(network.slow.head.weight, before + 0.25)
    for first in (0, 40):
        network.memory.add(
            {"keys": torch.randn(40, 32), "labels": torch.zeros(40), "rows": torch.arange(first, first + 40)}
        )
        assert network.memory.column("rows").tolist() == [*range(first, first + 40), *range(first // 4)]


def test_digests_tell_images_apart():
    images = torch.cat([batch["images"] for batch in batches()])
    assert len(digests(images).unique()) == len(images.flatten(1).unique(dim=0))
    assert torch.equal(digests(images[:7]), digests(images)[:7])
    shifted = images.roll(1, -1)
    assert not torch.isin(digests(shifted), digests(images)).any()


def test_a_second_pass_does_not_remember_twice():
    method = LeaveOneOutNeighbours(CNN, k=5, memory=1000, optimizer=adam)
    fit_foreign([SAM(rho=0.05)], module=method, data=data(), max_epochs=1)
    rows = method.network.memory.column("rows")
    assert len(rows) == len(rows.unique()) == 160


def test_a_memory_larger_than_the_data_knows_each_row_once():
    method = LeaveOneOutNeighbours(CNN, k=5, memory=1000, optimizer=adam)
    fit_foreign([], module=method, data=data(), max_epochs=3)
    rows = method.network.memory.column("rows")
    assert len(rows) == len(rows.unique()) == 160


def test_learns_neighbourhoods():
    method = LeaveOneOutNeighbours({"config": {"model_type": "mlp", "width": 32, "depth": 1}}, k=10, optimizer=adam)
    _, trainer = fit_foreign([], module=method, data=data(), max_epochs=10)
    assert trainer.callback_metrics["val/accuracy"] > 0.85, "chance is 0.5"
    assert trainer.callback_metrics["val/loss"] < 0.5


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_runs_in_bf16(precision):
    method = LeaveOneOutNeighbours(CNN, k=5, memory=50, optimizer=adam)
    _, trainer = fit_foreign([], module=method, data=data(), max_epochs=1, precision=precision)
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


def test_validates_before_the_first_row_is_remembered():
    method = LeaveOneOutNeighbours(CNN, k=5, **FACTS).eval()
    method.configure_model()
    found = method.compute(batches()[0])
    assert found.loss == 0
    assert (found.predictions == found.predictions[0, 0]).all()


def test_the_slow_copy_follows_once_a_step(monkeypatch):
    method, followed = LeaveOneOutNeighbours(CNN, k=5, memory=50, optimizer=adam), []
    monkeypatch.setattr(WithMemory, "follow", lambda self, momentum: followed.append(momentum))
    fit_foreign([], module=method, data=data(), max_epochs=1, accumulate_grad_batches=2)
    assert len(followed) == 2  # 4 batches


def test_the_loss_is_a_mean_over_what_its_weight_counts():
    method = LeaveOneOutNeighbours({"config": {"model_type": "mlp", "width": 4, "depth": 1}}, k=5, **FACTS)
    method.configure_model()
    rows = batches()[0]
    alone = {key: torch.cat([rows[key][rows["labels"] == 0][:3], rows[key][rows["labels"] == 1][:1]]) for key in rows}
    z = F.normalize(method.features(alone), dim=-1)
    own = torch.eye(4, dtype=torch.bool)
    losses = leave_one_out(z, z, alone["labels"][:, None] == alone["labels"], own, 5, 0.1)
    assert losses[3] == 0  # no other row has its label
    found = method.compute(alone).loss * method.loss_weight(alone)
    assert found.item() == pytest.approx(losses.sum().item(), rel=1e-5)


@pytest.mark.parametrize(("name", "value"), [("k", 0), ("temperature", 0.0), ("memory", 10), ("momentum", 1.0)])
def test_refuses(name, value):
    with pytest.raises(ConfigError, match=name):
        LeaveOneOutNeighbours(CNN, **{name: value})
