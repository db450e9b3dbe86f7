"""Pictures that a table names: their files, their splits, each kind of label."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image

from lit_ft.core.errors import ConfigError
from lit_ft.data import ImageFolder, LabelledImages
from lit_ft.methods import ImageClassifier

MLP: Any = {"config": {"model_type": "mlp", "width": 4}}


@pytest.fixture
def table(tmp_path: Path) -> str:
    lines = ["file_name,label,tags,age"]
    for i in range(20):
        (tmp_path / "files").mkdir(exist_ok=True)
        Image.new("L", (6, 6), 12 * i).save(tmp_path / "files" / f"{i}.png")
        lines.append(f"files/{i}.png,{'dark' if i < 14 else 'light'},{'old;red' if i % 2 else 'red'},{i / 2}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return str(tmp_path / "table.csv")


def fitted(model: ImageClassifier, data: Any) -> pl.Trainer:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                         max_epochs=1, enable_checkpointing=False)  # fmt: skip
    trainer.fit(model, data)
    return trainer


@pytest.mark.parametrize(
    ("arguments", "weights", "names", "metrics"),
    [
        ({}, "balanced", ["dark", "light"], {"accuracy"}),
        ({"label": "tags", "separator": ";"}, {"old": 2.0}, ["old", "red"], {"map", "f1"}),
        ({"label": "age", "problem_type": "regression"}, None, [], {"absolute_error", "r2", "pearson"}),
    ],
)
def test_each_kind_of_label(table: str, arguments: Any, weights: Any, names: list[str], metrics: set[str]) -> None:
    data = LabelledImages(table, image_size=2, channels=1, batch_size=4, **arguments)
    trainer = fitted(ImageClassifier(MLP, class_weights=weights), data)
    assert data.class_names == names
    logged = {name for name in trainer.callback_metrics if name.startswith("val/")}
    assert logged == {f"val/{name}" for name in {"loss", *metrics}}
    for number in range(len(data.rows["test"])):
        image, label = data.rows["test"][number]
        row = data.place_of(number)["row"] - 1
        torch.testing.assert_close(image, torch.full((1, 2, 2), 12 * row / 127.5 - 1))
        expected = {"": int(row >= 14), "tags": [float(row % 2), 1.0], "age": row / 2}[arguments.get("label", "")]
        assert (label.float().tolist() if isinstance(label, torch.Tensor) else label) == expected


def test_balanced_weights_count_the_training_rows(table: str) -> None:
    data, model = LabelledImages(table, image_size=2, channels=1), ImageClassifier(MLP, class_weights="balanced")
    fitted(model, data)
    dark = sum(row < 14 for row in (data.numbers["train"][i] - 1 for i in range(16)))
    torch.testing.assert_close(model.class_weight, torch.tensor([16 / (2 * dark), 16 / (2 * (16 - dark))]))


def test_tables_for_validation_and_missing_files(table: str, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    Image.new("L", (6, 6), 255).save(tmp_path / "more" / "a.png")
    (tmp_path / "more" / "val.csv").write_text("file_name,label\na.png,light\n")
    data = LabelledImages(table, val_path=str(tmp_path / "more" / "val.csv"), image_size=2, test_fraction=0.0)
    data.setup("fit")
    assert [len(data.rows[split]) for split in ("train", "val", "test")] == [20, 1, 0]
    assert data.rows["val"][0][0].mean() == 1
    (tmp_path / "files" / "3.png").unlink()
    with pytest.raises(
        ConfigError, match=r"image: given 'file_name'; .*1 of 20 are not there, first that of row 4, 3\.png"
    ):
        LabelledImages(table, val_fraction=0.0, test_fraction=0.0).setup("fit")
    with pytest.raises(ConfigError, match="did you mean 'file_name'"):
        LabelledImages(table, image="filename").setup("fit")


def test_names_of_folders_may_be_numbers(tmp_path: Path) -> None:
    for name in ("1", "2.5"):
        (tmp_path / name).mkdir()
        Image.new("L", (6, 6), 9).save(tmp_path / name / "a.png")
    data = ImageFolder(str(tmp_path), problem_type="regression", image_size=2, val_fraction=0.0, test_fraction=0.0)
    fitted(ImageClassifier(MLP), data)
    assert next(iter(data.train_dataloader()))["labels"].sort().values.tolist() == [1.0, 2.5]
    (tmp_path / "old").mkdir()
    Image.new("L", (6, 6), 9).save(tmp_path / "old" / "a.png")
    with pytest.raises(ConfigError, match="path: given 'old'; allowed: a finite number"):
        ImageFolder(str(tmp_path), problem_type="regression").setup("fit")


@pytest.mark.parametrize(("more", "complaint"), [({"loss": "squared_error"}, "loss: given 'squared_error'")])
def test_squared_error_against_marks_needs_one_class(table: str, more: Any, complaint: str) -> None:
    data = LabelledImages(table, label="tags", separator=";", image_size=2)
    with pytest.raises(ConfigError, match=complaint):
        fitted(ImageClassifier(MLP, **more), data)
