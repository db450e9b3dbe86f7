"""Task scores in a run: those of the scoring method on the same weights, without a trace."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.callbacks import TaskScore
from lit_ft.core.errors import ConfigError
from lit_ft.data import AnswerOptions, Instructions
from lit_ft.methods import OptionScoring, SupervisedFineTuning, TextGeneration
from lit_ft.running.metrics_file import MetricsFile
from lit_ft.testing import assert_resumes, fit_foreign

LLAMA = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
ANSWERS = {"even": "yes", "odd": "no"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    rows = [
        {"prompt": f"is {i} even?", "completion": " " + ANSWERS["odd" if i % 2 else "even"],
         "answer": "odd" if i % 2 else "even"}
        for i in range(20)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(tmp_path / "rows.jsonl")


def questions(path: str, **arguments: Any) -> AnswerOptions:
    return AnswerOptions(path, options=ANSWERS, answer_context="Answer:", val_fraction=0.5, **arguments)


def learner() -> SupervisedFineTuning:
    torch.manual_seed(0)
    return SupervisedFineTuning({"config": LLAMA}, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))


def lessons(path: str) -> Instructions:
    return Instructions(path, batch_size=8, val_fraction=0.2)


@pytest.mark.parametrize("normalize", ["sum", "context"])
def test_equals_the_scoring_method_and_leaves_no_trace(path: str, tmp_path: Path, normalize: Any) -> None:
    callback = TaskScore({"parity": questions(path)}, normalize)
    module, _ = fit_foreign([callback], tmp_path / "with", learner(), lessons(path))
    plain, _ = fit_foreign([], tmp_path / "without", learner(), lessons(path))
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    scorer = OptionScoring(module.network, normalize)  # type: ignore[arg-type]
    scorer._tokenizer = module.tokenizer  # type: ignore[attr-defined]
    found = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False).validate(
        scorer, questions(path), verbose=False
    )
    assert callback.report()["parity"] == pytest.approx(found[0]["val/accuracy"])
    assert float(MetricsFile(tmp_path / "with").read()[-1]["val/parity"]) == pytest.approx(found[0]["val/accuracy"])


class Turned(AnswerOptions):
    """What was right is wrong once a batch is on the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {**batch, "labels": 1 - batch["labels"]}


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_questions_are_handed_over_by_the_hooks_of_their_data(path: str, precision: Any) -> None:
    turned = questions(path)
    turned.__class__ = Turned
    callback = TaskScore({"parity": questions(path), "turned": turned})
    fit_foreign([callback], module=learner(), data=lessons(path), precision=precision, max_epochs=1)
    shares = callback.report()
    assert shares["parity"] + shares["turned"] == pytest.approx(1)


ASKED: list[int] = []  # outside of the module, which is put back as it was


class Careless(SupervisedFineTuning):
    """Draws random numbers when it predicts, counts in a buffer that training reads, switches its mode, and logs."""

    def __init__(self) -> None:
        super().__init__(
            {"config": {**LLAMA, "attention_dropout": 0.3}}, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2)
        )
        self.register_buffer("count", torch.zeros(()))
        ASKED.clear()

    def compute(self, batch: Any) -> Any:
        output = super().compute(batch)
        output.loss = output.loss * (1 + self.count)
        return output

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        ASKED.append(batch_idx)
        torch.rand(3)
        self.count += 1.0
        self.log("val/loss", 1e9)
        return super().predict_step(batch, batch_idx)


def test_training_does_not_notice_a_module_that_leaves_traces(path: str, tmp_path: Path) -> None:
    """Dropout makes the weights a function of every random number drawn before."""
    runs = []
    for callbacks in ([], [TaskScore({"parity": questions(path)})]):
        torch.manual_seed(0)
        folder = tmp_path / str(len(runs))
        module, _ = fit_foreign(callbacks, folder, Careless(), lessons(path))
        losses = [row["val/loss"] for row in MetricsFile(folder).read() if row.get("val/loss")]
        runs.append((list(module.parameters()), losses, len(ASKED), float(module.count)))
    (plain, losses, never, _), (watched, same_losses, asked, count) = runs
    assert asked > never == 0
    assert count == 0
    assert losses == same_losses
    for ours, theirs in zip(watched, plain, strict=True):
        assert torch.equal(ours, theirs)


def test_resumes_exactly(path: str, tmp_path: Path) -> None:
    make = {"make_module": learner, "make_data": lambda: lessons(path)}
    assert_resumes(lambda: TaskScore({"parity": questions(path)}), tmp_path, crash_at=3, **make)


def test_what_cannot_be_asked_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="tasks"):
        TaskScore({})
    with pytest.raises(ConfigError, match="limit_batches"):
        TaskScore({"a": questions(path)}, limit_batches=0)
    with pytest.raises(ConfigError, match="TaskScore beside TextGeneration"):
        fit_foreign([TaskScore({"a": questions(path)})], module=TextGeneration({"config": LLAMA}), data=lessons(path))
    with pytest.raises(ConfigError, match="a data module of options"):
        fit_foreign([TaskScore({"parity": lessons(path)})], module=learner(), data=lessons(path))


def test_questions_beyond_the_positions_are_refused(path: str, tmp_path: Path) -> None:
    callback = TaskScore({"parity": questions(path, max_length=65)})
    with pytest.raises(ConfigError, match=r"tasks.parity.max_length: given 65; allowed: 64 tokens or less"):
        fit_foreign([callback], tmp_path / "with", learner(), lessons(path))
