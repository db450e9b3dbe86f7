"""Every metric as torchmetrics promises: reset, copied, called, moved, saved, and over several processes."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torchmetrics import Metric

from lit_ft.metrics import ImportanceLorenz
from lit_ft.running.processes import run_ranks
from tests.example import OfMetric, rows

ROWS = rows(OfMetric)


def numbers(value: Any) -> Any:
    return {key: float(number) for key, number in value.items()} if isinstance(value, dict) else float(value)


@pytest.mark.parametrize("name", list(ROWS))
def test_metric(name: str) -> None:
    make, arguments = ROWS[name].make, ROWS[name].update

    def updated(metric: Metric, *steps: int) -> Metric:
        for step in steps:
            metric.update(*arguments(step))
        return metric

    whole = numbers(updated(make(), 0, 1, 2).compute())
    used = updated(make(), 4)
    used.reset()
    assert numbers(updated(used, 0, 1, 2).compute()) == whole
    begun = updated(make(), 0, 1)
    begun.persistent(True)
    loaded = make()
    loaded.persistent(True)
    loaded.load_state_dict(begun.state_dict())
    for copied in (begun.clone(), pickle.loads(pickle.dumps(begun)), copy.deepcopy(begun), loaded):
        assert numbers(updated(copied, 2).compute()) == whole
    wide = numbers(updated(make().to(torch.float64), 0, 1, 2).compute())
    assert wide == pytest.approx(whole, rel=1e-6)
    called = make()
    each = [called(*arguments(step)) for step in range(3)]
    assert numbers(called.compute()) == whole
    assert str(numbers(each[1])) == str(numbers(updated(make(), 1).compute()))  # also where it is not a number


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.of_nothing])
def test_of_no_rows_the_value_is_not_a_number(name: str) -> None:
    assert ROWS[name].make().compute().isnan()


def over_ranks() -> dict[str, Any]:
    """Each rank has two of three updates, or one; a task's scores are those of all, and known to all."""
    dist.init_process_group("gloo")
    values = {}
    for name, row in ROWS.items():
        metric = row.make()
        for step in range(3):
            if not row.shared or (step == 2) == dist.get_rank():
                metric.update(*row.update(step))
        values[name] = numbers(metric.compute())
    lonely = ImportanceLorenz()
    if dist.get_rank() == 0:
        lonely.update(*ROWS["ImportanceLorenz"].update(0))
    return {**values, "lonely": numbers(lonely.compute())}


def test_over_two_processes() -> None:
    first, second = run_ranks(over_ranks, 2)
    assert first == second
    for name, row in ROWS.items():
        metric = row.make()
        for step in range(3):
            metric.update(*row.update(step))
        assert first[name] == pytest.approx(numbers(metric.compute()), rel=1e-6)
    alone = ImportanceLorenz()
    alone.update(*ROWS["ImportanceLorenz"].update(0))
    assert first["lonely"] == pytest.approx(float(alone.compute()))
