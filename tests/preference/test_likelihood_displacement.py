"""The measured changes are those of the network, and a run is not touched by being watched."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import Preferences
from lit_ft.methods import DPO
from lit_ft.preference.likelihood_displacement import LikelihoodDisplacement
from lit_ft.running.metrics_file import MetricsFile
from lit_ft.running.processes import run_ranks
from lit_ft.testing import ForeignData, ForeignModule, assert_resumes

CONFIG = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
ROWS = [{"prompt": f"q{i} ", "chosen": "good" + "a" * i, "rejected": "good" + "b" * i} for i in range(1, 13)]


class Turned(Preferences):
    """What was chosen is rejected once a batch is on its way; and a hook draws a random number."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        torch.rand(1)
        return {
            k: v.roll(len(v) // 2, 0) if k in ("input_ids", "attention_mask", "weights") else v
            for k, v in batch.items()
        }


def run(
    folder: Path, callbacks: list[Any], kind: Any = Preferences, precision: Any = "32-true", devices: int = 1
) -> tuple[DPO, Preferences]:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    torch.manual_seed(0)
    method = DPO({"config": dict(CONFIG)}, optimizer=lambda params: torch.optim.SGD(params, lr=0.5))
    data = kind(str(path), batch_size=4, val_fraction=0.25)
    trainer = pl.Trainer(
        max_steps=6, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=callbacks, num_sanity_val_steps=0, precision=precision,
        devices=devices, strategy="ddp" if devices > 1 else "auto",
    )  # fmt: skip
    trainer.fit(method, datamodule=data)
    return method, data


def test_changes_are_those_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    watch = LikelihoodDisplacement(every_n_steps=3, num_batches=10)
    method, data = run(tmp_path, [watch])
    plain, _ = run(tmp_path, [])
    for ours, theirs in zip(method.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    torch.manual_seed(0)
    start = DPO({"config": dict(CONFIG)})
    start.configure_model()
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        with torch.no_grad():
            change = torch.cat([method.predict_step(b, 0) - start.predict_step(b, 0) for b in loader])
        assert watch.report()[f"{split}_chosen"] == pytest.approx(change[:, 0].mean().item(), abs=1e-4)
        assert watch.report()[f"{split}_rejected"] == pytest.approx(change[:, 1].mean().item(), abs=1e-4)
    again = LikelihoodDisplacement()
    again.load_state_dict(watch.state_dict())
    assert again.report() == watch.report()


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_pairs_are_those_that_training_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    """With the answers of all pairs turned round, training raises what it saw as chosen, and that is what is said."""
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    watch = LikelihoodDisplacement(every_n_steps=3)
    run(tmp_path, [watch], Turned, precision)
    assert watch.report()["verdict"] == "not displaced"


def follow(folder: str, devices: int) -> tuple[dict[str, Any], torch.Tensor]:
    watch = LikelihoodDisplacement(every_n_steps=1, num_batches=10)
    run(Path(folder), [watch], devices=devices)
    return watch.report(), watch._start["val"].sort(0).values


def test_ranks_follow_all_pairs_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint holds what the first rank knows; were that its own pairs, the other one would go on from them."""
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    _, alone = follow(str(tmp_path), 1)
    first, second = run_ranks(follow, 2, str(tmp_path), 2)
    assert first[0] == second[0]
    for _, together in (first, second):
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("chosen", "rejected", "verdict"),
    [(-1.0, -3.0, "displaced"), (0.5, -3.0, "not displaced"), (-1.0, 1.0, "no preference learned")],
)
def test_verdict(chosen: float, rejected: float, verdict: str) -> None:
    watch = LikelihoodDisplacement()
    watch._start = {"train": torch.zeros(2, 2)}
    watch._last = watch._changes({"train": torch.tensor([[chosen, rejected]] * 2)})
    report = watch.report()
    assert report["verdict"] == verdict
    assert report["train_displaced"] == float(verdict == "displaced")


def test_a_module_without_pairs_is_refused() -> None:
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[LikelihoodDisplacement()],
    )  # fmt: skip

    class Numbers(ForeignModule):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model(batch[0])

    with pytest.raises(ConfigError, match="predict_step"):
        trainer.fit(Numbers(), datamodule=ForeignData())


def test_a_resumed_run_logs_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two measurements the last values stand in every row."""
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert_resumes(
        lambda: LikelihoodDisplacement(every_n_steps=3), tmp_path, crash_at=4,
        make_module=lambda: DPO({"config": dict(CONFIG)}, optimizer=lambda params: torch.optim.SGD(params, lr=0.5)),
        make_data=lambda: Preferences(str(path), batch_size=2, val_fraction=0.25),
    )  # fmt: skip
    rows = MetricsFile(tmp_path / "whole").read()
    logged = [row.get("likelihood_displacement/train_chosen") or None for row in rows]
    assert logged[:2] == [None] * 2
    assert None not in logged[2:5]
    assert logged[2] == logged[3] == logged[4]
