"""Predictions: every row once, beside its place in the table, whatever became of the processes that wrote it."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lit_ft.command.cli import command
from lit_ft.core.errors import ConfigError
from lit_ft.data import (
    AnswerOptions,
    GaussianClusters,
    ImageFolder,
    Instructions,
    LabelledText,
    LabelTriplets,
    Mixture,
    Preferences,
    TextPairs,
    UnpairedPreferences,
)
from lit_ft.methods import (
    DPO,
    KTO,
    ExpertEmbedding,
    ImageClassifier,
    OptionScoring,
    RewardModel,
    SentenceEmbedding,
    SupervisedFineTuning,
    TextClassifier,
    TextGeneration,
)
from lit_ft.running.predictions import Predictions
from lit_ft.running.processes import run_ranks

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
LLAMA: dict[str, Any] = {"config": {"model_type": "llama", "tokenizer": "bytes", **SIZES}}
ROWS = [{"text": f"text {i}", "kind": ("ham", "spam", "eggs")[i % 3], "prompt": f"{i}?", "completion": f"so {i}",
         "answer": i % 2, "chosen": f"yes {i}", "rejected": f"no {i}", "anchor": f"a{i}", "positive": f"b{i}"}
        for i in range(20)]  # fmt: skip


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write(ROWS)


def write(rows: list[dict[str, Any]], *columns: str) -> None:
    kept = [{key: row[key] for key in columns or row} for row in rows]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))


def predicted(module: Any, data: Any, folder: str = "run", **arguments: Any) -> list[dict[str, Any]]:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(accelerator="cpu", callbacks=[Predictions(folder)], **quiet, **arguments)
    trainer.predict(module, data, return_predictions=False)
    return lines(folder)


def lines(folder: str | Path = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / "predictions.jsonl").read_text().splitlines()]


def made(name: str, **k: Any) -> tuple[Any, Any, str]:
    """A method, its data, and what its predictions are called."""
    pair, said = ("prompt", "chosen", "rejected"), ("prompt", "completion")
    columns, kind, method, key = {
        "classes": (("text", "kind"), LabelledText, TextClassifier, "probabilities"),
        "rewards": (pair, Preferences, RewardModel, "reward"),
        "policy": (pair, Preferences, DPO, "log_probability"),
        "unpaired": (pair, UnpairedPreferences, KTO, "log_probability"),
        "targets": (said, Instructions, SupervisedFineTuning, "log_probability"),
        "answers": (said, Instructions, TextGeneration, "answers"),
        "options": (("prompt", "answer"), AnswerOptions, OptionScoring, "scores"),
    }[name]
    write(ROWS, *columns)
    more: dict[str, Any] = {"classes": {"label": "kind"}, "options": {"options": {"0": "no", "1": "yes"}}}.get(name, {})
    return method(LLAMA, **({"max_new_tokens": 2} if name == "answers" else {})), kind("rows.jsonl", **more, **k), key


@pytest.mark.parametrize("name", ["classes", "rewards", "policy", "unpaired", "targets", "answers", "options"])
@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_rows_have_the_numbers_of_their_table(name: str, split: str) -> None:
    """Rows of the test, else of the validation, else of the training; several batches, and a shorter last one."""
    shares = {"test_fraction": 0.35 * (split == "test"), "val_fraction": 0.35 * (split == "val")}
    method, data, key = made(name, batch_size=3, seed=3, **shares)
    rows = predicted(method, data)
    expected, sides = {"test": 7, "val": 7, "train": 20}[split], 2 if name == "unpaired" else 1
    assert (len(rows), len({row["row"] for row in rows})) == (expected * sides, expected)
    for row in rows:
        source = ROWS[row["row"] - 1]
        assert next(iter(row)) == "row"
        assert key in row
        if name == "classes":
            assert row["expected"] == source["kind"]
            assert row["label"] == max(row[key], key=row[key].get)
            assert (list(row[key]), sum(row[key].values())) == (["eggs", "ham", "spam"], pytest.approx(1))
        if name == "answers":
            assert (row["prompt"], row["expected"]) == (source["prompt"], source["completion"])
        if name == "options":
            assert (row["expected"], len(row["scores"])) == (source["answer"], 2)
        if name in ("rewards", "policy"):
            assert set(row[key]) == {"chosen", "rejected"}


def test_rows_that_are_left_out_do_not_shift_the_others() -> None:
    rows = [dict(row) for row in ROWS]
    rows[2]["completion"] = rows[9]["completion"] = ""
    rows[4]["chosen"], rows[4]["rejected"] = "a" * 40 + "b", "a" * 40 + "c"
    write(rows, "prompt", "completion")
    template: Any = [{"text": "{prompt}"}, {"text": "{completion}", "weight": 1.0}]
    data = Instructions("rows.jsonl", template=template, val_fraction=0.0)
    found = predicted(SupervisedFineTuning(LLAMA), data, "a")
    assert sorted(row["row"] for row in found) == [n for n in range(1, 21) if n not in (3, 10)]
    write(rows, "prompt", "chosen", "rejected")
    found = predicted(DPO(LLAMA), Preferences("rows.jsonl", max_length=24, val_fraction=0.0), "b")
    assert sorted(row["row"] for row in found) == [n for n in range(1, 21) if n != 5]


def test_pictures_numbers_and_vectors() -> None:
    for folder in ("cats", "dogs"):
        Path("photos", folder).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (4, 4), 60 * i).save(f"photos/{folder}/{i}.png")
    config = {"config": {"model_type": "mlp", "width": 4}}
    rows = predicted(ImageClassifier(config), ImageFolder("photos", image_size=4, test_fraction=0.5), "a")
    assert len(rows) == len({row["file"] for row in rows}) == 4
    assert all((row["file"][:4], set(row["probabilities"])) == (row["expected"], {"cats", "dogs"}) for row in rows)
    fitted = ImageClassifier(config, loss="squared_error")
    assert set(predicted(fitted, GaussianClusters(rows=20), "b")[0]) == {"row", "label", "expected", "outputs"}
    write(ROWS, "anchor", "positive")
    bert = {"config": {**LLAMA["config"], "model_type": "bert"}}
    pairs = predicted(SentenceEmbedding(bert), TextPairs("rows.jsonl", val_fraction=0.5), "d")
    assert {len(vector) for vector in pairs[0]["vectors"].values()} == {16}
    assert set(pairs[0]["vectors"]) == {"anchor", "positive"}
    write(ROWS, "anchor", "positive", "kind")
    Path("rows.jsonl").rename("pairs.jsonl")
    expert: Any = {"config": {**bert["config"], "intermediate_size": 32, "num_hidden_layers": 2}}
    write(ROWS, "text", "kind")
    assert (
        len(predicted(ExpertEmbedding(expert, experts=3), TextPairs("pairs.jsonl", label="kind"), "f")[0]["vectors"])
        == 2
    )
    triplets = predicted(SentenceEmbedding(bert), LabelTriplets("rows.jsonl", target="kind", batch_size=4), "e")
    assert len({row["row"] for row in triplets}) == len(triplets) == 18


class Other(pl.LightningModule):
    """A module of somebody else."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.calls = kind, 0

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        self.calls += 1
        return {"tensor": batch, "mapping": {"value": batch, "twice": 2 * batch}, "tuple": (batch, 2 * batch),
                "texts": [str(int(x)) for x in batch], "whole": batch.sum()}[self.kind]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tensor", {"prediction": 4.0}),
        ("mapping", {"value": 4.0, "twice": 8.0}),
        ("tuple", {"prediction": [4.0, 8.0]}),
        ("texts", {"prediction": "4"}),
    ],
)
def test_what_others_predict_is_a_row_for_each_row(kind: str, expected: dict[str, Any]) -> None:
    rows = predicted(Other(kind), DataLoader(torch.arange(7.0), batch_size=3))
    assert [row.pop("row") for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert rows[4] == expected


def test_a_mixture_names_the_source_and_its_rows() -> None:
    write([{"prompt": f"{i}?", "completion": "a" * 30} for i in range(6)])
    Path("rows.jsonl").rename("long.jsonl")
    write([{"prompt": f"{i}?", "completion": f"so {i}"} for i in range(6)])
    parts = {name: Instructions(f"{name}.jsonl", val_fraction=0.5, max_length=12) for name in ("long", "rows")}
    rows = predicted(TextGeneration(LLAMA, max_new_tokens=1), Mixture(parts, batch_size=2))
    assert [row["source"] for row in rows] == ["long"] * 3 + ["rows"] * 3
    for row in rows:
        assert row["prompt"] == f"{row['row'] - 1}?"
        assert row["expected"] == ("a" * 30 if row["source"] == "long" else f"so {row['row'] - 1}")


def test_a_method_that_predicts_nothing_is_refused() -> None:
    class Nothing(SupervisedFineTuning):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    write(ROWS, "prompt", "completion")
    with (
        pytest.raises(ConfigError, match="model: given 'Nothing'; allowed: a method that predicts something"),
        pytest.warns(UserWarning, match="predict returned None"),
    ):
        predicted(Nothing(LLAMA), Instructions("rows.jsonl"))


def test_a_prediction_that_belongs_to_no_row_is_refused() -> None:
    with pytest.raises(ConfigError, match="predict_step: given '1 predictions'; allowed: one for each of the 3 rows"):
        predicted(Other("whole"), DataLoader(torch.arange(7.0), batch_size=3))


class Dies(Other):
    """Ends in the middle."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            raise RuntimeError("dead")
        return super().predict_step(batch, batch_idx)


def test_what_was_written_is_not_predicted_again_and_half_a_line_is_none() -> None:
    loader = DataLoader(torch.arange(7.0), batch_size=2)
    with pytest.raises(RuntimeError, match="dead"):
        predicted(Dies("tensor"), loader)
    assert not Path("run/predictions.jsonl").exists()
    (part,) = Path("run/.predictions").iterdir()
    assert len(part.read_text().splitlines()) == 4
    with part.open("a") as file:
        file.write('[[0, 4], {"row": 5, "predi')
    module = Other("tensor")
    assert [row["prediction"] for row in predicted(module, loader)] == [*range(7)]
    assert module.calls == 2
    assert [path.name for path in Path("run").iterdir()] == ["predictions.jsonl"]
    assert "predict_step" not in vars(module)


def _rank(name: str, rows: int) -> None:
    pl.seed_everything(0)
    method: Any = TextGeneration(LLAMA, max_new_tokens=6, temperature=1.0, samples=2)
    data: Any = Instructions("rows.jsonl", batch_size=2, val_fraction=0.0, test_fraction=rows / 20)
    if name == "classes":
        method = TextClassifier(LLAMA)
        data = LabelledText("rows.jsonl", label="kind", batch_size=2, val_fraction=0.0, test_fraction=rows / 20)
    predicted(method, data, name, strategy="ddp", devices=2)


def test_two_processes_write_all_rows_in_order() -> None:
    write(ROWS, "text", "kind")
    run_ranks(_rank, 2, "classes", 11)
    pl.seed_everything(0)
    data = LabelledText("rows.jsonl", label="kind", batch_size=2, val_fraction=0.0, test_fraction=0.55)
    alone, together = predicted(TextClassifier(LLAMA), data), lines("classes")
    assert [(row["row"], row["label"]) for row in together] == [(row["row"], row["label"]) for row in alone]
    assert len(together) == 11
    write([{"prompt": "?", "completion": "!"}] * 20)
    run_ranks(_rank, 2, "samples", 12)
    answers = [tuple(row["answers"]) for row in lines("samples")]
    assert len(answers) == len(set(answers)) == 12, "each process draws its own"


def test_expected_is_whole_and_generation_ends_at_every_end() -> None:
    write([{"prompt": "1?", "completion": "so 4250"}, {"prompt": "2?", "completion": "x"}] * 4)
    model = TextGeneration({"config": {**LLAMA["config"], "initializer_range": 0.5}}, max_new_tokens=8)
    model.configure_model()
    data = Instructions("rows.jsonl", max_length=7, val_fraction=0.0, test_fraction=0.5)
    assert {row["expected"] for row in predicted(model, data)} == {"so 4250", "x"}
    (answer,) = model.generate([[20, 21]])[0]
    end = next(token for token in answer if token != answer[0])
    config = model.network.generation_config
    for named in ([2, end], end):
        config.eos_token_id = named
        assert model.ends() == [2, end]
        assert model.generate([[20, 21]])[0][0] == answer[: answer.index(end)]


def test_a_prompt_leaves_too_few_positions() -> None:
    model = TextGeneration({"config": {**LLAMA["config"], "max_position_embeddings": 16}}, max_new_tokens=8)
    model.configure_model()
    with pytest.raises(ConfigError, match=r"max_new_tokens: given 8; allowed: 6 or less behind a prompt of 10 tokens"):
        model.generate([[20] * 10])


def test_a_second_predict_goes_on_or_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    write(ROWS, "text", "kind")
    config = {
        "model": {"class_path": "TextClassifier", "init_args": {"network": LLAMA}},
        "data": {"class_path": "LabelledText", "init_args": {"path": "rows.jsonl", "label": "kind"}},
        "trainer": {"max_steps": 1},
    }
    Path("config.yaml").write_text(json.dumps(config))
    assert command(["fit", "-c", "config.yaml", "--run_dir=run", "--debug"]) == 0
    predict = ["predict", "--run", "run", "--debug"]
    assert command(predict) == 0
    before = Path("run/predictions.jsonl").stat().st_mtime_ns
    assert [row["expected"] for row in lines()] == [ROWS[row["row"] - 1]["kind"] for row in lines()]
    assert command(predict) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert Path("run/predictions.jsonl").stat().st_mtime_ns == before
    for change, said in (
        (["--data.seed=1"], "data.init_args.seed: 0 then, 1 now"),
        (["--trainer.precision=bf16-true"], "trainer.precision: None then, 'bf16-true' now"),
    ):
        with pytest.raises(ConfigError, match=f"--to: given 'run'; .*{said}.*--to names one"):
            command([*predict, *change])
    assert command([*predict, "--data.seed=1", "--to", "other"]) == 0
    assert {row["row"] for row in lines("other")} != {row["row"] for row in lines()}
    write([*ROWS[:-1], {**ROWS[-1], "text": "another"}], "text", "kind")
    with pytest.raises(ConfigError, match=r"files\.rows\.jsonl: "):
        command(predict)
    with pytest.raises(ConfigError, match="--to: given 'x'; allowed: where predict writes to; test writes to"):
        command(["test", "--run", "run", "--to", "x", "--debug"])
