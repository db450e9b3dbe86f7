"""CoBa: slopes and weights against plain loops, a task that diverges, what reaches the loss, resume."""

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lit_ft.callbacks import CoBa
from lit_ft.core.errors import ConfigError
from lit_ft.data import Instructions
from lit_ft.language.coba import coba_weights, slope
from lit_ft.methods import SupervisedFineTuning
from lit_ft.testing import assert_resumes

NETWORK: Any = {
    "config": {
        "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2,
    }
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def method(reduction: Any = "task") -> SupervisedFineTuning:
    torch.manual_seed(0)
    return SupervisedFineTuning(NETWORK, reduction, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))


def data(folder: Path, task_column: str | None = "task") -> Instructions:
    rows = [{"prompt": f"q{i}", "completion": "ab" * (1 + i % 3), "task": "xy"[i % 2]} for i in range(24)]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return Instructions(str(path), batch_size=4, val_fraction=0.5, task_column=task_column)


def test_slopes_are_those_of_numpy() -> None:
    values = torch.randn(7, 3, dtype=torch.float64)
    expected = [np.polyfit(np.arange(7), values[:, i].numpy(), 1)[0] for i in range(3)]
    torch.testing.assert_close(slope(values), torch.tensor(expected, dtype=torch.float64))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def test_weights_by_plain_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    for tasks in (2, 3):
        slopes = 0.1 * torch.randn(5, tasks, generator=draw, dtype=torch.float64) - 0.05
        worst = 0.1 * torch.randn(5, generator=draw, dtype=torch.float64)
        now = slopes[-1].tolist()
        relative = softmax([tasks * a / sum(map(abs, now)) for a in now])
        past = [sum(abs(slopes[t, i].item()) for t in range(5)) for i in range(tasks)]
        absolute = softmax([-5 * a / s for a, s in zip(now, past, strict=True)])
        trend = softmax([-5.0 * 5 * w / worst.abs().sum().item() for w in worst.tolist()])
        mixed = min(1.0, 5 * trend[-1])
        raw = softmax([tasks * (mixed * r + (1 - mixed) * a) for r, a in zip(relative, absolute, strict=True)])
        least = 1 / (10 * tasks)
        expected = raw if min(raw) >= least else [w * (1 - least * tasks) + least for w in raw]
        found = coba_weights(slopes, worst)
        assert found.tolist() == pytest.approx(expected)
        assert found.sum().item() == pytest.approx(1.0)


def test_a_task_that_diverges_counts_less_and_a_slow_one_more() -> None:
    falling = torch.linspace(-0.20, -0.10, 6, dtype=torch.float64)
    turning = torch.tensor([-0.2, -0.1, 0.0, 0.1, 0.2, 0.3], dtype=torch.float64)
    weights = coba_weights(torch.stack([falling, turning], 1), turning)  # the worst task goes up: diverging
    assert weights[1] < weights[0]
    slow = torch.stack([falling, falling / 4], 1)
    weights = coba_weights(slow, -torch.linspace(0.1, 0.2, 6, dtype=torch.float64))  # all converge
    assert weights[1] > weights[0]


def test_weights_start_equal_and_reach_the_loss(tmp_path: Path) -> None:
    made, callback, seen = method(), CoBa(every_n_steps=1, warmup=2, window=3), []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(module.importance(module.device).tolist())

    pl.Trainer(
        max_steps=6, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[callback, Watch()], limit_val_batches=0,
    ).fit(made, datamodule=data(tmp_path))  # fmt: skip
    assert seen[:2] == [[1.0, 1.0], [1.0, 1.0]]
    assert seen[3] != seen[2] != [1.0, 1.0]
    assert sum(seen[-1]) == pytest.approx(2.0)
    ratios = callback._ratios()
    slopes = torch.stack([slope(ratios[max(0, n - 3) : n]) for n in range(2, len(ratios))])[-3:]
    expected = 2 * coba_weights(slopes[:, :-1], slopes[:, -1])  # what the sixth step was taken with
    assert seen[-1] == pytest.approx(expected.tolist(), rel=1e-5)


def test_losses_are_means_over_the_tokens_of_a_task(tmp_path: Path) -> None:
    made, callback, rows = method(), CoBa(every_n_steps=9), data(tmp_path)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[callback], limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(made, datamodule=rows)
    made.load_state_dict({k: v for k, v in method_state().items()})
    losses = callback._task_losses(trainer, made)
    assert losses == pytest.approx(callback._losses[0], rel=1e-6)
    sums = {0: [0.0, 0.0], 1: [0.0, 0.0]}
    for batch in rows.val_dataloader():
        logits = made.network(batch["input_ids"]).logits.log_softmax(-1)  # type: ignore[misc]
        for i, task in enumerate(batch["tasks"].tolist()):
            for t in (batch["weights"][i] > 0).nonzero()[:, 0].tolist():
                sums[task][0] -= logits[i, t - 1, batch["input_ids"][i, t]].item()
                sums[task][1] += 1
    assert losses == pytest.approx([total / count for total, count in sums.values()], rel=1e-5)


class Swapped(Instructions):
    """Each row is of the other task once a batch is on its way."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {**batch, "tasks": 1 - batch["tasks"]}


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_batches_are_those_of_a_validation(tmp_path: Path, precision: Any) -> None:
    found = []
    for kind in (Instructions, Swapped):
        callback, rows = CoBa(every_n_steps=9), data(tmp_path)
        rows.__class__ = kind
        pl.Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=[callback], limit_val_batches=0, precision=precision,
        ).fit(method(), datamodule=rows)  # fmt: skip
        found.append(callback._losses[0])
    assert found[0] == pytest.approx(found[1][::-1])
    assert found[0][0] != pytest.approx(found[0][1])


def method_state() -> dict[str, torch.Tensor]:
    fresh = method()
    fresh.configure_model()
    return fresh.state_dict()


def test_refuses_what_has_no_tasks(tmp_path: Path) -> None:
    def fit(made: SupervisedFineTuning, rows: Instructions) -> None:
        pl.Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=[CoBa()], limit_val_batches=0,
        ).fit(made, datamodule=rows)  # fmt: skip

    with pytest.raises(ConfigError, match="reduction task"):
        fit(method("token"), data(tmp_path))
    with pytest.raises(ConfigError, match="task_column"):
        fit(method(), data(tmp_path, None))
    weighted = method()
    weighted.task_weights = {"x": 2.0}
    with pytest.raises(ConfigError, match="null beside CoBa"):
        fit(weighted, data(tmp_path))


def test_resumes(tmp_path: Path) -> None:
    assert_resumes(
        lambda: CoBa(every_n_steps=1, warmup=2, window=3), tmp_path / "run", crash_at=4, max_epochs=2,
        make_module=method, make_data=lambda: data(tmp_path),
    )  # fmt: skip


def test_resumed_between_two_measurements_it_logs_the_same_rows(tmp_path: Path) -> None:
    """The weights stand in every row once they were measured, as Lightning repeats the last value of a key."""
    assert_resumes(
        lambda: CoBa(every_n_steps=4, warmup=2), tmp_path / "run", crash_at=6, max_epochs=3,
        make_module=method, make_data=lambda: data(tmp_path),
    )  # fmt: skip
