"""Class weights, several classes a row, numbers, and pairs of texts: read, learned, measured, predicted, kept."""

import json
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F

from lit_ft.core.errors import ConfigError
from lit_ft.core.problems import label_metrics
from lit_ft.data import LabelledText
from lit_ft.methods import IndependentMembers, TextClassifier
from lit_ft.models.byte_tokenizer import byte_tokenizer

BERT = {"config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "intermediate_size": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
                   "tokenizer": "bytes"}}  # fmt: skip
ROWS = [
    {
        "text": f"text {i}",
        "second": "short" if i % 3 else "a longer second text",
        "label": "rare" if i % 5 == 0 else "often",
        "tags": [["red"], ["big", "red"], [], ["big"]][i % 4],
        "marked": ["red", "big; red", "", " big;"][i % 4],
        "score": str(i / 4),
    }
    for i in range(40)
]


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def data(rows: list[dict[str, Any]] = ROWS, **arguments: Any) -> LabelledText:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LabelledText("rows.jsonl", **arguments)


def ready(rows: list[dict[str, Any]] = ROWS, **arguments: Any) -> LabelledText:
    made = data(rows, **arguments)
    made.tokenizer = byte_tokenizer()
    made.setup("fit")
    return made


def trainer(**more: Any) -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                      default_root_dir=".",
                      **{"limit_train_batches": 2, "max_epochs": 1, "enable_checkpointing": False, **more})  # fmt: skip


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def test_lists_and_separated_texts_are_the_same_classes() -> None:
    lists, texts = ready(label="tags"), ready(label="marked", separator=";")
    for one in (lists, texts):
        assert (one.problem_type, one.class_names) == ("multi_label_classification", ["big", "red"])
        assert one.class_counts == [sum(row[1].tolist()[k] for row in one.rows["train"]) for k in (0, 1)]
    for one, other in zip(lists.train_dataloader(), texts.train_dataloader(), strict=True):
        assert torch.equal(one["labels"], other["labels"])
        assert one["labels"].dtype == torch.float32


def test_numbers_are_read_as_they_are_written() -> None:
    made = ready(label="score", problem_type="regression", val_fraction=0.0, test_fraction=0.0)
    assert (made.class_names, made.class_counts) == ([], [])
    assert sorted(row[1] for row in made.rows["train"]) == [i / 4 for i in range(40)]


