import pytest
import torch
from torch.nn import functional as F

from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.methods import DistilledRepresentations, IndependentMembers
from lit_ft.running.warm_start import WarmStart
from lit_ft.testing import fit_foreign

MLP = {"config": {"model_type": "mlp", "width": 6, "depth": 1}}
CNN = {"config": {"model_type": "cnn", "width": 2, "depth": 1, "batch_norm": True, "dropout": 0.2}}
FACTS = {"num_classes": 10, "input_shape": [64]}


def sgd(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def data(flat=True):
    return Digits(flat=flat, max_rows=120, batch_size=40)


def test_a_student_that_is_the_members_has_nothing_to_learn():
    """With their weights one after another, and a map that changes nothing; the classifier is then their mean."""
    torch.manual_seed(0)
    method = DistilledRepresentations(MLP, 2, {"config": {**MLP["config"], "width": 12}}, **FACTS)
    method.configure_model()
    net = method.network
    student = net.student.members[0]
    with torch.no_grad():
        for part in ("weight", "bias"):
            parts = [getattr(member.blocks[0].linear, part) for member in net.members]
            getattr(student.blocks[0].linear, part).copy_(torch.cat(parts))
        net.tells.weight.copy_(torch.eye(12))
        net.tells.bias.zero_()
    batch = {"images": torch.randn(7, 64), "labels": torch.arange(7)}
    assert method.compute(batch).loss < 1e-12
    mean = torch.stack([member(batch["images"]) for member in net.members]).mean(0)
    torch.testing.assert_close(method.compute(batch).predictions, mean)
    torch.testing.assert_close(method(batch["images"]), mean)
    with torch.no_grad():
        net.tells.bias[3] = 2.0  # one of twelve features wrong by 2
    torch.testing.assert_close(method.compute(batch).loss, torch.tensor(4 / 12))
    assert torch.equal(method.features(batch), student.features(batch["images"]))


def test_one_step_of_descent_by_hand():
    torch.manual_seed(0)
    method = DistilledRepresentations(MLP, num_members=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.5), **FACTS)
    method.configure_model()
    net, student = method.network, method.network.student.members[0]
    batch = next(iter(ready().train_dataloader()))
    weight, bias = (p.detach().clone().requires_grad_() for p in net.tells.parameters())
    linear = student.blocks[0].linear
    w, b = (p.detach().clone().requires_grad_() for p in linear.parameters())
    target = torch.cat([member.features(batch["images"]) for member in net.members], 1).detach()
    told = F.relu(batch["images"] @ w.T + b) @ weight.T + bias
    ((told - target) ** 2).sum(1).div(12).mean().backward()
    fit_foreign([], module=method, data=data(), max_steps=1)
    for mine, theirs in ((w, linear.weight), (b, linear.bias), (weight, net.tells.weight), (bias, net.tells.bias)):
        torch.testing.assert_close(theirs, mine - 0.5 * mine.grad)


def ready():
    own = data()
    own.setup("fit")
    return own


def test_the_student_alone_moves_and_the_members_are_those_of_the_run(tmp_path):
    many = IndependentMembers(CNN, num_members=2, optimizer=sgd)
    fit_foreign([], module=many, data=data(False), max_epochs=1)
    torch.save({"state_dict": many.state_dict()}, tmp_path / "many.ckpt")
    method = DistilledRepresentations(CNN, num_members=2, optimizer=sgd)
    fit_foreign([WarmStart(str(tmp_path / "many.ckpt"))], module=method, data=data(False))
    theirs, ours = many.network.state_dict(), method.network.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    heads = torch.cat([member.head.weight for member in many.network.members], 1) / 2
    assert torch.equal(ours["head.weight"], heads)
    trained = {name for name, p in method.network.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"student", "tells"}
    assert not [name for name in trained if "head" in name]
    method.train()
    assert method.network.student.members[0].training
    assert not any(child.training for child in method.network.members.modules())


def test_refuses():
    with pytest.raises(ConfigError, match="num_members"):
        DistilledRepresentations(MLP, num_members=0)
    with pytest.raises(ConfigError, match="widht"):
        DistilledRepresentations(MLP, student={"widht": 3})
