"""The base of measuring callbacks: when, without a trace, in the log and in the state."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from lit_ft.core.measurement import MeasuredRun, Measurement, When
from lit_ft.running.metrics_file import MetricsFile
from lit_ft.testing import ForeignModule, check_callback, fit_foreign


class Size(Measurement):
    """The largest weight, and the loss over a validation loader of its own."""

    when: ClassVar[tuple[When, ...]] = ("start", "end")
    prefix = "size/"

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps

    def prepare(self, run: MeasuredRun) -> None:
        self.ready = run.step

    def measure(self, run: MeasuredRun) -> dict[str, Any]:
        assert not run.module.training
        assert not torch.is_grad_enabled()
        torch.rand(1)  # a measurement may draw
        rows = [float(run.module.model(x).abs().mean()) for x, _ in run.loader("val_dataloader")]
        run.module.log("size/never", 1.0)
        return {"weight": float(run.module.model[0].weight.max()), "outputs": {"mean": sum(rows) / len(rows)}}


class Evaluated(Size):
    when = ("validation",)
    prefix = "val/"
    remembers = ("_last",)


def test_contracts(tmp_path: Path) -> None:
    check_callback(lambda: Size(3), tmp_path / "size", no_op=lambda: Size(3))
    check_callback(Evaluated, tmp_path / "evaluated", no_op=Evaluated)


def test_when_and_where_values_are_found(tmp_path: Path) -> None:
    size = Size(every_n_steps=4)
    module, _ = fit_foreign([size], tmp_path)
    assert size.steps == [0, 4, 8, 12, 16, 20, 22]
    assert size.ready == 0
    rows = MetricsFile(tmp_path).read()
    assert [float(row["size/weight"]) for row in rows if row["size/weight"]][-1] == pytest.approx(
        float(module.model[0].weight.max())  # type: ignore[index, union-attr, operator]
    )
    assert {"size/weight", "size/outputs/mean"} <= set(rows[0])
    assert "size/never" not in rows[0]
    report = size.report()
    assert report["start"]["outputs"]["mean"] == report["curves"]["outputs"]["mean"][0]
    assert len(report["curves"]["weight"]) == 7


def test_only_the_ends() -> None:
    size = Size()
    _, trainer = fit_foreign([size], max_epochs=1)
    assert size.steps == [0, 11]
    assert "size/weight" in trainer.callback_metrics


def test_a_measurement_that_fails_leaves_nothing() -> None:
    class Fails(Size):
        def measure(self, run: MeasuredRun) -> dict[str, Any]:
            if run.step == 6:
                raise RuntimeError("crash on purpose")
            return super().measure(run)

    size = Fails(3)
    module, _ = fit_foreign([size], module=ForeignModule())
    assert size.steps == [0, 3]
    assert len(size.history["weight"]) == 2
    assert module.training
