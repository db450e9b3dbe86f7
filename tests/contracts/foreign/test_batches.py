"""What looks at batches finds in each form what it finds in a pair of tensors."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from lit_ft.callbacks import Calibration, FeatureProbe, Forgetting, KernelRegime, LayerSimilarity
from lit_ft.core.errors import ConfigError
from lit_ft.core.forms import rows_in
from lit_ft.running.run_report import RunReport
from tests.contracts.foreign.forms import FORMS, Form
from tests.contracts.foreign.project import Net, Rows, fit, rows, seeded

pytestmark = pytest.mark.usefixtures("empty_folder")


class Reading(Net):
    """Reads batches of one form."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form

    def loss(self, batch: Any) -> Tensor:
        return super().loss(self.form.read(batch))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=4)


class Formed(LightningDataModule):
    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch

    def _loader(self, seed: int) -> Any:
        return DataLoader(rows(seed), 4, collate_fn=lambda found: self.form.make(*default_collate(found)))

    def train_dataloader(self) -> Any:
        return self._loader(0)

    def val_dataloader(self) -> Any:
        return self._loader(1)


LOOKING = {
    "FeatureProbe": lambda form: FeatureProbe("head", at_validation=True, penalty=10.0),
    "LayerSimilarity": lambda form: LayerSimilarity(["head"], num_rows=8),
    "KernelRegime": lambda form: KernelRegime("head", every_n_steps=2),
    "Calibration": lambda form: Calibration("head"),
    "Forgetting": lambda form: Forgetting({"old": Formed(form)}, every_n_steps=2),
}


def found(form: Form, *names: str) -> tuple[dict[str, float], dict[str, Any]]:
    """What a run with these callbacks logs, and what they report."""
    callbacks: dict[str, Callback] = {name: LOOKING[name](form) for name in names}
    trainer = fit(seeded(Reading, form), *callbacks.values(), data=Formed(form), max_steps=3, val_check_interval=3)
    reports = {name: one.report() for name, one in callbacks.items() if hasattr(one, "report")}
    return {key: float(value) for key, value in trainer.callback_metrics.items()}, reports


of_a_pair = cache(lambda *names: found(FORMS["a pair"], *names))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_as_a_pair_is(form: str) -> None:
    names = list(LOOKING)
    if not FORMS[form].rows:
        names.remove("KernelRegime")
        with pytest.raises(ConfigError, match="cut into rows"):
            found(FORMS[form], "KernelRegime")
    assert found(FORMS[form], *names) == of_a_pair(*names)


