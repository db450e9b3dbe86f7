"""What a notebook does: the same objects in one run after another, and evaluation without training."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.callbacks import (
    Calibration,
    ComposedDeltas,
    EdgeOfStability,
    FeatureProbe,
    GradientGrafting,
    LotteryTicket,
    MicroBatchRegularizer,
    RunCheckpoint,
    RunReport,
    SampledText,
    WarmStart,
)
from lit_ft.core.errors import ConfigError
from lit_ft.data import Instructions, LabelledText, TextPairs
from lit_ft.methods import (
    SentenceEmbedding,
    SupervisedFineTuning,
    TextClassifier,
)
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.testing import ForeignData, ForeignModule, assert_resumes, difference, fit_foreign


def quiet(*callbacks: pl.Callback, **more: Any) -> pl.Trainer:
    settings = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(callbacks=list(callbacks), accelerator="cpu", devices=1, logger=False, **settings, **more)


class Evaluated(ForeignModule):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)


class Split(ForeignData):
    """Has the rows of a stage after it was set up for it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: set[str] = set()

    def setup(self, stage: str) -> None:
        self.stages.add(stage)

    def _loader(self, training: bool) -> Any:
        assert self.stages & {"fit", "validate"}
        return super()._loader(training)

    def train_dataloader(self) -> Any:
        assert "fit" in self.stages
        return super()._loader(True)

    def test_dataloader(self) -> Any:
        assert "test" in self.stages
        return super()._loader(False)


@pytest.mark.parametrize("fit_on", ["train", "val"])
def test_a_probe_sets_up_what_it_reads(fit_on: Any) -> None:
    for data in (None, Split()):
        probe = FeatureProbe("model.2", at_validation=True, fit_on=fit_on, data=data)
        quiet(probe).validate(ForeignModule(), datamodule=Split(), verbose=False)
        quiet(probe, max_epochs=1).fit(ForeignModule(), datamodule=Split())
        assert probe.report()["last"]["eval_rows"] == 44


def test_a_second_run_saves_its_own_checkpoints(tmp_path: Path) -> None:
    saves = RunCheckpoint(every_n_steps=None, monitor="val/loss")
    for seed in (0, 1):
        module = ForeignModule(seed)
        quiet(saves, max_epochs=2, default_root_dir=tmp_path / str(seed)).fit(module, datamodule=ForeignData())
        path, _ = newest_whole(tmp_path / str(seed) / "checkpoints")
        assert path is not None
        assert (path.parent / "best.ckpt").exists()
        assert not difference(torch.load(path, weights_only=True)["state_dict"], dict(module.state_dict()))


def test_a_new_run_is_refused_where_another_has_its_checkpoints(tmp_path: Path) -> None:
    saves = RunCheckpoint(every_n_steps=5, folder=str(tmp_path))
    module, trainer = fit_foreign([saves])
    with pytest.raises(ConfigError, match="without checkpoints"):
        fit_foreign([saves])
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, datamodule=ForeignData())
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=00000030.ckpt", "step=00000033.ckpt"]


def test_a_run_that_goes_back_keeps_what_it_saves(tmp_path: Path) -> None:
    fit_foreign([RunCheckpoint(every_n_steps=5, folder=str(tmp_path), keep=9)])
    early = tmp_path / "step=00000005.ckpt"
    fit_foreign([RunCheckpoint(every_n_steps=6, folder=str(tmp_path))], resume=early, max_steps=13, max_epochs=-1)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=00000012.ckpt", "step=00000013.ckpt"]


def test_the_report_counts_one_run(tmp_path: Path) -> None:
    report = RunReport(str(tmp_path))
    for _ in range(2):
        fit_foreign([report])
        assert report._samples == 88

    class Refuses(pl.Callback):
        def setup(self, *args: Any, **kwargs: Any) -> None:
            raise ConfigError("callbacks", "this", "nothing")

    with pytest.raises(ConfigError):
        fit_foreign([report, Refuses()])
    assert json.loads((tmp_path / "report.json").read_text())["status"] == "finished"


def test_a_resumed_run_does_not_start_warm(tmp_path: Path) -> None:
    torch.save(ForeignModule(9).state_dict(), tmp_path / "weights.ckpt")
    assert_resumes(lambda: WarmStart(tmp_path / "weights.ckpt"), tmp_path)
    module, trainer = fit_foreign([WarmStart(tmp_path / "weights.ckpt")])
    trained = {name: value.clone() for name, value in module.state_dict().items()}
    trainer.fit(module, datamodule=ForeignData())
    assert not difference(trained, dict(module.state_dict()))


def test_deltas_are_added_once(tmp_path: Path) -> None:
    ticket = LotteryTicket(first_steps=4, density=0.2, delta="delta.safetensors")
    fit_foreign([ticket], default_root_dir=tmp_path)
    module, trainer = fit_foreign([ComposedDeltas([tmp_path / "delta.safetensors"])], module=Evaluated())
    trained = {name: value.clone() for name, value in module.state_dict().items()}
    for part in (trainer.validate, trainer.test):
        part(module, datamodule=Split(), verbose=False)
    trainer.fit(module, datamodule=ForeignData())
    assert not difference(trained, dict(module.state_dict()))


def test_both_modes_are_measured_side_by_side() -> None:
    both = [EdgeOfStability(11), EdgeOfStability(11, training=True)]
    _, trainer = fit_foreign(list(both))
    assert {"edge_of_stability/lambda_1", "edge_of_stability/train_mode/lambda_1"} <= set(trainer.callback_metrics)
    states = trainer._checkpoint_connector.dump_checkpoint()["callbacks"]
    assert [states[one.state_key]["measurements"] for one in both] == [one.measurements for one in both]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Calibration("model"),
        lambda: GradientGrafting(),
        lambda: MicroBatchRegularizer(),
        lambda: SampledText("a"),
    ],
)
def test_two_that_log_under_the_same_names_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match="two of"):
        fit_foreign([make(), make()])


def test_tokens_of_another_tokenizer_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data are tokenised once: the next model would read the numbers of the first one's tokens as its own."""
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    rows = [{"text": f"text {n}", "positive": f"t {n}", "label": "xy"[n % 2], "prompt": "a", "completion": "b"}
            for n in range(12)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = str(tmp_path / "rows.jsonl")
    answers = [{name: row[name] for name in ("prompt", "completion")} for row in rows]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama: Any = {"config": {"model_type": "llama", "tokenizer": "bytes", **sizes}}
    bert: Any = {"config": {"model_type": "bert", "tokenizer": "bytes", **sizes}}
    makers: list[tuple[Any, pl.LightningDataModule]] = [
        (lambda: SupervisedFineTuning(llama), Instructions(str(tmp_path / "answers.jsonl"))),
        (lambda: TextClassifier(llama), LabelledText(path)),
        (lambda: SentenceEmbedding(bert), TextPairs(path, anchor="text", positive="positive")),
    ]
    for make, data in makers:
        for _ in range(2):  # another tokenizer that is the same one
            quiet(fast_dev_run=1).fit(make(), datamodule=data)
        other = make()
        other.tokenizer.add_tokens(["another"])
        with pytest.raises(ConfigError, match="another tokenizer"):
            quiet(fast_dev_run=1).fit(other, datamodule=data)
