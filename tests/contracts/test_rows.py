"""Every public class has a row in the table of its family, and can be written in a configuration."""

import inspect
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback
from torchmetrics import Metric

import lit_ft.callbacks
import lit_ft.data
import lit_ft.methods
import lit_ft.metrics
from tests.example import OfCallback, OfMetric, OfRun, class_of, rows

# written for runs of the package's own command and tested there
ELSEWHERE = {"RunCheckpoint", "RunReport"}
DOORS: dict[Any, tuple[type, type]] = {
    lit_ft.callbacks: (Callback, OfCallback),
    lit_ft.methods: (LightningModule, OfRun),
    lit_ft.data: (LightningDataModule, OfRun),
    lit_ft.metrics: (Metric, OfMetric),
}


def public(door: Any, base: type) -> set[str]:
    found = {name: getattr(door, name) for name in door.__all__}
    return {name for name, value in found.items() if inspect.isclass(value) and issubclass(value, base)} - ELSEWHERE


CLASSES = {name: getattr(door, name) for door, (base, _) in DOORS.items() for name in sorted(public(door, base))}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_a_row(name: str) -> None:
    (kind,) = {kind for door, (base, kind) in DOORS.items() if name in public(door, base)}
    assert name in map(class_of, rows(kind)), f"{name} has no row in the examples.py of its family"


def test_a_row_has_a_class() -> None:
    assert {class_of(name) for kind in (OfCallback, OfRun, OfMetric) for name in rows(kind)} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_a_configuration_can_say_every_argument(name: str) -> None:
    """Each has a type that the parser knows."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CLASSES[name], "one", fail_untyped=True)
    known = {action.dest.removeprefix("one.") for action in parser._actions}
    assert set(inspect.signature(CLASSES[name]).parameters) - {"kwargs"} <= known
