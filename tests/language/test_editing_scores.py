"""Reliability, generality and locality, counted over texts that transformers writes; what moves; what resumes."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_ft.callbacks import EditingScores, GradientMask
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Names
from lit_ft.data import FactEdits, KnownFacts, ModelEdits
from lit_ft.methods import SupervisedFineTuning
from lit_ft.running.metrics_file import MetricsFile
from lit_ft.testing import ForeignModule, assert_resumes, fit_foreign

MATRIX = "model.layers.1.mlp.down_proj.weight"
LLAMA = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def learner(dropout: float = 0.2) -> SupervisedFineTuning:
    torch.manual_seed(0)
    config = {"config": {**LLAMA, "attention_dropout": dropout}}
    return SupervisedFineTuning(config, optimizer=lambda p: torch.optim.Adam(p, lr=5e-3))


def edits(order: Any = "breadth_first") -> FactEdits:
    return FactEdits(edits=6, facts=9, order=order, passes=6, batch_size=2)


def answer(network: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    """What transformers writes."""
    ids, end = tokenizer(prompt, return_tensors="pt")["input_ids"], tokenizer.eos_token_id
    network.eval()
    made = network.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=end, pad_token_id=0)
    return tokenizer.decode(made[0, ids.shape[1] :])


def test_shares_are_those_counted_over_written_texts_and_one_matrix_moves(tmp_path: Path) -> None:
    module, _ = fit_foreign([], None, learner(0.0), KnownFacts(12, batch_size=6), max_epochs=40, limit_val_batches=0)
    network, tokenizer = module.network, module.tokenizer

    def said(prompt: str, tokens: int) -> str:
        return answer(network, tokenizer, prompt, tokens)

    rows: list[dict[str, str]] = FactEdits(edits=5, facts=12).edits()
    for row in rows[:3]:  # two ask for what is written anyway, the third for a part of it
        row["target"] = said(row["prompt"], 32).removesuffix("</s>")
    rows[2]["target"] = rows[2]["target"][:-1]
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    start = {name: value.clone() for name, value in network.state_dict().items()}
    before = [said(row["locality"], 3) for row in rows]

    module.optimizer = lambda p: torch.optim.Adam(p, lr=1e-2)
    scores = EditingScores(locality_tokens=3, batch_size=4)
    data = ModelEdits(str(tmp_path / "edits.jsonl"), passes=15, batch_size=2)
    fit_foreign([GradientMask(Names([MATRIX])), scores], tmp_path, module, data, max_epochs=1)

    def counted(column: str) -> float:
        return sum(said(row[column], 32) == row["target"] + "</s>" for row in rows) / 5

    found = scores.report()
    kept = sum(said(row["locality"], 3) == text for row, text in zip(rows, before, strict=True)) / 5
    assert found["end"] == {"reliability": counted("prompt"), "generality": counted("paraphrase"), "locality": kept}
    assert 0 < kept < 1
    assert float(MetricsFile(tmp_path).read()[-1]["editing/locality"]) == pytest.approx(kept)
    moved = [name for name, value in network.state_dict().items() if not torch.equal(value, start[name])]
    assert moved == [MATRIX]
    network.load_state_dict(start)
    assert found["start"] == {"reliability": 0.4, "generality": counted("paraphrase"), "locality": 1.0}
    assert counted("prompt") == 0.4


def test_training_does_not_notice(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([EditingScores(every_n_steps=2)], []):
        module, _ = fit_foreign(callbacks, None, learner(), edits(), max_steps=6)  # type: ignore[arg-type]
        weights.append(list(module.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_last_scores_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit ends two steps after an evaluation that is due; each of them finds other shares here."""
    found = itertools.count()
    monkeypatch.setattr(EditingScores, "_share", lambda *_: float(next(found)))
    scores = EditingScores(every_n_steps=4)
    fit_foreign([scores], tmp_path, learner(), edits(), max_steps=6)
    assert scores.steps == [0, 4, 6]
    assert float(MetricsFile(tmp_path).read()[-1]["editing/locality"]) == scores.history["locality"][-1]


@pytest.mark.parametrize("order", ["breadth_first", "depth_first"])
def test_resumes_with_what_was_written_before_the_first_step(tmp_path: Path, order: Any) -> None:
    make = {"make_module": learner, "make_data": lambda: edits(order)}
    assert_resumes(lambda: EditingScores(every_n_steps=4), tmp_path, crash_at=13, max_epochs=1, **make)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match="editing_examples"):
        fit_foreign([EditingScores()], module=ForeignModule(), max_steps=1)
    for arguments in ({"every_n_steps": 0}, {"locality_tokens": 0}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            EditingScores(**arguments)
