"""What the test says of a linear classifier is known in closed form."""

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.callbacks import GaussianNoise
from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.methods import CertifiedClassifier, ImageClassifier
from lit_ft.testing import assert_resumes
from lit_ft.vision.smoothed_classifier import SmoothedClassifier

LINEAR = {"config": {"model_type": "mlp", "depth": 0}}
MLP = {"config": {"model_type": "mlp", "width": 8, "depth": 1, "dropout": 0.5}}
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
         "enable_model_summary": False, "num_sanity_val_steps": 0, "limit_val_batches": 0}  # fmt: skip


def sgd(params):
    return torch.optim.SGD(params, lr=0.1)


def low_or_high(**arguments):
    return Digits(classes=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], batch_size=16, max_rows=200, **arguments)


def rows_of(data, split, limit):
    images, labels = zip(*data.rows[split], strict=True)
    return torch.stack(images[:limit]), torch.tensor(labels[:limit])


def run(method, data, tmp_path, *callbacks):
    torch.manual_seed(0)
    trainer = pl.Trainer(max_epochs=3, default_root_dir=tmp_path, callbacks=list(callbacks), **QUIET)
    trainer.fit(method, data)
    (found,) = trainer.test(method, data, verbose=False)
    return found


def test_a_linear_classifier(tmp_path):
    method = CertifiedClassifier(LINEAR, 0.5, [0.0, 0.2, 0.6], n=4000, budget=0.8, rows=60, neighbours=3, optimizer=sgd)
    data = low_or_high()
    found = run(method, data, tmp_path, GaussianNoise(0.5))
    x, y = rows_of(data, "test", 60)
    head = method.network.head
    w, b = (head.weight[1] - head.weight[0]).detach(), (head.bias[1] - head.bias[0]).detach()
    side = torch.where(y == 1, 1.0, -1.0)
    distance = side * (x.flatten(1) @ w + b) / w.norm()  # below 0 where it is wrong
    for radius in (0.2, 0.6):  # certificates are a little below the distance, never above it
        share = found[f"test/certified_accuracy_{radius}"]
        assert (distance >= radius + 0.1).float().mean() <= share + 1e-6
        assert share <= (distance >= radius).float().mean() + 1e-6
    assert found["test/certified_accuracy_0"] > found["test/certified_accuracy_0.2"] > 0
    # moved to the other class: along the weights of that class, to the edge of the ball
    to = head.weight[1 - y].detach()
    moved = x.flatten(1) + 0.8 * to / to.norm(dim=1, keepdim=True)
    sees = ((moved @ w + b) > 0).long() == 1 - y
    assert found["test/reached"] == pytest.approx(sees.float().mean().item(), abs=1e-6)
    train, labels = rows_of(data, "train", None)
    nearest = torch.cdist(moved, train.flatten(1)).topk(3, largest=False).indices
    agrees = labels[nearest].float().mean(1).round().long() == 1 - y
    assert found["test/agreement"] == pytest.approx(agrees[sees].float().mean().item(), abs=1e-6)
    assert 0 < found["test/reached"] < 1


def test_certificates_are_those_of_the_smoothed_network_and_pictures_are_drawn(tmp_path):
    method = CertifiedClassifier(MLP, 0.3, [0.3, 0.5], n=50, rows=20, optimizer=sgd)
    assert method.plots({}) == {}
    found = run(method, low_or_high(), tmp_path)
    data = low_or_high()
    data.setup("test")
    x, y = rows_of(data, "test", 20)
    certificates = SmoothedClassifier(method.network, 0.3, n=50).certify(x)
    right = [one.label == label and one.radius >= 0.3 for one, label in zip(certificates, y.tolist(), strict=True)]
    assert found["test/certified_accuracy_0.3"] == pytest.approx(sum(right) / 20)
    assert 0 < sum(right) < 20
    assert found["test/certified_accuracy_0.5"] == 0  # 50 copies of this noise cannot say so much
    assert len(method.plots({})["aligned_gradients"].axes) == 20
    flat = CertifiedClassifier(MLP, rows=5, n=5, optimizer=sgd)
    run(flat, low_or_high(flat=True), tmp_path)
    assert flat.plots({}) == {}


def test_training_is_that_of_the_plain_classifier(tmp_path):
    ours, plain = (kind(MLP, optimizer=sgd) for kind in (CertifiedClassifier, ImageClassifier))
    results = [run(method, low_or_high(), tmp_path) for method in (ours, plain)]
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {**results[0], **results[1]} == results[0]


def test_resumes(tmp_path):
    assert_resumes(lambda: GaussianNoise(0.2), tmp_path, crash_at=5, make_data=low_or_high,
                   make_module=lambda: CertifiedClassifier(MLP, optimizer=sgd))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [("sigma", 0.0), ("budget", -1.0), ("n", 0), ("rows", 0), ("neighbours", 0)]
)
def test_refuses(name, value):
    with pytest.raises(ConfigError, match=name):
        CertifiedClassifier(MLP, **{name: value})
    with pytest.raises(ConfigError, match="radii"):
        CertifiedClassifier(MLP, radii=[-0.1])
