import pytest
import torch
from torch.nn import functional as F

from lit_ft.callbacks import SAM
from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.methods import DistributionRegularized, ImageClassifier
from lit_ft.testing import fit_foreign

CNN = {"config": {"model_type": "cnn", "width": 2, "depth": 1, "batch_norm": True, "dropout": 0.2}}
MLP = {"config": {"model_type": "mlp", "width": 8, "depth": 1}}
FACTS = {"num_classes": 10, "input_shape": [64]}


def data(flat=True):
    return Digits(flat=flat, max_rows=120, batch_size=50)  # 50 + 50 + 20: no multiple of anything


def sgd(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def method(seed=0, **arguments):
    torch.manual_seed(seed)
    found = DistributionRegularized(MLP, optimizer=sgd, **FACTS, **arguments)
    found.configure_model()
    return found


def batches():
    rows = data()
    rows.setup("fit")
    return list(rows.train_dataloader())


@pytest.mark.parametrize("weight", [None, 0.5])
def test_loss_and_where_its_gradient_goes(weight):
    tuned = method(weight=weight)
    first, second = batches()[:2]
    tuned.compute(first)
    tuned.on_train_batch_end(None, first, 0)
    assert torch.equal(tuned.memory.column("own"), tuned.features(first))
    assert torch.equal(tuned.memory.column("pre"), tuned.frozen.features(first["images"]))
    with torch.no_grad():
        for p in tuned.network.parameters():
            p.add_(0.1 * torch.randn_like(p))  # drift
    found = tuned.compute(second).loss
    logits = tuned.network(second["images"])
    own = F.cross_entropy(logits, second["labels"])
    memory = F.cross_entropy(tuned.network.head(tuned.calibrated_memory()), first["labels"])
    expected = (own + memory) / 2 if weight is None else own + 0.5 * memory
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    body = tuned.network.blocks[0].linear.weight
    (alone,) = torch.autograd.grad(own, [body])
    torch.testing.assert_close(body.grad, alone * (0.5 if weight is None else 1))
    assert all(p.grad is None for p in tuned.frozen.parameters())


def test_without_weight_it_is_plain_fine_tuning():
    tuned = method(weight=0.0)
    plain = ImageClassifier(MLP, optimizer=sgd, **FACTS)
    plain.configure_model()
    plain.network.load_state_dict(tuned.network.state_dict())
    fit_foreign([], module=tuned, data=data())
    fit_foreign([], module=plain, data=data())
    for a, b in zip(tuned.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_frozen_copy_is_what_the_fit_started_from():
    tuned = method(turn_every_n_steps=2)
    before = {name: value.clone() for name, value in tuned.network.state_dict().items()}
    fit_foreign([SAM(rho=0.05)], module=tuned, data=data())
    assert all(torch.equal(value, before[name]) for name, value in tuned.frozen.state_dict().items())
    assert not torch.equal(tuned.network.head.weight, before["head.weight"])
    assert tuned.memory.count == 240  # two epochs of 120 rows, once each in spite of the second pass
    assert not torch.equal(tuned.turn, torch.eye(8))


def test_it_turns_between_steps_alone(monkeypatch):
    steps = []
    tuned = method(turn_every_n_steps=2)

    def turned(pre, own):
        steps.append(tuned.global_step)
        return torch.eye(8)

    monkeypatch.setattr("lit_ft.vision.distribution_regularized.rotation", turned)
    fit_foreign([], module=tuned, data=data(), max_epochs=3, accumulate_grad_batches=2)
    assert steps == [2, 4, 6]  # 3 batches and 2 steps an epoch


@pytest.mark.parametrize(("name", "value"), [("weight", -1.0), ("memory", 0), ("turn_every_n_steps", 0)])
def test_refuses(name, value):
    with pytest.raises(ConfigError, match=name):
        DistributionRegularized(MLP, **{name: value})
