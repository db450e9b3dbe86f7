"""Every config that is offered for one's own data runs, with twenty rows of it, from its fit to its test.

Tiny networks stand for the packaged ones, as in ``test_configs``; nothing else of a config is changed.
"""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lit_ft.command.catalogue import config_folder
from lit_ft.command.cli import command
from tests.cli.test_configs import in_small

WORDS = ["fine", "poor", "kind", "grim", "warm"]


def texts(i: int) -> dict:
    sides = {"review": f"a {WORDS[i % 5]} film, number {i}", "second": f"seen on day {i}"}
    sides |= {"tags": ["long", "long;loud", "", "loud"][i % 4]}
    return {**sides, "sentiment": ["neg", "pos"][i % 2], "stars": str(i / 4)}


def pictures(folder: Path) -> None:
    for i in range(20):
        place = folder / ["train", "train", "train", "val", "test"][i // 4] / ["dark", "light"][i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (100 * (i % 2) + i,) * 3).save(place / f"{i}.png")


def answers(i: int) -> dict:
    return {"prompt": f"What is {i} plus one?", "chosen": f"{i + 1} it is.", "rejected": f"{i} or so."}


def signed(i: int) -> dict:
    return {"prompt": f"What is {i} plus one?", "completion": f"{i + 1} it is.", "label": bool(i % 2)}


CLASSES = ["--data.text=review", "--data.label=sentiment"]
PATHS = {
    "demo": (texts, "csv", CLASSES),
    "classification/trec": (texts, "csv", CLASSES),
    "classification/spam_lora": (texts, "csv", [*CLASSES, "--model.class_weights=balanced", "--data.text_pair=second"]),
    "classification/trec numbers": (
        texts,
        "csv",
        [*CLASSES[:1], "--data.label=stars", "--data.problem_type=regression"],
    ),
    "classification/trec tags": (texts, "csv", [*CLASSES[:1], "--data.label=tags", "--data.separator=;"]),
    "language/sft": (lambda i: {"prompt": f"{i} plus one? ", "completion": f"{i + 1}."}, "jsonl", []),
    "preference/dpo": (answers, "jsonl", []),
    "preference/reward_model": (answers, "jsonl", []),
    "preference/kto": (signed, "jsonl", []),
    "embedding/echo": (lambda i: {"anchor": f"{i} plus one?", "positive": f"It is {i + 1}."}, "jsonl", []),
    "embedding/sentence_pairs": (lambda i: {"query": f"{i} plus one?", "document": f"It is {i + 1}."}, "jsonl", []),
    "vision/pictures": (None, "", ["--data.image_size=32"]),
}


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.filterwarnings("ignore")  # what libraries say of twenty rows is not looked at here
def test_twenty_rows_of_ones_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config_folder().parent)
    make, ending, further = PATHS[name]
    path, config = tmp_path / f"mine.{ending}", config_folder() / f"{name.split()[0]}.yaml"
    if make is None:
        path = tmp_path / "mine"
        pictures(path)
    else:
        rows = [make(i) for i in range(20)]
        lines = [json.dumps(row) for row in rows]
        if ending == "csv":
            lines = [",".join(rows[0]), *(",".join(f'"{cell}"' for cell in row.values()) for row in rows)]
        path.write_text("\n".join(lines))
    small = tmp_path / "small.yaml"
    small.write_text("# tiny\n" + yaml.safe_dump(in_small(yaml.safe_load(config.read_text()))))
    arguments = ["-c", str(config), "-c", str(small), f"--data.path={path}", f"--run_dir={tmp_path / 'run'}", *further]
    assert command(["fit", *arguments, "--debug"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["status"] == "finished"
    assert any(key.startswith("val/") for key in report["metrics"])
    assert command(["predict", *arguments, "--ckpt_path=last", f"--to={tmp_path / 'predicted'}", "--debug"]) == 0
    assert (tmp_path / "predicted" / "predictions.jsonl").read_text()
