"""Answers scored by likelihood: against plain forwards one by one; examples, cuts and what was seen before."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from torch.nn import functional as F

from lit_ft.core.errors import ConfigError
from lit_ft.data import AnswerOptions, Instructions, ManyShot, Mixture, PermutedQuestions
from lit_ft.language.options import contaminated, option_scores
from lit_ft.methods import OptionScoring
from lit_ft.tokens.segments import Segment

LLAMA = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.5,
}  # fmt: skip
ROWS = [
    {"prompt": f"question {i} {'x' * (i % 5)}?", "choices": ["yes", "no it is not", "perhaps"][: 2 + i % 2],
     "answer": i % 2}
    for i in range(16)
]  # fmt: skip


def method(normalize: Any = "sum") -> OptionScoring:
    torch.manual_seed(0)
    made = OptionScoring({"config": dict(LLAMA)}, normalize)
    made.configure_model()
    return made.eval()


def data(folder: Path, owner: OptionScoring, **arguments: Any) -> AnswerOptions:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    made = AnswerOptions(str(path), **{"options_column": "choices", "val_fraction": 0.25, **arguments})
    made.trainer = type("T", (), {"lightning_module": owner})()
    made.setup("fit")
    return made


def alone(owner: OptionScoring, text: str, option: str) -> tuple[float, int]:
    """log p(option | text) by a plain forward over one sequence, and the tokens of the option."""
    words: Any = owner.tokenizer
    before, behind = (words(t, add_special_tokens=False)["input_ids"] for t in (text, option))
    logits = owner.network(torch.tensor([before + behind])).logits[0].double()  # type: ignore[misc]
    chosen = F.log_softmax(logits, -1)[range(len(before) - 1, len(before + behind) - 1), behind]
    return float(chosen.sum()), len(behind)


@pytest.mark.parametrize("normalize", ["sum", "token", "context"])
@pytest.mark.parametrize("shots", [0, 2])
def test_scores_equal_one_forward_an_option(tmp_path: Path, normalize: Any, shots: int) -> None:
    owner = method(normalize)
    made = data(tmp_path, owner, answer_context="Answer:", shots=shots, batch_size=5)
    for batch in made.train_dataloader():
        scores = owner.predict_step(batch, 0)
        for n, number in enumerate(batch["rows"].tolist()):
            question = made.questions["train"][number]
            for j in range(scores.shape[1]):
                if j >= len(question["options"]):
                    assert scores[n, j] == torch.finfo(torch.float32).min
                    continue
                text = question["options"][j]
                first = text.weights.index(1.0)
                prompt, option = (
                    owner.tokenizer.decode(ids) for ids in (text.input_ids[:first], text.input_ids[first:])
                )
                assert option.startswith(" ")
                expected, tokens = alone(owner, prompt, option)
                expected = {
                    "sum": expected,
                    "token": expected / tokens,
                    "context": expected - alone(owner, "Answer:", option)[0],
                }[normalize]
                assert scores[n, j].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_examples_come_from_training_rows_with_their_answers_and_never_from_the_question(tmp_path: Path) -> None:
    owner = method()
    made = data(tmp_path, owner, shots=3, separator=" ; ")
    train = [made._prompt_of(row, 1) + f" {row['choices'][row['answer']]}" for row in made._tables()["train"]]
    drawn = set()
    for split in ("train", "val"):
        for number in range(len(made.questions[split])):
            text = made.questions[split][number]["options"][0]
            cut = text.weights.index(1.0)
            *shots, question = owner.tokenizer.decode(text.input_ids[:cut]).split(" ; ")
            assert len(shots) == 3
            assert set(shots) <= set(train)
            assert not any(shot.startswith(question) for shot in shots)
            drawn.add(tuple(shots))
    assert len(drawn) > 8
    again = data(tmp_path, owner, shots=3, separator=" ; ")
    assert again.questions["val"].options == made.questions["val"].options
    other = data(tmp_path, owner, shots=3, separator=" ; ", shot_seed=1)
    assert other.questions["val"].options != made.questions["val"].options


def test_long_texts_lose_whole_examples_before_the_question(tmp_path: Path) -> None:
    owner = method()
    made = data(tmp_path, owner, shots=3, max_length=64)
    for question in made.questions["train"].options:
        texts = [owner.tokenizer.decode(t.input_ids[: t.weights.index(1.0)]) for t in question]
        assert len(set(texts)) == 1  # cut alike
        assert texts[0].startswith("question")
        assert 1 <= texts[0].count("?") < 4
        assert max(map(len, question)) <= 64
    short = data(tmp_path, owner, max_length=24).questions["train"].options
    assert max(len(text) for question in short for text in question) == 24
    with pytest.raises(ConfigError, match="do not fit"):
        data(tmp_path, owner, max_length=10)


def test_options_of_all_rows(tmp_path: Path) -> None:
    made = data(tmp_path, method(), options_column=None, options={"0": "yes", "1": "no"})
    assert made.questions["train"].labels == [row["answer"] for row in made._tables()["train"]]
    with pytest.raises(ConfigError, match="an option for every answer"):
        data(tmp_path, method(), options_column=None, options={"0": "yes", "2": "no"})
    with pytest.raises(ConfigError, match="exactly one"):
        AnswerOptions("x")
    with pytest.raises(ConfigError, match="shots"):
        data(tmp_path, method(), shots=12)
    with pytest.raises(ConfigError, match="normalize"):
        OptionScoring({"config": LLAMA}, "words")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="answer_context"):
        option_scores(torch.zeros(1, 2), torch.ones(1, 2), "context")


@pytest.mark.parametrize("seen", [None, "seen.jsonl"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"choices": ["yes"]}, "at least two texts in row 6"),
        ({"choices": ["yes", "no", "yes"]}, "different texts in row 6: equal ones"),
        ({"answer": "maybe"}, "the text of an option of row 6: "),
        ({"choices": ["yes" * 50, "no"], "answer": 0}, "options of row 6 do not fit"),
    ],
)
def test_errors_name_the_row_of_the_table(
    wrong: dict[str, Any], message: str, seen: str | None, tmp_path: Path
) -> None:
    rows = [{**row, **wrong} if i == 5 else row for i, row in enumerate(ROWS)]
    (tmp_path / "seen.jsonl").write_text(json.dumps({"text": ROWS[0]["prompt"]}))
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for fraction in (0.0, 0.9):  # row 6 is trained on, or validated on
        made = AnswerOptions(
            str(tmp_path / "rows.jsonl"), options_column="choices", val_fraction=fraction, max_length=64,
            seen_path=seen and str(tmp_path / seen),
        )  # fmt: skip
        made.trainer = type("T", (), {"lightning_module": method()})()  # type: ignore[assignment]
        with pytest.raises(ConfigError, match=message):
            made.setup("fit")


def test_equal_options_for_all_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="different texts"):
        AnswerOptions("rows.jsonl", options={"0": "no", "1": "no"})


def test_rows_that_were_seen_are_left_out(tmp_path: Path) -> None:
    text = "One two three, four five six."
    assert contaminated([text], ["zero one TWO three four"], 4) == [True]
    assert contaminated([text], ["one two three and four five six"], 4) == [False]
    assert contaminated(["five words", ""], ["there were five words in it", ""], 13) == [True, False]
    seen = tmp_path / "seen.jsonl"
    owner = method()
    rows = data(tmp_path, owner)._tables()["val"]
    seen.write_text(json.dumps({"text": f"it says: {rows[0]['prompt'].upper()} and so on"}))
    with pytest.warns(UserWarning, match="1 of 4 val rows"):
        made = data(tmp_path, owner, seen_path=str(seen), prompt="A template has words of its own. {prompt} Answer:")
    assert len(made.questions["val"]) == 3
    seen.write_text("\n".join(json.dumps({"text": row["prompt"]}) for row in rows))
    with pytest.raises(ConfigError, match="every one of 4 val rows was seen"):
        data(tmp_path, owner, seen_path=str(seen))


@pytest.mark.parametrize("kind", ["mixture", "shots"])
def test_rows_that_a_mixture_or_sequences_train_on_are_left_out(kind: str, tmp_path: Path) -> None:
    """Also without a Trainer: the tokenizer is handed on."""
    owner, seen = method(), tmp_path / "seen.jsonl"
    first = data(tmp_path, owner)._tables()["val"][0]["prompt"]
    seen.write_text("\n".join(json.dumps({"prompt": f"{first} {i}", "completion": "yes"}) for i in range(4)))
    sources: dict[str, Any] = {
        "mixture": lambda: Mixture({"own": Instructions(str(seen), val_fraction=0.0)}),
        "shots": lambda: ManyShot(
            str(seen), shots=2, val_fraction=0.0, template=[Segment("{prompt}"), Segment("{completion}", weight=1)]
        ),
    }
    made = AnswerOptions(
        str(tmp_path / "rows.jsonl"), options_column="choices", val_fraction=0.25, seen=sources[kind](), seen_words=3
    )
    made.tokenizer = owner.tokenizer
    with pytest.warns(UserWarning, match="val rows are left out: they were seen before"):
        made.setup("fit")
    assert len(made.questions["val"]) == 3


def test_rows_that_another_data_module_trains_on_are_left_out(tmp_path: Path) -> None:
    def named(split: dict[str, list[Any]], name: str) -> set[str]:
        return {row["prompt"] for row in split[name]}

    owner, path = method(), str(tmp_path / "rows.jsonl")
    tables = data(tmp_path, owner)._tables()
    trained_on = Instructions(path, val_fraction=0.125)  # of the same rows, of which it keeps two for validation
    both = named(tables, "val") & named(trained_on._tables(), "train")
    assert 0 < len(both) < len(tables["val"])
    with pytest.warns(UserWarning, match=f"{len(both)} of 4 val rows"):
        made = data(tmp_path, owner, seen=trained_on)
    prompts = {owner.tokenizer.decode(q[0].input_ids[: q[0].weights.index(1.0)]) for q in made.questions["val"].options}
    assert prompts == named(tables, "val") - both


def test_examples_are_of_the_task_of_the_question() -> None:
    made, owner = PermutedQuestions(shots=19, tasks=6), method()
    made.trainer = type("T", (), {"lightning_module": owner})()  # type: ignore[assignment]
    made.setup("test")
    questions = made.questions["test"]
    assert len(questions) == 60
    for options, label in zip(questions.options, questions.labels, strict=True):
        text = owner.tokenizer.decode(options[label].input_ids)
        assert len(text) == 40
        labels = {text[i]: text[i + 1] for i in range(0, 40, 2)}
        assert all(labels[text[i]] == text[i + 1] for i in range(0, 40, 2))  # one permutation, the answer included
        assert len(set(labels.values())) == len(labels) > 2
    made = PermutedQuestions(shots=20, tasks=2)
    made.trainer = type("T", (), {"lightning_module": owner})()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="no more than the 19 training rows"):
        made.setup("test")


SUMS = [(["3", "4", "5"], 2), (["0", "1", "2"], 1), (["2", "1", "0"], 0)]  # "1 + 4?", options and the right one


def table(path: Path, answers: list[Any], options: list[Any] = SUMS) -> str:
    rows = [{"prompt": "?", "choices": texts, "answer": answer}
            for (texts, _), answer in zip(options, answers, strict=True)]  # fmt: skip
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        with path.open("w", newline="") as file:
            form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
            writer = csv.DictWriter(file, list(rows[0]), **form if path.suffix == ".tsv" else {})
            writer.writeheader()
            writer.writerows({**row, "choices": json.dumps(row["choices"])} for row in rows)
    return str(path)


def right(path: str, **arguments: Any) -> list[int]:
    made = AnswerOptions(path, options_column="choices", val_fraction=0.0, max_length=64, **arguments)
    made.trainer = type("T", (), {"lightning_module": method()})()  # type: ignore[assignment]
    made.setup("fit")
    numbered = zip(made.numbers["train"], made.questions["train"].labels, strict=True)
    return [label for _, label in sorted(numbered)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_number_is_the_number_of_an_option_and_a_text_its_text(kind: str, tmp_path: Path) -> None:
    expected = [number for _, number in SUMS]
    assert right(table(tmp_path / f"a.{kind}", expected)) == expected
    assert right(table(tmp_path / f"b.{kind}", [float(number) for number in expected])) == expected
    texts = [options[number] for options, number in SUMS]
    assert right(table(tmp_path / f"c.{kind}", texts)) == expected
    assert right(table(tmp_path / f"d.{kind}", list(map(str, expected))), answer_is="number") == expected
    for answers in ([2, 1, 3], [2, 1, -1], ["3", "1", "7"], [2.5, 1.0, 0.0]):
        with pytest.raises(ConfigError, match=r"an option of row [13]"):
            right(table(tmp_path / f"e.{kind}", answers))
    numbers: Any = [([3, 4, 5], 2), ([0, 1, 2], 1), ([2, 1, 0], 0)]
    assert right(table(tmp_path / f"f.{kind}", expected, numbers)) == expected
    assert right(table(tmp_path / f"g.{kind}", texts, numbers)) == expected


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_where_a_table_has_no_types_the_answer_that_could_be_either_is_refused(kind: str, tmp_path: Path) -> None:
    words: Any = [(["ja", "nein"], 1), (["1", "0"], 0), (["x", "y", "z"], 2)]
    assert right(table(tmp_path / f"a.{kind}", ["1", "ja", "z"], [words[0]] * 2 + [words[2]])) == [1, 0, 2]
    path = table(tmp_path / f"b.{kind}", [1, 1, 2], words)
    with pytest.raises(ConfigError, match=r"answer_is: given None; allowed: text or number: in row 2 the answer '1' is"
                       " the text of option 0 and the number of option 1"):  # fmt: skip
        right(path)
    assert right(path, answer_is="number") == [1, 1, 2]
    assert right(table(tmp_path / f"c.{kind}", ["nein", "1", "z"], words), answer_is="text") == [1, 0, 2]
    assert right(table(tmp_path / f"d.{kind}", [1, 1, 1], [(["0", "1"], 1)] * 3)) == [1, 1, 1], "both mean the same"


def test_options_are_texts(tmp_path: Path) -> None:
    for options in (["a", None], ["a", ""], ["a", {"b": 1}], "['a', 'b']"):
        with pytest.raises(ConfigError, match=r"row 1|a text or a number"):
            right(table(tmp_path / "rows.jsonl", ["a"], [(options, 0)]))  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="written as in JSON"):
        right(table(tmp_path / "rows.csv", ["a"], [("['a', 'b']", 0)]))  # type: ignore[list-item]


def test_names_of_options_are_numbers_in_their_shortest_form(tmp_path: Path) -> None:
    rows = [{"prompt": "?", "answer": value} for value in (0, 1.0, "0.0", "1")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = AnswerOptions(str(tmp_path / "rows.jsonl"), options={"0": "no", "1": "yes"}, val_fraction=0.0)
    made.trainer = type("T", (), {"lightning_module": method()})()  # type: ignore[assignment]
    made.setup("fit")
    assert sorted(made.questions["train"].labels) == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match="answer_is"):
        AnswerOptions("x", options={"0": "no", "1": "yes"}, answer_is="text")
