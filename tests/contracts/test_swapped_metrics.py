"""The metrics of a method are swapped in YAML: for each family, another one that must give a number known otherwise."""

import json
import math
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy, BinaryAveragePrecision, MulticlassAccuracy, MulticlassF1Score

from lit_ft.command.cli import command, load_run
from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Output
from lit_ft.data import GaussianClusters, TextPairs, UnpairedPreferences
from lit_ft.methods import DPO, KTO, ImageClassifier, IndependentMembers, SentenceEmbedding, UnpairedBCO
from lit_ft.running.processes import run_ranks
from lit_ft.testing import assert_resumes, fit_foreign

SIZES = {"tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
         "num_attention_heads": 2}  # fmt: skip
LLAMA = {"config": {"model_type": "llama", **SIZES}}
BERT = {"config": {"model_type": "bert", **SIZES}}
MLP = {"config": {"model_type": "mlp", "width": 8}}


def f1(classes: int) -> dict[str, Any]:
    return {"class_path": "MulticlassF1Score", "init_args": {"num_classes": classes, "average": "micro"}}


def rows(folder: Path, *without: str) -> str:
    draw = random.Random(0)
    made = [
        {"prompt": f"q{i} ", "completion": "c" * draw.randint(1, 9), "text": f"{i} " + "ab"[i % 2], "label": i % 2,
         "chosen": f"yes {i}", "rejected": f"no, {i % 7}", "anchor": f"a{i}", "positive": f"{i} a"}
        for i in range(40)
    ]  # fmt: skip
    made = [{name: row[name] for name in row if name not in without} for row in made]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, made)))
    return str(folder / "rows.jsonl")


CASES: dict[str, Any] = {
    "ImageClassifier": (MLP, "GaussianClusters", f1(4), "accuracy", lambda value: value),
    "TextClassifier": (BERT, "LabelledText", f1(2), "accuracy", lambda value: value),
    "SupervisedFineTuning": (LLAMA, "Instructions", {"class_path": "torchmetrics.MeanMetric"}, "perplexity", math.exp),
    "DPO": (LLAMA, "Preferences", f1(2), "rewards/accuracy", lambda value: value),
}


@pytest.mark.parametrize("name", CASES)
def test_another_metric_in_yaml_resumed_and_loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logged in the place of the method's own, also by a run that goes on and by what loads its checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    network, data, metric, known, link = CASES[name]
    path = rows(tmp_path, *(("text", "label") if data == "Instructions" else ()))
    config: dict[str, Any] = {
        "seed_everything": 1,
        "model": {"class_path": name, "init_args": {"network": network}},
        "data": {"class_path": data, "init_args": {} if data == "GaussianClusters" else {"path": path}},
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1, "val_check_interval": 1},
    }
    Path("own.yaml").write_text(json.dumps(config))
    config["model"]["init_args"]["metrics"] = {"another": metric}
    Path("swapped.yaml").write_text(json.dumps(config))
    assert command(["fit", "-c", "own.yaml", "--run_dir=own", "--trainer.max_steps=6", "--debug"]) == 0
    assert command(["fit", "-c", "swapped.yaml", "--run_dir=swapped", "--trainer.max_steps=3", "--debug"]) == 0
    last = ["--ckpt_path", "last", "--run=swapped"]
    assert command(["fit", "-c", "swapped.yaml", "--trainer.max_steps=6", *last, "--debug"]) == 0
    own, swapped = (json.loads(Path(run, "report.json").read_text())["metrics"] for run in ("own", "swapped"))
    assert link(swapped["val/another"]) == pytest.approx(own[f"val/{known}"], rel=1e-5)
    if known != "rewards/accuracy":  # which is no metric, but a mean over the batch
        assert f"val/{known}" not in swapped
    loaded = load_run("swapped").model
    assert list(loaded.new_metrics()) == ["another"]
    pl.seed_everything(1)  # a reference is built again, and is that of the run
    assert list(type(loaded).load_from_checkpoint(_checkpoint(), weights_only=True).new_metrics()) == ["another"]


