import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.inside.feature_probe import FeatureProbe
from lit_ft.inside.linear_probe import fit_linear_probe
from lit_ft.methods import ImageClassifier
from lit_ft.testing import assert_resumes

CNN = {"model_type": "cnn", "width": 4, "batch_norm": True, "dropout": 0.2}


class Keys(pl.Callback):
    """The order of all logged values, and the generator's state at the end."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append((trainer.callback_metrics["train/loss"].item(), torch.get_rng_state().sum().item()))


def run(tmp_path, *callbacks, steps=8):
    pl.seed_everything(3)
    method = ImageClassifier({"config": CNN})
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, max_steps=steps, val_check_interval=4, callbacks=list(callbacks),
                         default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(method, Digits())
    return method, trainer


def test_the_run_is_bit_for_bit_the_same_with_and_without(tmp_path):
    plain, probed = Keys(), Keys()
    without, _ = run(tmp_path, plain)
    probe = FeatureProbe(at_validation=True)
    with_probe, trainer = run(tmp_path, probed, probe)
    assert plain.values == probed.values
    assert all(
        torch.equal(a, b) for a, b in zip(without.state_dict().values(), with_probe.state_dict().values(), strict=True)
    )
    assert [entry["step"] for entry in probe.measured] == [0, 4, 8]
    assert trainer.callback_metrics["feature_probe/accuracy"].item() == pytest.approx(probe.measured[-1]["accuracy"])


def test_it_measures_the_frozen_features(tmp_path):
    probe, again = (
        FeatureProbe(num_rows=300, max_eval_rows=100),
        FeatureProbe(module="network.blocks.1", num_rows=300, name="inside"),
    )
    run(tmp_path, probe, again, steps=1)
    pl.seed_everything(3)
    method = ImageClassifier({"config": CNN}, num_classes=10, input_shape=[1, 8, 8])
    method.configure_model()
    method.eval()
    data = Digits()
    data.setup("fit")
    with torch.no_grad():
        sides = []
        for loader, count in ((data.train_dataloader(), 300), (data.val_dataloader(), 100)):
            batches = list(loader)
            features = torch.cat([method.features(batch) for batch in batches])[:count]
            sides.append((features, torch.cat([batch["labels"] for batch in batches])[:count]))
    expected = fit_linear_probe(*sides[0], num_classes=10).accuracy(*sides[1])
    measured = probe.report()["first"]
    assert measured["accuracy"] == expected > 2 * measured["majority"]
    assert (measured["train_rows"], measured["eval_rows"]) == (300, 100)
    assert again.report()["first"]["accuracy"] > 0.2
    probe.load_state_dict(again.state_dict())
    assert probe.report() == again.report()


@pytest.mark.parametrize("module", [None, "network.blocks.1"])
def test_features_are_in_the_precision_of_a_validation(tmp_path, module):
    class Seen(ImageClassifier):
        def forward_types(self):
            return [torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")]

        def features(self, batch):
            types.append(self.forward_types())
            return super().features(batch)

        def compute(self, batch):
            types.append(self.forward_types())
            return super().compute(batch)

    types = []
    trainer = pl.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, max_steps=1,
                         callbacks=[FeatureProbe(module=module, num_rows=300)], default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(Seen({"config": CNN}), Digits())
    assert len(types) > 2
    assert all(found == [True, torch.bfloat16] for found in types)


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="num_rows"):
        FeatureProbe(num_rows=0)
    with pytest.raises(ConfigError, match=r"did you mean 'network\.head'"):
        run(tmp_path, FeatureProbe(module="network.hea"), steps=1)


def test_several_probes_have_a_name_each(tmp_path):
    probes = [FeatureProbe(num_rows=200), FeatureProbe(num_rows=200, fit_on="val", name="shifted")]
    _, trainer = run(tmp_path, *probes, steps=1)
    for probe in probes:
        assert trainer.callback_metrics[f"{probe.name}/accuracy"].item() == pytest.approx(probe.measured[0]["accuracy"])
    assert probes[0].measured[0]["accuracy"] != probes[1].measured[0]["accuracy"]
    with pytest.raises(ConfigError, match="a name for each probe"):
        run(tmp_path, FeatureProbe(), FeatureProbe(module="network.blocks.1"), steps=1)


@pytest.mark.parametrize("other", [False, True])
def test_fitted_on_validation_rows_and_measured_on_test_rows(tmp_path, other):
    """Of the training's data module, or of another one."""
    data = Digits(classes=[[7], [3, 5], [8]]) if other else Digits()
    probe = FeatureProbe(fit_on="val", num_rows=None, data=data if other else None)
    run(tmp_path, probe, steps=1)
    pl.seed_everything(3)
    method = ImageClassifier({"config": CNN}, num_classes=10, input_shape=[1, 8, 8])
    method.configure_model()
    method.eval()
    data.setup("fit")
    with torch.no_grad():
        sides = []
        for loader in (data.val_dataloader(), data.test_dataloader()):
            batches = list(loader)
            sides.append((torch.cat([method.features(b) for b in batches]), torch.cat([b["labels"] for b in batches])))
    expected = fit_linear_probe(*sides[0], num_classes=data.num_classes).accuracy(*sides[1])
    assert probe.measured[0]["accuracy"] == pytest.approx(expected)
    assert probe.measured[0]["eval_rows"] == len(data.rows["test"])


def test_the_start_is_in_every_row_of_its_epoch_after_a_resume(tmp_path):
    assert_resumes(lambda: FeatureProbe("model.2"), tmp_path, crash_at=5)
