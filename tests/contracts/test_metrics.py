"""Every metric as torchmetrics promises: reset, copied, called, moved, saved, and over several processes."""

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torchmetrics import Metric

import lit_ft.metrics
from lit_ft.metrics import (
    AnswerAccuracy,
    Barrier,
    CertifiedAccuracy,
    ChesScore,
    ContinualScores,
    GroupAccuracy,
    ImportanceLorenz,
    TokenPerplexity,
    ToolCallReward,
)
from lit_ft.running.processes import run_ranks

CALL = '{"name": "f", "arguments": {"x": 1}}'


def drawn(number: int) -> Any:
    """A function that draws a tensor of a shape, below a number where one is given."""
    draw = torch.Generator().manual_seed(number)

    def tensor(*shape: int, below: int | None = None) -> torch.Tensor:
        return torch.rand(shape, generator=draw) if below is None else torch.randint(below, shape, generator=draw)

    return tensor


# class: (as used, the arguments of its nth update)
ROWS: dict[str, tuple[Callable[[], Metric], Callable[[int], tuple[Any, ...]]]] = {
    "AnswerAccuracy": (AnswerAccuracy, lambda n: (["a", "b"], ["a", "ab"[n % 2]])),
    "Barrier": (lambda: Barrier([0, 0.5, 1]), lambda n: (n % 3, drawn(n)(4))),
    "CertifiedAccuracy": (
        lambda: CertifiedAccuracy(0.5),
        lambda n: (drawn(n)(6, below=2), drawn(n)(6), drawn(n + 9)(6, below=2)),
    ),
    "ChesScore": (ChesScore, lambda n: (drawn(n)(4, 5, 3), torch.tensor(4 * [[0, 0, 1, 1, 1]]))),
    "ContinualScores": (lambda: ContinualScores([0.1] * 6), lambda n: (drawn(n)(6).tolist(),)),
    "GroupAccuracy": (lambda: GroupAccuracy(2), lambda n: (drawn(n)(6, 3), drawn(n)(6, 2, below=2))),
    "ImportanceLorenz": (ImportanceLorenz, lambda n: (drawn(n)(6, 3), drawn(n)(6, below=3))),
    "TokenPerplexity": (TokenPerplexity, lambda n: tuple(drawn(n)(2))),
    "ToolCallReward": (lambda: ToolCallReward({"f": ["x"]}), lambda n: ([CALL[: 9 + 99 * (n % 2)]], [CALL])),
}


def numbers(value: Any) -> Any:
    return {key: float(number) for key, number in value.items()} if isinstance(value, dict) else float(value)


def test_every_metric_has_a_row() -> None:
    assert {name for name in lit_ft.metrics.__all__ if inspect.isclass(getattr(lit_ft.metrics, name))} == set(ROWS)


@pytest.mark.parametrize("name", list(ROWS))
def test_metric(name: str) -> None:
    make, arguments = ROWS[name]

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


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"ContinualScores"}))  # which says what it needs
def test_of_no_rows_the_value_is_not_a_number(name: str) -> None:
    assert ROWS[name][0]().compute().isnan()


def over_ranks() -> dict[str, Any]:
    """Each rank has two of three updates, or one; a task's scores are those of all, and known to all."""
    dist.init_process_group("gloo")
    values = {}
    for name, (make, arguments) in ROWS.items():
        metric = make()
        for step in range(3):
            if name == "ContinualScores" or (step == 2) == dist.get_rank():
                metric.update(*arguments(step))
        values[name] = numbers(metric.compute())
    lonely = ImportanceLorenz()
    if dist.get_rank() == 0:
        lonely.update(*ROWS["ImportanceLorenz"][1](0))
    return {**values, "lonely": numbers(lonely.compute())}


def test_over_two_processes() -> None:
    first, second = run_ranks(over_ranks, 2)
    assert first == second
    for name, (make, arguments) in ROWS.items():
        metric = make()
        for step in range(3):
            metric.update(*arguments(step))
        assert first[name] == pytest.approx(numbers(metric.compute()), rel=1e-6)
    alone = ImportanceLorenz()
    alone.update(*ROWS["ImportanceLorenz"][1](0))
    assert first["lonely"] == pytest.approx(float(alone.compute()))
