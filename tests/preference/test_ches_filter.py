"""Which pairs the CHES filter keeps, and that a resumed run keeps the same ones."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import ChesFilter, EditedPairs
from lit_ft.methods import DPO
from lit_ft.preference.ches import ches
from lit_ft.preference.ches_filter import kept

NETWORK = {
    "config": {
        "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2,
    }
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def method(lr: float = 0.1) -> DPO:
    torch.manual_seed(0)
    return DPO(NETWORK, optimizer=lambda p: torch.optim.SGD(p, lr=lr))  # type: ignore[arg-type]


def fit(data: EditedPairs, steps: int = 1) -> DPO:
    made = method()
    pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, limit_val_batches=0,
    ).fit(made, datamodule=data)  # fmt: skip
    return made


@pytest.mark.parametrize(("side", "expected"), [("lowest", [1, 5]), ("highest", [3, 4])])
def test_keeps_a_share(side: str, expected: list[int]) -> None:
    scores = {4: 2.0, 1: -3.0, 3: 1.5, 5: 0.5}
    assert kept(scores, 0.5, side) == expected
    assert len(kept(scores, 0.5, "random", seed=1)) == 2
    assert kept(scores, 0.01, "lowest") == [1]


def test_all_processes_keep_the_same_pairs_by_the_scores_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = {0: 3.0, 2: 1.0}, {1: 0.0, 3: 2.0}

    class Scores(pl.LightningModule):
        def ches(self, batch: dict[str, torch.Tensor], length_normalize: bool) -> torch.Tensor:
            return torch.tensor([own[int(row)] for row in batch["rows"]])

    def gather(parts: list[object], mine: object) -> None:
        assert mine == own
        parts[:] = [own, other]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy._lightning_module = Scores()
    monkeypatch.setattr(type(trainer), "world_size", 2)
    batches = [{"rows": torch.tensor([0, 2])}]
    assert ChesFilter(0.5).kept_rows(trainer, batches, seed=0) == [1, 2]


@pytest.mark.parametrize("side", ["lowest", "highest"])
def test_scores_are_those_of_the_start_and_only_kept_pairs_train(side: str) -> None:
    data = EditedPairs(pairs=12, length=4, batch_size=5, ches_filter=ChesFilter(0.25, side))  # type: ignore[arg-type]
    fit(data, steps=3)
    whole = EditedPairs(pairs=12, length=4, batch_size=5)
    fit(whole)
    start = method()
    start.configure_model()
    scores = {}
    for i in range(12):  # one pair at a time, by the function itself
        batch = whole._loader("train", lambda epoch, i=i: [[i]], training=False)  # type: ignore[misc]
        for one in batch:
            states = start.network.model(one["input_ids"]).last_hidden_state  # type: ignore[union-attr]
            scores[int(one["rows"][0])] = ches(states, one["weights"]).item()
    wanted = sorted(sorted(scores, key=scores.__getitem__, reverse=side == "highest")[:3])
    assert data.state_dict() == {"kept": wanted}
    seen = {int(row) for batch in data.train_dataloader() for row in batch["rows"]}
    assert seen == set(wanted)


def test_half_of_the_pairs_are_alike() -> None:
    data = EditedPairs(pairs=8, length=5, few=2)
    rows = data._pair_rows()["train"]
    assert [sum(a != b for a, b in zip(r["chosen"], r["rejected"], strict=True)) for r in rows] == [5, 2] * 4
    assert rows == EditedPairs(pairs=8, length=5, few=2)._pair_rows()["train"]
    assert rows != EditedPairs(pairs=8, length=5, few=2, seed=1)._pair_rows()["train"]


@pytest.mark.parametrize("arguments", [{"keep": 0.0}, {"keep": 1.0}, {"side": "middle"}])
def test_bad_settings(arguments: dict) -> None:
    with pytest.raises(ConfigError):
        ChesFilter(**arguments)


def test_a_batch_is_shown_before_there_are_weights(tmp_path: Path) -> None:
    from lit_ft.command.cli import command

    file = tmp_path / "a.yaml"
    file.write_text(
        "model: {class_path: DPO, init_args: {network: {config: {model_type: llama, hidden_size: 16,"
        " num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, tokenizer: bytes}}}}\n"
        "data: {class_path: EditedPairs, init_args: {pairs: 8, length: 4, ches_filter: {class_path: ChesFilter}}}\n"
    )
    with pytest.warns(UserWarning, match="there is no CHES: all pairs are kept"):
        assert command(["show-batch", "-c", str(file)]) == 0
