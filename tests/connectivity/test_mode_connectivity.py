import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.methods import ClassifierPair, ImageClassifier, ModeConnectivity
from lit_ft.running.processes import run_ranks

MLP = {"config": {"model_type": "mlp", "width": 8, "depth": 1}}
CNN = {"config": {"model_type": "cnn", "width": 2, "depth": 1, "batch_norm": True}}
FACTS = {"num_classes": 10, "input_shape": [64]}
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
         "enable_model_summary": False, "num_sanity_val_steps": 0}  # fmt: skip


def data(flat=True):
    return Digits(flat=flat, max_rows=200, batch_size=50)


def sgd(params):
    return torch.optim.SGD(params, lr=0.1)


def fit(module, tmp_path, steps=8, flat=True, **arguments):
    trainer = pl.Trainer(max_steps=steps, default_root_dir=tmp_path, **QUIET, **arguments)
    trainer.fit(module, data(flat))
    return trainer


def pair(seed=0):
    torch.manual_seed(seed)
    method = ClassifierPair(MLP, optimizer=sgd, **FACTS)
    method.configure_model()
    return method


def test_each_of_a_pair_learns_as_it_would_alone(tmp_path):
    both, alone = pair(), ImageClassifier(MLP, optimizer=sgd, **FACTS)
    alone.configure_model()
    alone.network.load_state_dict(both.ends.last.state_dict())
    fit(both, tmp_path)
    fit(alone, tmp_path)
    for a, b in zip(both.ends.last.parameters(), alone.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(both.ends.first.head.weight, both.ends.last.head.weight)


def test_what_the_test_says_of_the_paths(tmp_path):
    both = pair()
    trainer = fit(both, tmp_path)
    (found,) = trainer.test(both, data(), verbose=False)
    assert found["test/dropout_max"] == pytest.approx(found["test/dropout_bound"], rel=1e-5)
    rows = data()
    rows.setup("fit")
    batch = {"images": torch.stack([x for x, _ in rows.rows["train"]]),
             "labels": torch.tensor([y for _, y in rows.rows["train"]])}  # fmt: skip
    middle = ImageClassifier(MLP, **FACTS)
    middle.configure_model()
    losses = []
    for t in torch.linspace(0, 1, 21).tolist():
        with torch.no_grad():
            for p, a, b in zip(middle.parameters(), both.ends.first.parameters(), both.ends.last.parameters(),
                               strict=True):  # fmt: skip
                p.copy_((1 - t) * a + t * b)
        losses.append(middle.compute(batch).loss.item())
    assert found["test/linear_max"] == pytest.approx(max(losses), rel=1e-5)
    heights = [loss - (1 - k / 20) * losses[0] - k / 20 * losses[-1] for k, loss in enumerate(losses)]
    assert found["test/linear_barrier"] == pytest.approx(max(heights), rel=1e-4)
    assert set(both.plots({})) == {"mode_connectivity"}


def test_several_hidden_layers_and_convolutions_have_a_dropout_path(tmp_path):
    deep = {"config": {"model_type": "mlp", "width": 6, "depth": 3}}
    both = ClassifierPair(deep, optimizer=sgd, num_positions=27, **FACTS)
    (found,) = fit(both, tmp_path).test(both, data(), verbose=False)
    assert found["test/dropout_max"] == pytest.approx(found["test/dropout_bound"], rel=1e-5)
    assert found["test/dropout_max"] > found["test/linear_max"] > 0  # hardly trained: half of it says little
    convolutions = ClassifierPair(CNN, optimizer=sgd, num_classes=10, input_shape=[1, 8, 8])
    (found,) = fit(convolutions, tmp_path, flat=False).test(convolutions, data(flat=False), verbose=False)
    assert found["test/dropout_max"] == pytest.approx(found["test/dropout_bound"], rel=1e-5)


@pytest.mark.parametrize("curve", ["bezier", "chain"])
def test_a_curve_goes_between_the_ends_it_was_given(curve, tmp_path):
    ends = []
    for seed in (0, 1):
        ends.append(str(tmp_path / f"{seed}.ckpt"))
        torch.save({"state_dict": {f"network.{n}": p for n, p in pair(seed).ends.first.state_dict().items()}}, ends[-1])
    method = ModeConnectivity(MLP, *ends, curve=curve, optimizer=lambda p: torch.optim.Adam(p, lr=0.02), **FACTS)
    method.configure_model()
    for t, seed in ((0.0, 0), (1.0, 1)):
        wanted = dict(pair(seed).ends.first.named_parameters())
        assert all(torch.equal(value, wanted[name]) for name, value in method.path().at(t).items())
    start = method.path().at(0.5)["head.weight"].detach().clone()
    torch.testing.assert_close(start, (method.path().at(0.0)["head.weight"] + method.path().at(1.0)["head.weight"]) / 2)
    before = [p.detach().clone() for p in (*method.ends.first.parameters(), *method.ends.last.parameters())]
    trainer = fit(method, tmp_path, steps=200)
    after = (*method.ends.first.parameters(), *method.ends.last.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    (found,) = trainer.test(method, data(), verbose=False)
    # these ends are not trained: the middle must be far better than the line through it
    assert found["test/accuracy"] > 0.7
    assert not torch.equal(method.path().at(0.5)["head.weight"], start)


def test_the_gradient_of_a_control_point_is_its_share_of_that_of_the_weights():
    torch.manual_seed(0)
    method = ModeConnectivity(MLP, optimizer=sgd, **FACTS)
    method.configure_model()
    batch = {"images": torch.randn(7, 64), "labels": torch.randint(10, (7,))}
    torch.manual_seed(5)
    method.compute(batch).loss.backward()
    torch.manual_seed(5)
    t = torch.rand(()).item()
    alone = ImageClassifier(MLP, **FACTS)
    alone.configure_model()
    alone.network.load_state_dict(method.path().at(t))
    alone.compute(batch).loss.backward()
    for name, p in method.ends.inner[0].named_parameters():
        torch.testing.assert_close(p.grad, 2 * t * (1 - t) * alone.network.get_parameter(name).grad)


def test_paths_are_measured_under_bf16_true(tmp_path):
    method = pair()
    trainer = fit(method, tmp_path, steps=2, precision="bf16-true")
    (found,) = trainer.test(method, data(), verbose=False)
    assert found["test/linear_max"] > 0


def test_batch_norm_of_the_ends_is_left_alone(tmp_path):
    torch.manual_seed(0)
    method = ModeConnectivity(CNN, optimizer=sgd, num_classes=10, input_shape=[1, 8, 8])
    method.configure_model()
    before = method.ends.first.blocks[0].norm.running_mean.clone()
    trainer = fit(method, tmp_path, flat=False, val_check_interval=1.0)
    assert torch.equal(method.ends.first.blocks[0].norm.running_mean, before)
    assert trainer.callback_metrics["val/loss"] < 3


def measured(folder: str, split: str, norm: bool, devices: int) -> dict[str, float]:
    """What the test says of the paths between two networks."""
    torch.manual_seed(0)
    config = {"model_type": "cnn", "width": 2, "depth": 1, "batch_norm": norm}
    method = ClassifierPair({"config": config}, num_positions=3, split=split, num_classes=10, input_shape=[1, 8, 8])
    method.configure_model()
    trainer = pl.Trainer(devices=devices, strategy="ddp" if devices > 1 else "auto", default_root_dir=folder, **QUIET)
    rows = Digits(max_rows=200 if norm else 230, batch_size=50, val_fraction=0.14)
    (found,) = trainer.test(method, rows, verbose=False)
    return found


# 251 rows for validation, the last of them alone in its batch; five batches for training do not divide by two
@pytest.mark.parametrize(("split", "norm"), [("val", True), ("train", False)])
def test_two_ranks_measure_the_rows_of_both(split, norm, tmp_path):
    ranks = run_ranks(measured, 2, str(tmp_path), split, norm, 2)
    alone = measured(str(tmp_path), split, norm, 1)
    for found in ranks:
        assert {key: found[key] for key in alone} == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize(("arguments", "match"), [({"start": "x"}, "start"), ({"num_points": 2}, "num_points"),
                                                  ({"curve": "spline"}, "curve")])  # fmt: skip
def test_refuses(arguments, match):
    with pytest.raises(ConfigError, match=match):
        ModeConnectivity(MLP, **arguments)
