"""The calibration error, counted by hand over bins."""

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lit_ft.callbacks import Calibration
from lit_ft.core.errors import ConfigError
from lit_ft.data import Digits
from lit_ft.methods import ImageClassifier
from lit_ft.testing import ForeignData, ForeignModule, fit_foreign

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def by_hand(logits: Tensor, labels: Tensor, bins: int) -> float:
    confidence, guess = logits.double().softmax(-1).max(-1)
    total = 0.0
    for b in range(bins):
        inside = [i for i in range(len(labels)) if b / bins < confidence[i] <= (b + 1) / bins]
        if inside:
            right = sum(bool(guess[i] == labels[i]) for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(right - sum(float(confidence[i]) for i in inside) / len(inside))
    return total


@pytest.mark.parametrize("bins", [5, 15])
def test_equals_the_count_over_all_batches(bins: int) -> None:
    torch.manual_seed(0)
    method = ImageClassifier({"config": {"model_type": "mlp", "width": 16}})
    trainer = pl.Trainer(max_steps=20, callbacks=[Calibration(bins=bins)], enable_checkpointing=False, **QUIET)
    trainer.fit(method, Digits(flat=True))
    logged = float(trainer.callback_metrics["val/calibration_error"])
    data = Digits(flat=True)
    data.setup("fit")
    batches = list(data.val_dataloader())
    assert len(batches) > 1
    method.eval()
    with torch.no_grad():
        logits = torch.cat([method(batch["images"]) for batch in batches])
    labels = torch.cat([batch["labels"] for batch in batches])
    assert logged == pytest.approx(by_hand(logits, labels, bins), abs=1e-6)
    found = trainer.test(method, data, verbose=False)[0]
    test = list(data.test_dataloader())
    with torch.no_grad():
        logits = torch.cat([method(batch["images"]) for batch in test])
    expected = by_hand(logits, torch.cat([batch["labels"] for batch in test]), bins)
    assert found["test/calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_logits_between_0_and_1_are_no_probabilities() -> None:
    """torchmetrics takes values in [0, 1] for probabilities; here they are logits, and go through the softmax."""

    class Flat(ForeignModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Linear(6, 3), nn.Sigmoid())

    module, trainer = fit_foreign([Calibration("model")], module=Flat(), max_steps=11)
    batches = list(ForeignData().val_dataloader())
    with torch.no_grad():
        logits = torch.cat([module.model(x) for x, _ in batches])  # type: ignore[operator]
    expected = by_hand(logits, torch.cat([y for _, y in batches]), 15)
    assert float(trainer.callback_metrics["val/calibration_error"]) == pytest.approx(expected, abs=1e-6)


def test_what_gives_no_logits_is_refused() -> None:
    with pytest.raises(ConfigError, match="modl"):
        fit_foreign([Calibration("modl")], max_steps=11)
    with pytest.raises(ConfigError, match="bins"):
        Calibration(bins=0)
