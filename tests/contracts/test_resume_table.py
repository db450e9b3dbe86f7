"""Every method and every data module: broken off in the middle and resumed, bit for bit the same run.

One row for each public class: what it is trained with here, or the test file where it resumes with more than fits into
a row. Weights, optimizer state, order of the data and logged values are compared by ``assert_resumes``.
"""

import inspect
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import lit_ft.data
import lit_ft.methods
from lit_ft.data import (
    DatasetDecomposition,
    Instructions,
    JoinedText,
    KnownFacts,
    ManyShot,
    MNIST5k,
    ModelEdits,
    NoisyLinear,
    PermutedLabels,
    PermutedQuestions,
    Preferences,
    ScoredText,
    StreamedInstructions,
    SumChains,
    TextPairs,
    ToolTraces,
)
from lit_ft.methods import (
    DPO,
    ImageClassifier,
    IndependentMembers,
    MaskedThought,
    OptionScoring,
    PreferencePretraining,
    Regression,
    SentenceEmbedding,
    SupervisedFineTuning,
    TextGeneration,
)
from lit_ft.preference.reference import FrozenCopy
from lit_ft.testing import assert_resumes, difference, fit_foreign

TESTS = Path(__file__).parents[1]
MLP = {"config": {"model_type": "mlp", "width": 8, "dropout": 0.2}}
LLAMA = {"config": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "attention_dropout": 0.2, "tokenizer": "bytes"}}  # fmt: skip
BERT = {"config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "intermediate_size": 16, "tokenizer": "bytes"}}  # fmt: skip


def table(folder: Path) -> str:
    """Rows that every data module of text finds its columns in."""
    draw = random.Random(0)
    rows = [
        {"prompt": f"q{i} " + "p" * draw.randint(1, 9), "completion": "c" * draw.randint(1, 9), "chosen": f"yes {i}",
         "rejected": f"no, {i % 7}", "anchor": f"a{i}", "positive": f"{i} a", "text": "t" * draw.randint(9, 60),
         "score": i % 3}
        for i in range(40)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(folder / "rows.jsonl")


def edit_table(path: str) -> str:
    """The rows of ``table`` as edits."""
    rows = map(json.loads, Path(path).read_text().splitlines())
    edits = [{"prompt": r["prompt"], "target": r["completion"], "paraphrase": r["anchor"], "locality": r["chosen"]}
             for r in rows]  # fmt: skip
    file = Path(path).with_name("edits.jsonl")
    file.write_text("\n".join(json.dumps(edit) for edit in edits))
    return str(file)


def instructions(path: str) -> Instructions:
    return Instructions(path, batch_size=4, max_length=64)


def sft() -> SupervisedFineTuning:
    return SupervisedFineTuning(LLAMA)


Row = tuple[Callable[[], Any], Callable[[str], Any]] | str

METHODS: dict[str, Row] = {
    "CertifiedClassifier": "vision/test_certified_classifier.py",
    "ClassifierPair": "connectivity/test_mode_connectivity.py",
    "ConcatRepresentations": "vision/test_concat_representations.py",
    "DPO": (lambda: DPO(LLAMA, reference=FrozenCopy()), lambda path: Preferences(path, batch_size=4)),
    "DistilledRepresentations": "vision/test_distilled_representations.py",
    "DistributionRegularized": "vision/test_distribution_regularized.py",
    "ExpertEmbedding": "embedding/test_expert_embedding.py",
    "GroupedClassifier": "vision/test_grouped_classifier.py",
    "ImageClassifier": "contracts/test_resume_data.py",
    "IndependentMembers": (
        lambda: IndependentMembers(MLP, num_members=2),
        lambda path: lit_ft.data.GaussianClusters(rows=60, batch_size=6),
    ),
    "KTO": "preference/test_kto.py",
    "LeaveOneOutNeighbours": "vision/test_leave_one_out_neighbours.py",
    "MaskedThought": (lambda: MaskedThought(LLAMA), instructions),
    "ModeConnectivity": "connectivity/test_mode_connectivity.py",
    "OptionScoring": "language/test_option_scoring.py",
    "PreferencePretraining": "language/test_preference_pretraining.py",
    "Regression": (lambda: Regression(MLP), lambda path: NoisyLinear(rows=60, batch_size=6)),
    "RewardModel": "preference/test_reward_model.py",
    "SentenceEmbedding": (lambda: SentenceEmbedding(BERT), lambda path: TextPairs(path, batch_size=4)),
    "SupervisedFineTuning": (sft, instructions),
    "TextClassifier": "contracts/test_resume_data.py",
    "TextGeneration": (lambda: TextGeneration(LLAMA), instructions),
    "UnpairedBCO": "preference/test_unpaired_bco.py",
}

DATA: dict[str, Row] = {
    "AnswerOptions": "language/test_option_scoring.py",
    "DatasetDecomposition": (
        sft,
        lambda path: DatasetDecomposition(path, smallest=2, largest=4, tokens_per_batch=64, cycles=2),
    ),
    "Digits": "contracts/test_resume_data.py",
    "EditedPairs": "preference/test_ches_filter.py",
    "GaussianClusters": "contracts/test_resume_data.py",
    "FactEdits": "language/test_editing_scores.py",
    "ImageFolder": "contracts/test_resume_data.py",
    "Instructions": "contracts/test_pains.py",
    "JoinedText": (sft, lambda path: JoinedText(path, context=16, tokens_per_batch=64)),
    "KnownFacts": (sft, lambda path: KnownFacts(20, batch_size=4)),
    "LabelTriplets": "embedding/test_label_triplets.py",
    "LabelledText": "contracts/test_resume_data.py",
    "MNIST5k": (lambda: ImageClassifier(MLP), lambda path: MNIST5k(batch_size=32, flat=True, max_rows=320)),
    "ManyShot": (sft, lambda path: ManyShot(path, shots=2, batch_size=4, max_length=64)),
    "MarkedCorpus": "language/test_preference_pretraining.py",
    "Mixture": "language/test_mixture.py",
    "MixtureOfDenoisers": "language/test_denoising.py",
    "ModelEdits": (sft, lambda path: ModelEdits(edit_table(path), "depth_first", passes=4, batch_size=4)),
    "NoisyLinear": (lambda: Regression(MLP), lambda path: NoisyLinear(rows=60, batch_size=6)),
    "PermutedLabels": (sft, lambda path: PermutedLabels(sequences=40, shots=3, eval_sequences=4, batch_size=4)),
    "PermutedQuestions": (
        lambda: OptionScoring(LLAMA),
        lambda path: PermutedQuestions(shots=3, tasks=2, batch_size=4),
    ),
    "Preferences": "contracts/test_resume_table.py",
    "RedundantDigits": "vision/test_grouped_classifier.py",
    "ScoredText": (
        lambda: PreferencePretraining(LLAMA),
        lambda path: ScoredText(path, threshold=1.0, drop_marks=0.5, batch_size=4),
    ),
    "SideBySide": "vision/test_grouped_classifier.py",
    "StreamedInstructions": (
        sft,
        lambda path: StreamedInstructions(path, epoch_batches=10, buffer=12, batch_size=4, max_length=64),
    ),
    "SumChains": (sft, lambda path: SumChains(40, asked=8, batch_size=4)),
    "TextPairs": "contracts/test_resume_table.py",
    "ToolConversations": "language/test_tool_conversations.py",
    "ToolQuestions": "language/test_tool_conversations.py",
    "ToolTraces": (sft, lambda path: ToolTraces(conversations=40, batch_size=4)),
    "UnpairedPreferences": "preference/test_kto.py",
}

REAL = {"MNIST5k"}


def public(package: Any, base: type) -> set[str]:
    return {
        name
        for name, value in ((name, getattr(package, name)) for name in package.__all__)
        if inspect.isclass(value) and issubclass(value, base) and value.__module__.startswith("lit_ft")
    }


@pytest.mark.parametrize(
    ("package", "base", "rows"),
    [(lit_ft.methods, pl.LightningModule, METHODS), (lit_ft.data, pl.LightningDataModule, DATA)],
    ids=["methods", "data"],
)
def test_every_public_class_has_a_row(package: Any, base: type, rows: dict[str, Row]) -> None:
    found = public(package, base)
    assert found - set(rows) == set(), "a row is missing"
    assert set(rows) - found == set(), "a row without a class"
    for name, row in rows.items():
        if isinstance(row, str):
            text = (TESTS / row).read_text()
            assert f"{name}(" in text or f"{name}]" in text or f"{name}," in text, f"{row} does not use {name}"
            assert "assert_resumes(" in text, f"{row} does not resume"


def runs() -> list[Any]:
    made = {name: row for name, row in {**METHODS, **DATA}.items() if not isinstance(row, str)}
    return [pytest.param(row, id=name, marks=[pytest.mark.real] * (name in REAL)) for name, row in made.items()]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "MNIST5k" not in request.node.name:  # which is unpacked once for all tests
        monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("row", runs())
def test_resumes_exactly(row: Any, tmp_path: Path) -> None:
    """The run dies inside an epoch and inside a window of accumulation."""
    module, data = row
    path = table(tmp_path)
    assert_resumes(pl.Callback, tmp_path / "run", crash_at=5, max_epochs=2, make_module=module,
                   make_data=lambda: data(path), accumulate_grad_batches=2)  # fmt: skip


@pytest.mark.parametrize("row", runs())
def test_the_same_objects_serve_again(row: Any, tmp_path: Path) -> None:
    """One epoch and one more are two; and data that have served in a fit serve the next one like new ones."""
    make_module, make_data = row
    data = make_data(table(tmp_path))

    def module() -> Any:
        pl.seed_everything(3, verbose=False)
        made = make_module()
        made.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.05)  # has no state that a fit forgets
        return made

    parts, trainer = fit_foreign([], module=module(), data=data, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(parts, datamodule=data)
    again, _ = fit_foreign([], module=module(), data=data)
    fresh, _ = fit_foreign([], module=module(), data=make_data(table(tmp_path)))
    if not isinstance(parts, MaskedThought):  # it masks by the share of the run that is over
        assert not difference(dict(parts.state_dict()), dict(fresh.state_dict())), "two fits of one trainer"
    assert not difference(dict(again.state_dict()), dict(fresh.state_dict())), "data of another fit"
