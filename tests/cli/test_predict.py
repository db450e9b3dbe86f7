"""New rows, without labels or answers, from a file, the command line and standard input; in one format."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_ft.command.cli import command

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
NETWORKS = {"bert": {**SIZES, "model_type": "bert", "tokenizer": "bytes"},
            "gpt2": {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "tokenizer": "bytes"},
            "mlp": {"model_type": "mlp", "width": 4, "depth": 1}}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fitted(method: str, network: str, data: str, arguments: dict[str, Any], **more: Any) -> None:
    """Fit for a step in the folder ``run``."""
    model = {"class_path": method, "init_args": {"network": {"config": NETWORKS[network]}, **more}}
    trainer = {"max_steps": 1, "limit_val_batches": 0, "accelerator": "cpu", "enable_model_summary": False}
    config = {"model": model, "data": {"class_path": data, "init_args": arguments}, "trainer": trainer}
    Path("c.yaml").write_text(json.dumps(config))
    assert command(["fit", "-c", "c.yaml", "--run_dir=run"]) == 0


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def predict(*arguments: str) -> list[dict[str, Any]]:
    assert command(["predict", "--run=run", "--to=out.jsonl", *arguments]) == 0
    found = lines(Path("out.jsonl").read_text())
    for left in Path().glob("out.*"):
        left.unlink()
    return found


def test_texts_without_labels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("old.csv").write_text("review,mood\n" + "so good,glad\nawful,sad\n" * 20)
    Path("new.csv").write_text("ID,review\na7,good\nb8,bad\n")
    Path("known.csv").write_text("review,mood\ngood,glad\nbad,\n")
    fitted("TextClassifier", "bert", "LabelledText", {"path": "old.csv", "text": "review", "label": "mood"})
    assert "predict: the test rows of old.csv" not in capsys.readouterr().out
    rows = predict()
    assert "predict: the test rows of old.csv; --data.predict_path FILE takes new ones" in capsys.readouterr().out
    assert set(rows[0]) == {"row", "text", "label", "probabilities", "expected"}
    Path("old.csv").unlink()  # nothing but the run is needed
    first, second = predict("--data.predict_path=new.csv")
    assert (first["row"], first["id"], first["text"], second["id"]) == (1, "a7", "good", "b8")
    assert first["label"] == max(first["probabilities"], key=first["probabilities"].get)
    assert set(first) == {"row", "id", "text", "label", "probabilities"}
    known, unknown = predict("--data.predict_path=known.csv")
    assert (known["expected"], "expected" in unknown) == ("glad", False)
    before = sorted(Path("run").rglob("*"))
    capsys.readouterr()
    assert command(["predict", "--run=run", "--text=good", "--text", "bad"]) == 0
    one, two = lines(capsys.readouterr().out)
    assert one["probabilities"] == pytest.approx(first["probabilities"], abs=1e-4)
    assert (one["row"], two["row"], two["text"]) == (1, 2, "bad")
    monkeypatch.setattr("sys.stdin", io.StringIO("good\nbad\n"))
    assert command(["predict", "--run=run", "--text", "-"]) == 0
    assert [row["text"] for row in lines(capsys.readouterr().out)] == ["good", "bad"]
    assert sorted(Path("run").rglob("*")) == before


def test_questions_without_answers(capsys: pytest.CaptureFixture[str]) -> None:
    Path("old.jsonl").write_text('{"id": 1, "prompt": "1+1=", "completion": "2"}\n' * 20)
    Path("new.jsonl").write_text('{"id": 7, "prompt": "2+2="}\n{"id": 8, "prompt": "3+3=", "completion": "6"}\n')
    fitted("TextGeneration", "gpt2", "Instructions", {"path": "old.jsonl", "test_fraction": 0.2}, max_new_tokens=3)
    assert list(predict()[0]) == ["row", "id", "prompt", "expected", "answers", "answer_ids", "ended"]
    new, known = predict("--data.predict_path=new.jsonl")
    assert (new["id"], new["prompt"], "expected" in new, known["expected"]) == (7, "2+2=", False, "6")
    assert len(new["answer_ids"][0]) <= 3
    assert new["ended"] == [len(new["answer_ids"][0]) < 3]
    capsys.readouterr()
    assert command(["predict", "--run=run", "--text=2+2="]) == 0
    (row,) = lines(capsys.readouterr().out)
    assert (row["prompt"], row["answers"]) == ("2+2=", new["answers"])


def test_pictures_without_a_class() -> None:
    for name in ("dark/1", "dark/2", "light/1", "light/2", "new/a", "new/b/c"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 200 * name.startswith("light")).save(f"photos/{name}.png")
    Path("photos/new").rename("new")
    fitted("ImageClassifier", "mlp", "ImageFolder", {"path": "photos", "image_size": 4, "val_fraction": 0.0})
    rows = predict("--data.predict_path=new")
    assert [(row["row"], row["file"]) for row in rows] == [(1, "a.png"), (2, "b/c.png")]
    assert all(set(row) == {"row", "file", "label", "probabilities"} for row in rows)


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["test", "--text=a"], "--text: given 'a'; allowed: for predict alone"),
        (["predict", "--to=out.csv"], "--to: given 'out.csv'; allowed: a folder, or a file that ends in .jsonl"),
        (["predict", "--text=a"], "--text: given 'a text for Digits'; allowed: a data module of single texts"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], refused: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model": {"class_path": "ImageClassifier", "init_args": {"network": {"config": NETWORKS["mlp"]}}},
              "data": {"class_path": "Digits"}}  # fmt: skip
    Path("c.yaml").write_text(json.dumps(config))
    assert command([arguments[0], "-c", "c.yaml", *arguments[1:]]) == 2
    assert refused in capsys.readouterr().err