@pytest.mark.parametrize(
    ("change", "arguments", "complaint"),
    [
        ({"score": "1,5"}, {"label": "score", "problem_type": "regression"}, "label: given '1,5'; .*point.*see row 3"),
        ({"score": None}, {"label": "score", "problem_type": "regression"}, "in row 3 it is empty"),
        ({"score": True}, {"label": "score", "problem_type": "regression"}, "label: given True; .*a finite number"),
        ({"score": "inf"}, {"label": "score", "problem_type": "regression"}, "label: given 'inf'"),
        (
            {"marked": ["red"]},
            {"label": "marked", "separator": ";"},
            "separator: given ';'; allowed: null where .*row 3",
        ),
        ({}, {"label": "marked", "problem_type": "multi_label_classification"}, "lists, or texts with a separator"),
        ({}, {"label": "tags", "problem_type": "single_label_classification"}, "a text in 'tags', not a list"),
        ({}, {"label": "label", "separator": ""}, "separator: given ''"),
        (
            {},
            {"label": "score", "separator": ";", "problem_type": "regression"},
            "separator: given ';'; allowed: null for",
        ),
        ({}, {"label": "tgas", "separator": ";"}, r"label: given 'tgas'; .*\(did you mean 'tags'\?\)"),
        ({}, {"text_pair": "secnd"}, "did you mean 'second'"),
        ({}, {"text_pair": "second", "max_length": 1}, "max_length: given 1; allowed: 2 or more, for two texts"),
    ],
)
def test_wrong_labels_are_one_line(change: dict[str, Any], arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ready([*ROWS[:2], {**ROWS[2], **change}, *ROWS[3:]], **arguments)


@pytest.mark.filterwarnings("ignore:.*nothing between the texts")
@pytest.mark.parametrize(
    ("arguments", "weights", "metrics"),
    [
        ({}, "balanced", {"accuracy", "f1"}),
        ({}, {"rare": 3.0}, {"accuracy", "f1"}),
        ({"text_pair": "second"}, None, {"accuracy", "f1"}),
        ({"label": "tags"}, "balanced", {"map", "f1"}),
        ({"label": "marked", "separator": ";"}, {"red": 2.0}, {"map", "f1"}),
        ({"label": "score", "problem_type": "regression"}, None, {"absolute_error", "r2", "pearson"}),
    ],
)
def test_a_run_of_each_kind(arguments: dict[str, Any], weights: Any, metrics: set[str], tmp_path: Path) -> None:
    made = data(batch_size=4, **arguments)
    model, run = TextClassifier(BERT, class_weights=weights, optimizer=sgd), trainer(enable_checkpointing=True)
    run.fit(model, made)
    logged = run.callback_metrics
    assert {name for name in logged if name.startswith("val/")} == {f"val/{name}" for name in {"loss", *metrics}}
    assert all(math.isfinite(value) for value in logged.values())
    path = run.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    again = TextClassifier.load_from_checkpoint(path, weights_only=True)
    assert again.problem == model.problem == made.problem_type
    batch = next(iter(made.predict_dataloader()))
    model.eval(), again.eval()
    with torch.no_grad():
        one, other = model.compute(batch), again.compute(batch)
    assert torch.equal(one.loss, other.loss), "weights of classes are kept with the checkpoint"
    row = model.prediction_rows(batch, one.predictions)[0]
    number = made.problem_type == "regression"
    assert {"expected", *(["predicted"] if number else ["label", "probabilities"])} <= set(row)
    if number:
        assert row["expected"] == pytest.approx(made.rows["test"][0][1])
    elif made.problem_type == "multi_label_classification":
        assert row["label"] == [name for name, share in row["probabilities"].items() if share >= 0.5]
        assert set(row["expected"]) <= {"big", "red"}


def test_a_weighted_window_is_the_weighted_mean_over_its_rows() -> None:
    """Two batches of four are one of eight, whatever classes are in them."""
    after = []
    for size, parts in ((8, 1), (4, 2)):
        pl.seed_everything(0)
        model = TextClassifier(BERT, class_weights={"rare": 5.0}, optimizer=sgd)
        rows = [{**row, "text": f"same {i:02d}"} for i, row in enumerate(ROWS[:8])]
        made = data(rows, batch_size=size, val_fraction=0.0, test_fraction=0.0)
        trainer(accumulate_grad_batches=parts).fit(model, made)
        after.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(after[0], after[1], rtol=1e-5, atol=1e-7)


def test_metrics_of_few_rows_are_unknown_and_tell_which_way_is_better() -> None:
    """Without a warning, which would be an error here."""
    for metrics, row, label in (
        (label_metrics("regression", 0), torch.tensor([1.0]), torch.tensor([2.0])),
        (label_metrics("multi_label_classification", 2), torch.tensor([[0.5, 0.2]]), torch.tensor([[0, 0]])),
    ):
        values = {name: float(metric(row, label)) for name, metric in metrics.items()}
        assert {name for name, value in values.items() if math.isnan(value)} == set(metrics) & {"r2", "pearson", "map"}
        assert {name: metric.higher_is_better for name, metric in metrics.items()} == {
            name: name != "absolute_error" for name in metrics
        }


def test_losses_are_those_of_torch() -> None:
    model = TextClassifier(BERT, num_classes=2, class_weights={"1": 3.0})
    model.configure_model()
    ids = torch.tensor([[5, 6], [7, 8], [9, 5]])
    batch: Any = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 1])}
    weight = torch.tensor([1.0, 3.0])
    found = model.compute(batch)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.predictions, batch["labels"], weight=weight))
    assert model.loss_weight(batch) == 7.0
    several = TextClassifier(BERT, num_classes=2, problem_type="multi_label_classification", class_weights={"1": 3.0})
    several.configure_model()
    batch["labels"] = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    found = several.compute(batch)
    logits = several(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(
        found.loss, F.binary_cross_entropy_with_logits(logits, batch["labels"], pos_weight=weight)
    )
    torch.testing.assert_close(found.predictions, logits.sigmoid())


@pytest.mark.parametrize(
    ("model", "arguments", "complaint"),
    [
        ({"class_weights": {"raer": 2.0}}, {}, r"class_weights: given 'raer'; .*often, rare \(did you mean 'rare'\?\)"),
        ({"class_weights": {"rare": 0.0}}, {}, "class_weights: given"),
        ({"class_weights": "balancd"}, {}, "class_weights: given 'balancd'; allowed: balanced, or "),
        (
            {"class_weights": "balanced"},
            {"label": "score", "problem_type": "regression"},
            "class_weights: .*null for regr",
        ),
        (
            {"num_classes": 2},
            {"label": "score", "problem_type": "regression"},
            "num_classes: given 2; allowed: null for",
        ),
        (
            {"problem_type": "regression"},
            {},
            "problem_type: given 'regression'; allowed: single_label_classification, as",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(model: Any, arguments: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        trainer().fit(TextClassifier(BERT, **model), data(**arguments))


def test_balance_needs_rows_of_each_class() -> None:
    Path("val.jsonl").write_text('{"text": "t", "label": "new"}\n')
    with (
        pytest.warns(UserWarning, match="without a training row: 'new'"),
        pytest.raises(ConfigError, match=r"none.*: new"),
    ):
        trainer().fit(TextClassifier(BERT, class_weights="balanced"), data(val_path="val.jsonl"))


def test_a_subclass_with_a_loss_of_its_own_reads_one_class_a_row() -> None:
    from lit_ft.data import GaussianClusters

    model = IndependentMembers({"config": {"model_type": "mlp"}}, num_members=2, class_weights="balanced")
    with pytest.raises(ConfigError, match=r"class_weights: given 'balanced'; allowed: null for IndependentMembers"):
        trainer().fit(model, GaussianClusters(rows=20))


def test_data_of_another_kind_are_refused_by_what_was_trained() -> None:
    model, run = TextClassifier(BERT, optimizer=sgd), trainer(enable_checkpointing=True)
    run.fit(model, data())
    path = run.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    with pytest.raises(
        ConfigError, match=r"data: given 'labels for regression'; allowed: .*single_label_classification"
    ):
        trainer().test(TextClassifier(BERT), data(label="score", problem_type="regression"), ckpt_path=path,
                       verbose=False, weights_only=True)  # fmt: skip


class Bert:
    """A tokenizer that puts special tokens between two texts, and tells which is which."""

    def __new__(cls) -> Any:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        words = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefgh"])}
        core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        core.pre_tokenizer = pre_tokenizers.Whitespace()
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", sep_token="[SEP]", cls_token="[CLS]",
                                       model_input_names=["input_ids", "token_type_ids", "attention_mask"],
                                       model_max_length=9)  # fmt: skip


PAIRS = [
    {"text": "a b", "second": "c", "label": 0},
    {"text": "a b c d e f", "second": "g h", "label": 1},
    {"text": "a", "second": "b", "label": 1},
]


def pairs(**arguments: Any) -> LabelledText:
    made = data(PAIRS, text_pair="second", val_fraction=0.0, test_fraction=0.0, **arguments)
    made.tokenizer = Bert()
    made.setup("fit")
    return made


def test_pairs_are_encoded_as_the_tokenizer_encodes_pairs() -> None:
    made, words = pairs(), Bert()
    (batch,) = made.train_dataloader()
    rows = {}
    for ids, mask, types in zip(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], strict=True):
        rows[int(mask.sum())] = ids[mask.bool()], types[mask.bool()]
    for row in PAIRS:
        expected = words(row["text"], row["second"])
        ids, types = rows[len(expected["input_ids"])]
        assert (ids.tolist(), types.tolist()) == (expected["input_ids"], expected["token_type_ids"])


def test_the_longer_text_of_a_pair_loses_its_end_and_the_loss_is_said() -> None:
    for _ in range(2):  # from the cache as well
        with pytest.warns(
            UserWarning, match="1 of 3 train examples are longer than max_length = 8 and are cut, which loses 14 %"
        ):
            made = pairs(max_length=8)
    (longest,) = (row for row in made.rows["train"] if len(row[0]) == 8)
    assert made.tokenizer.decode(longest[0]) == "[CLS] a b c [SEP] g h [SEP]"
    assert longest[2].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_the_length_is_that_of_the_data_up_to_that_of_the_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="1 of 3 train examples are longer than max_length = 9"):
        assert pairs(max_length="auto").max_length == 9
    assert "max_length is 9 tokens" in capsys.readouterr().err
    made = ready(max_length="auto")
    assert made.max_length == made.longest_text == 7
    assert "max_length is 7 tokens, as many as the longest row has" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"max_length: given 'atuo'; allowed: .*auto"):
        data(max_length="atuo")


def test_a_tokenizer_that_does_not_part_a_pair_is_told() -> None:
    with pytest.warns(UserWarning, match="puts nothing between the texts of a pair"):
        made = ready(text_pair="second")
    assert {made.tokenizer.decode(row[0]) for row in made.rows["val"]} <= {row["text"] + row["second"] for row in ROWS}
