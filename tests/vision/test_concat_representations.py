import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.methods import ConcatRepresentations, ImageClassifier, IndependentMembers
from lit_ft.testing import fit_foreign

MLP = {"config": {"model_type": "mlp", "width": 6, "depth": 1}}
CNN = {"config": {"model_type": "cnn", "width": 2, "depth": 1, "batch_norm": True, "dropout": 0.2}}
FACTS = {"num_classes": 10, "input_shape": [64]}


def sgd(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def data(flat=True):
    return Digits(flat=flat, max_rows=120, batch_size=40)


def test_each_member_learns_as_it_would_alone():
    torch.manual_seed(0)
    many = IndependentMembers(MLP, num_members=3, optimizer=sgd, **FACTS)
    many.configure_model()
    alone = ImageClassifier(MLP, optimizer=sgd, **FACTS)
    alone.configure_model()
    alone.network.load_state_dict(many.network.members[1].state_dict())
    fit_foreign([], module=many, data=data())
    fit_foreign([], module=alone, data=data())
    for a, b in zip(many.network.members[1].parameters(), alone.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    batch = {"images": torch.randn(5, 64), "labels": torch.arange(5)}
    many.eval()
    mean = torch.stack([member(batch["images"]) for member in many.network.members]).mean(0)
    torch.testing.assert_close(many.compute(batch).predictions, mean)
    torch.testing.assert_close(many.features(batch)[:, 6:12], many.network.members[1].features(batch["images"]))


def checkpoints(tmp_path, classes=10):
    torch.manual_seed(1)
    files = []
    for number in range(3):
        method = ImageClassifier(MLP, num_classes=classes, input_shape=[64])
        method.configure_model()
        files.append(str(tmp_path / f"{classes}-{number}.ckpt"))
        torch.save({"state_dict": method.state_dict()}, files[-1])
    return files


def test_members_come_from_files_of_another_task(tmp_path):
    files = checkpoints(tmp_path, classes=4)
    method = ConcatRepresentations(MLP, members=files, **FACTS)
    method.configure_model()
    for file, member in zip(files, method.network.members, strict=True):
        saved = torch.load(file, weights_only=True)["state_dict"]
        assert torch.equal(member.blocks[0].linear.weight, saved["network.blocks.0.linear.weight"])
        assert member.head.weight.shape == (10, 6)


def test_the_average_head_is_the_average_of_the_logits():
    torch.manual_seed(0)
    method = ConcatRepresentations(MLP, num_members=3, **FACTS)
    method.configure_model()
    x = torch.randn(7, 64)
    mean = torch.stack([member(x) for member in method.network.members]).mean(0)
    torch.testing.assert_close(method(x), mean)


@pytest.mark.parametrize("train", ["head", "all"])
def test_what_is_trained(train):
    torch.manual_seed(0)
    method = ConcatRepresentations(CNN, num_members=2, train=train, num_classes=10, input_shape=[1, 8, 8],
                                   optimizer=sgd)  # fmt: skip
    method.configure_model()
    before = {name: value.clone() for name, value in method.network.state_dict().items()}
    fit_foreign([], module=method, data=data(flat=False))
    moved = {name for name, value in method.network.state_dict().items() if not torch.equal(value, before[name])}
    own = {"head.weight", "head.bias"}
    assert moved == own if train == "head" else own < moved
    assert not [name for name in moved if name.startswith("members") and ".head." in name]


def test_goes_on_from_a_run_of_independent_members(tmp_path):
    from lit_ft.running.warm_start import WarmStart

    many = IndependentMembers(MLP, num_members=3, optimizer=sgd)
    fit_foreign([], module=many, data=data(), max_epochs=1)
    torch.save({"state_dict": many.state_dict()}, tmp_path / "many.ckpt")
    method = ConcatRepresentations(MLP, num_members=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    fit_foreign([WarmStart(str(tmp_path / "many.ckpt"))], module=method, data=data(), max_epochs=1)
    x = torch.randn(4, 64)
    torch.testing.assert_close(method(x), (many.network.members[0](x) + many.network.members[1](x)) / 2)


def test_refuses():
    with pytest.raises(ConfigError, match="num_members"):
        ConcatRepresentations(MLP)
    with pytest.raises(ConfigError, match="num_members"):
        IndependentMembers(MLP, num_members=0)
    with pytest.raises(ConfigError, match="train"):
        ConcatRepresentations(MLP, num_members=2, train="none")