def _checkpoint() -> Path:
    return max(Path("swapped/checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)


def image_classifier() -> ImageClassifier:
    metrics = {"right": MulticlassAccuracy(4, average="micro"), "f1": MulticlassF1Score(4)}
    return ImageClassifier(MLP, metrics=metrics)  # type: ignore[arg-type]


def test_resumes(tmp_path: Path) -> None:
    assert_resumes(pl.Callback, tmp_path, crash_at=5, make_module=image_classifier,
                   make_data=lambda: GaussianClusters(60, batch_size=6))  # fmt: skip


def on_two_ranks() -> tuple[float, float]:
    """What a rank has logged, and the same over all rows by hand."""
    data = GaussianClusters(60, batch_size=6)
    module, trainer = fit_foreign([], None, image_classifier(), data, devices=2, strategy="ddp")
    images, labels = (torch.stack([torch.as_tensor(row[i]) for row in data.rows["val"]]) for i in (0, 1))
    right = (module.eval()(images).argmax(1) == labels).float().mean()
    return float(trainer.callback_metrics["val/right"]), float(right)


def test_two_processes_count_the_rows_of_both() -> None:
    (first, by_hand), (second, _) = run_ranks(on_two_ranks, 2)
    assert first == second == pytest.approx(by_hand)


@pytest.mark.parametrize("method", [KTO, UnpairedBCO])
def test_answers_alone_are_judged_by_their_probability(method: Any, tmp_path: Path) -> None:
    data = UnpairedPreferences(rows(tmp_path, "chosen", "rejected"))
    _, trainer = fit_foreign([], None, method(LLAMA, metrics={"right": BinaryAccuracy()}), data)
    values = trainer.callback_metrics
    assert values["val/right"] == pytest.approx(float(values["val/rewards/accuracy"]))


def test_texts_are_judged_by_their_cosines(tmp_path: Path) -> None:
    two = {name: BinaryAveragePrecision() for name in ("precision", "accuracy")}  # the second in the place of a mean
    module = SentenceEmbedding(BERT, metrics=two)  # type: ignore[arg-type]
    _, trainer = fit_foreign([], None, module, TextPairs(rows(tmp_path, "label"), batch_size=8))
    assert 0 < trainer.callback_metrics["val/precision"] == trainer.callback_metrics["val/accuracy"] <= 1


def test_none_and_names_that_cannot_be_logged() -> None:
    none = ImageClassifier(MLP, metrics={})  # type: ignore[arg-type]
    _, trainer = fit_foreign([], None, none, GaussianClusters(60, batch_size=6))
    assert [key for key in trainer.callback_metrics if key.startswith("val/")] == ["val/loss"]
    assert none.hparams["metrics"] == {}
    for name in ("loss", "a.b"):
        with pytest.raises(ConfigError, match="metrics"):
            ImageClassifier(MLP, metrics={name: MeanMetric()})  # type: ignore[arg-type]


def test_a_method_built_in_python_comes_back_with_every_argument(tmp_path: Path) -> None:
    """Arguments that are handed on to a base are hyper-parameters as the class's own are; objects are not."""
    made = IndependentMembers(MLP, 2, loss="squared_error", metrics={"right": MulticlassAccuracy(4)})  # type: ignore[arg-type]
    _, trainer = fit_foreign([], None, made, GaussianClusters(60, batch_size=6))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = IndependentMembers.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert (again.num_members, again.loss, again.num_classes) == (2, "squared_error", 4)
    assert list(again.new_metrics()) == ["accuracy"]
    for key, value in made.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    pairs = DPO(LLAMA, sft_weight=0.5, beta=0.3)  # type: ignore[arg-type]
    assert {"network", "sft_weight", "beta"} <= set(pairs.hparams)


def test_a_method_without_predictions_has_nothing_for_a_metric() -> None:
    class Silent(ImageClassifier):
        def compute(self, batch: Any) -> Output:
            return Output(super().compute(batch).loss)

    module = Silent(MLP, metrics={"right": MulticlassAccuracy(4)})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gives no predictions"):
        fit_foreign([], None, module, GaussianClusters(60, batch_size=6))
