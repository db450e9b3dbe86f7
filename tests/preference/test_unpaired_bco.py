"""BCO without pairs on tiny networks: TRL's loss and shift through the whole path, and a shift that survives."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # also in the processes, which load this file alone

from test_kto import CONFIG, table, trl_batch, trl_network

from lit_ft.data import UnpairedPreferences
from lit_ft.methods import CachedLogProbs, FrozenCopy, UnpairedBCO
from lit_ft.running.processes import run_ranks


def method(lr: float = 0.1, beta: float = 0.1, **arguments: Any) -> UnpairedBCO:
    torch.manual_seed(0)
    made = UnpairedBCO({"config": dict(CONFIG)}, beta, optimizer=lambda p: torch.optim.SGD(p, lr=lr), **arguments)  # type: ignore[arg-type]
    made.configure_model()
    return made


def fit(made: UnpairedBCO, folder: Path, **trainer: Any) -> list[tuple[float, float]]:
    """Loss and shift of four steps."""
    compute, found = made.compute, []

    def watched(batch: Any) -> Any:
        output = compute(batch)
        found.append((output.loss.item(), output.scalars["shift"].item()))
        return output

    made.compute = watched  # type: ignore[method-assign]
    size = trainer.pop("batch_size", 4)
    runner = pl.Trainer(
        max_steps=4, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder, **trainer,
    )  # fmt: skip
    runner.fit(made, datamodule=UnpairedPreferences(table(folder), batch_size=size, val_fraction=0.0))
    return found


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def part(rows: list[int]) -> dict[str, torch.Tensor]:
    batch = trl_batch()
    both = rows + [row + 6 for row in rows]
    return {name: values[rows if name == "desirable" else both] for name, values in batch.items()}


@pytest.mark.parametrize(
    ("policy", "losses", "shifts"),
    [
        (0, (0.6984234, 0.6985947, 0.6980243), (0.00545443, 0.01297719, 0.00545443)),
        (1, (0.6881831, 0.6879236, 0.6886458), (-0.00545443, -0.01297719, -0.00545443)),
    ],
)
def test_equals_trl(policy: int, losses: tuple[float, ...], shifts: tuple[float, ...]) -> None:
    """``bco_loss`` of TRL 1.9, beta 0.1, on three batches of one run; the answers of the first come again apart."""
    made = UnpairedBCO(trl_network(policy), reference=FrozenCopy())  # type: ignore[arg-type]
    made.configure_model()
    made.reference._copy = trl_network(1 - policy)  # type: ignore[union-attr]
    for rows, loss, shift in zip([[*range(6)], [0, 1, 3, 4], [2, 5]], losses, shifts, strict=True):
        for training in (True, False):  # evaluation uses the shift and leaves it
            made.train(training)
            output = made.compute(part(rows))
            assert output.loss.item() == pytest.approx(loss, rel=1e-6)
            assert output.scalars["shift"].item() == pytest.approx(shift, abs=1e-7)


def test_the_first_loss_is_log_2_and_borrowed_answers_are_not_read(tmp_path: Path) -> None:
    made = method(reference=CachedLogProbs())
    losses = fit(made, tmp_path)
    assert losses[0] == (pytest.approx(0.6931472, abs=1e-6), pytest.approx(0.0, abs=1e-7))
    other, batch = method(), trl_batch()
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][6:] = 3
    other.eval()
    assert torch.equal(other.compute(batch).loss, other.compute(changed).loss)


def test_the_shift_is_the_mean_of_all_rewards_so_far(tmp_path: Path) -> None:
    """Brute force beside the run: rewards of each batch at the weights of its step."""
    made, rewards = method(lr=2.0), []
    compute = made.compute

    def watched(batch: Any) -> Any:
        with torch.no_grad():
            rewards.extend(
                (0.1 * (made.predict_step(batch, 0) - made.reference.log_probs(made.network, batch)[:4])).tolist()
            )  # type: ignore[union-attr, arg-type]
        output = compute(batch)
        assert output.scalars["shift"].item() == pytest.approx(sum(rewards) / len(rewards), abs=1e-6)
        return output

    made.compute = watched  # type: ignore[method-assign]
    fit(made, tmp_path)
    assert len(rewards) == 16
    assert abs(sum(rewards)) > 0.01


def on_ranks(folder: str, devices: int, batch_size: int) -> list[tuple[float, float]]:
    strategy = {"strategy": "ddp", "devices": devices} if devices > 1 else {}
    return fit(method(lr=3.0), Path(folder), batch_size=batch_size, **strategy)


@pytest.mark.slow
def test_two_ranks_share_one_shift(tmp_path: Path) -> None:
    table(tmp_path)
    first, second = run_ranks(on_ranks, 2, str(tmp_path), 2, 4)
    assert [shift for _, shift in first] == [shift for _, shift in second]
    alone = on_ranks(str(tmp_path), 1, 8)
    assert [shift for _, shift in first] == pytest.approx([shift for _, shift in alone], abs=1e-5)
    assert max(abs(shift) for _, shift in first) > 0.001