@pytest.mark.parametrize("form", FORMS)
def test_a_report_counts_rows(form: str, tmp_path: Path) -> None:
    x, y = next(iter(DataLoader(rows(), 4)))
    assert rows_in(FORMS[form].make(x, y)) == 4
    fit(seeded(Reading, FORMS[form]), RunReport(str(tmp_path)), data=Formed(FORMS[form]), max_steps=3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"] == "finished"
    assert report["samples_per_second"] > 0


class Opaque:
    """A batch that shows nothing of itself."""

    __slots__ = ("__x",)

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.__x = (x, y)

    def read(self) -> tuple[Tensor, Tensor]:
        return self.__x


OPAQUE = Form(Opaque, lambda batch: batch.read())
TARGETS = {
    "real numbers": Form(lambda x, y: (x, x.sum(1)), lambda b: (b[0], (b[1] > 0).long())),
    "several at once": Form(lambda x, y: (x, (x > 0).float()), lambda b: (b[0], b[1][:, 0].long())),
    "below zero": Form(lambda x, y: (x, y - 1), lambda b: (b[0], b[1] + 1)),
    "for each position": Form(lambda x, y: (x, y.repeat(2)), lambda b: (b[0], b[1][: len(b[0])])),
    "nothing": Form(lambda x, y: (x,), lambda b: (b[0], (b[0].sum(1) > 0).long())),
    "none": Form(lambda x, y: (x, None), lambda b: (b[0], (b[0].sum(1) > 0).long())),
    "a tensor alone": Form(lambda x, y: x, lambda b: (b, (b.sum(1) > 0).long())),
    "an object of somebody's": OPAQUE,
}


@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("name", ["FeatureProbe", "LayerSimilarity", "KernelRegime"])
def test_what_is_no_label_is_one_line_at_the_start(name: str, form: str) -> None:
    module = seeded(Reading, TARGETS[form])
    before = module.enc.weight.clone()
    with pytest.raises(ConfigError) as error:
        fit(module, LOOKING[name](TARGETS[form]), data=Formed(TARGETS[form]), max_steps=3)
    assert "\n" not in str(error.value)
    assert torch.equal(module.enc.weight, before), "nothing was trained"


def test_a_probe_that_comes_later_is_refused_at_the_start() -> None:
    probe = FeatureProbe("enc", at_start=False, at_validation=True)
    with pytest.raises(ConfigError, match="class numbers"):
        fit(seeded(Reading, TARGETS["real numbers"]), probe, data=Formed(TARGETS["real numbers"]), max_steps=3)


def test_similarity_needs_no_labels() -> None:
    similarity = LayerSimilarity(["enc"], num_rows=8, probe=False)
    fit(seeded(Reading, OPAQUE), similarity, data=Formed(OPAQUE), max_steps=3)
    assert set(similarity.report()) == {"cka", "rsa"}


@pytest.mark.parametrize("form", TARGETS)
def test_a_measure_without_labels_does_not_end_a_fit(form: str) -> None:
    module = seeded(Reading, TARGETS[form])
    with pytest.warns(UserWarning, match="Calibration: no value in this fit: ") as said:
        trainer = fit(module, Calibration("head"), data=Formed(TARGETS[form]), max_steps=3, val_check_interval=1)
    assert sum("Calibration" in str(one.message) for one in said) == 1
    assert trainer.global_step == 3
    assert "val/calibration_error" not in trainer.callback_metrics


def test_rows_that_are_not_seen_are_unknown(tmp_path: Path) -> None:
    fit(seeded(Reading, OPAQUE), RunReport(str(tmp_path)), data=Formed(OPAQUE), max_steps=3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"] == "finished"
    assert report["samples_per_second"] is None


class Giving(Net):
    """Its encoder gives its numbers in some form."""

    def __init__(self, form: Any) -> None:
        super().__init__()

        class Encoder(nn.Linear):
            def forward(self, x: Tensor) -> Any:
                return form(super().forward(x))

        self.enc = Encoder(4, 6)

    def loss(self, batch: Any) -> Tensor:
        hidden = nn.functional.linear(batch[0], self.enc.weight, self.enc.bias)
        self.enc(batch[0])
        return nn.functional.cross_entropy(self.head(hidden.tanh()), batch[1])


class Hidden:
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


OUTPUTS = {
    "a tensor": lambda h: h,
    "a tuple": lambda h: (h, h + 1),
    "a distribution": lambda h: torch.distributions.Normal(h, h.exp()),
    "classes": lambda h: torch.distributions.Categorical(logits=h.log_softmax(-1)).expand(h.shape[:1]),
    "a distribution and a draw": lambda h: (torch.distributions.Normal(h, 1.0), torch.randn_like(h)),
    "a dict": lambda h: {"loss": h.mean(), "hidden": h},
    "an object": Hidden,
    "None before": lambda h: (None, h),
}


@pytest.mark.parametrize("form", OUTPUTS)
def test_what_a_submodule_gives_is_read(form: str) -> None:
    values = []
    for output in (OUTPUTS["a tensor"], OUTPUTS[form]):
        probe, similarity = FeatureProbe("enc"), LayerSimilarity(["enc"], num_rows=8, probe=False)
        fit(seeded(Giving, output), probe, similarity, data=Rows(), max_steps=3)
        values.append((probe.report(), similarity.report()))
    if form == "classes":  # logits are features up to a shift
        assert 0 < values[1][1]["cka"]["enc"] <= 1
    else:
        assert values[0] == values[1]


@pytest.mark.parametrize("output", [lambda h: None, lambda h: "text", lambda h: h.mean(), lambda h: {"n": 3}])
@pytest.mark.parametrize("callback", [lambda: FeatureProbe("enc"), lambda: LayerSimilarity(["enc"], num_rows=8)])
def test_what_is_no_output_is_one_line_at_the_start(callback: Any, output: Any) -> None:
    with pytest.raises(ConfigError, match=r"enc.*a submodule that gives tensors|gives a vector a row"):
        fit(seeded(Giving, output), callback(), data=Rows(), max_steps=3)


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 4)


def test_a_submodule_that_is_not_called_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"spare.*where Unused validates"):
        fit(seeded(Unused), FeatureProbe("spare"), data=Rows(), max_steps=3)
