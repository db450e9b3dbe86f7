"""The batches of data modules are what the ``TypedDict`` says that they name."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from lit_ft.core.batches import kind_of
from lit_ft.data import (
    GaussianClusters,
    Instructions,
    LabelledText,
    NoisyLinear,
    PermutedQuestions,
    Preferences,
    RedundantDigits,
    ScoredText,
    TextPairs,
    UnpairedPreferences,
)
from lit_ft.methods import SupervisedFineTuning
from lit_ft.testing import ForeignData

LLAMA = {"config": {"model_type": "llama", "tokenizer": "bytes"}}
MAKERS: dict[str, Callable[[str], Any]] = {
    "images": lambda path: GaussianClusters(40),
    "images in groups": lambda path: RedundantDigits(batch_size=16),
    "numbers": lambda path: NoisyLinear(40),
    "labelled_text": lambda path: LabelledText(path),
    "language": lambda path: Instructions(path),
    "language, packed": lambda path: Instructions(path, packing=True, task_column="label"),
    "options": lambda path: PermutedQuestions(shots=3, tasks=2, batch_size=4),
    "scored_text": lambda path: ScoredText(path),
    "pairs": lambda path: TextPairs(path, label="label"),
    "preferences": lambda path: Preferences(path),
    "unpaired_preferences": lambda path: UnpairedPreferences(path),
}


# what would be in doubt beside the columns that a data module reads
WITHOUT = {"language": ("text", "label"), "language, packed": ("text",), "unpaired_preferences": ("chosen", "rejected")}


def rows(folder: Path, without: tuple[str, ...] = ()) -> str:
    made = [
        {"prompt": f"q{i} ", "completion": f"c{i}", "text": f"{i} text", "label": i % 2, "score": i % 3,
         "chosen": f"yes {i}", "rejected": f"no, {i % 7}", "anchor": f"a{i}", "positive": f"{i} a"}
        for i in range(20)
    ]  # fmt: skip
    made = [{name: row[name] for name in row if name not in without} for row in made]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, made)))
    return str(folder / "rows.jsonl")


@pytest.mark.filterwarnings("ignore:packing is not checked")  # there is no network here
@pytest.mark.parametrize("name", MAKERS)
def test_a_batch_has_the_keys_and_types_that_are_written_down(name: str, tmp_path: Path) -> None:
    data = MAKERS[name](rows(tmp_path, WITHOUT.get(name, ())))
    data.tokenizer = SupervisedFineTuning(LLAMA).tokenizer  # type: ignore[arg-type]
    data.prepare_data()
    data.setup("fit")
    batch, kind = next(iter(data.train_dataloader())), data.batch
    assert kind_of(data) == name.split(",")[0].split()[0]
    assert kind.__required_keys__ <= set(batch) <= set(kind.__annotations__)
    for key, value in batch.items():
        found = re.search(rf"``{key}``.* (\w+)$", kind.__doc__, re.M)
        assert found is not None
        assert str(value.dtype) == f"torch.{found.group(1)}", key
    for key in kind.__annotations__:
        assert f"``{key}`` " in kind.__doc__


def test_what_names_no_batch_is_of_no_kind() -> None:
    class Other(pl.LightningDataModule):
        def batch(self) -> None:
            """Something of its own."""

    assert kind_of(ForeignData()) == kind_of(Other()) == kind_of(None) == ""
