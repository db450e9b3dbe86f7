"""Every callback of the package through the same contracts, one row each."""

import copy
import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import default_collate

import lit_ft.callbacks
from lit_ft.callbacks import (
    SAM,
    SWAG,
    Calibration,
    CoBa,
    ComposedDeltas,
    EdgeOfStability,
    EditingScores,
    FeatureProbe,
    Forgetting,
    ForwardMask,
    GaussianNoise,
    GradientGrafting,
    GradientMask,
    HeadOffsets,
    KernelRegime,
    LayerSimilarity,
    LearnedGraft,
    LikelihoodDisplacement,
    LotteryTicket,
    MicroBatchRegularizer,
    PrefillCost,
    SampledText,
    SoftMask,
    StopBelowLoss,
    TaskRegions,
    TaskScore,
    TrainingFlops,
    WarmStart,
)
from lit_ft.classification.batches import LabelledTextBatch
from lit_ft.core.selection import Names, TopMagnitude
from lit_ft.data import AnswerOptions, FactEdits, Instructions, Preferences
from lit_ft.flatness.variants import FriendlySAM, LookSAM
from lit_ft.methods import DPO, SupervisedFineTuning, TextClassifier
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.loader import make_loader
from lit_ft.sparse.unit_importance import UnitImportance
from lit_ft.testing import (
    ForeignData,
    ForeignModule,
    assert_begins_anew,
    check_callback,
    difference,
    fit_foreign,
)

HALF = {"model.0.weight": torch.full((12, 6), 0.5)}

# class: (as used, in the setting that does nothing or None)
ROWS: dict[str, tuple[Callable[[], Callback], Callable[[], Callback] | None]] = {
    "Calibration": (lambda: Calibration("model"), lambda: Calibration("model")),
    "ComposedDeltas": (lambda: ComposedDeltas([]), lambda: ComposedDeltas([])),
    "EdgeOfStability": (lambda: EdgeOfStability(2, save_vectors=True), lambda: EdgeOfStability(every_n_steps=2)),
    "FeatureProbe": (
        lambda: FeatureProbe("model.2", at_validation=True),
        lambda: FeatureProbe("model.2", at_validation=True),
    ),
    "Forgetting": (
        lambda: Forgetting({"old": ForeignData()}, every_n_steps=3),
        lambda: Forgetting({"old": ForeignData()}, every_n_steps=3),
    ),
    "ForwardMask": (lambda: ForwardMask(Names(["*.weight"]), init=0.006), None),
    "GaussianNoise": (lambda: GaussianNoise(0.1, key=0), lambda: GaussianNoise(0.0, key=0)),
    "GradientGrafting": (lambda: GradientGrafting(), None),
    "GradientMask": (lambda: GradientMask(TopMagnitude(0.3)), lambda: GradientMask(Names(["*"]))),
    "KernelRegime": (
        lambda: KernelRegime("model", every_n_steps=3),
        lambda: KernelRegime("model", every_n_steps=3),
    ),
    "LayerSimilarity": (
        lambda: LayerSimilarity(["model.0", "model.2"], num_rows=20),
        lambda: LayerSimilarity(["model.0", "model.2"], num_rows=20),
    ),
    "LearnedGraft": (lambda: LearnedGraft(first_steps=4, density=0.2), None),
    "LotteryTicket": (lambda: LotteryTicket(first_steps=4, density=0.2), None),
    "MicroBatchRegularizer": (
        lambda: MicroBatchRegularizer(weight=0.1),
        lambda: MicroBatchRegularizer(weight=0.0),
    ),
    "SWAG": (lambda: SWAG(start=0.5, every_n_steps=2, rank=3), lambda: SWAG(start=0.5, every_n_steps=2, rank=3)),
    "SoftMask": (lambda: SoftMask(HALF), lambda: SoftMask({})),
    "StopBelowLoss": (lambda: StopBelowLoss(1.0), lambda: StopBelowLoss(1e-9)),
    "TaskRegions": (
        lambda: TaskRegions({"a": ForeignData(), "b": ForeignData()}, density=0.2, steps=3),
        lambda: TaskRegions({"a": ForeignData()}, density=0.2, steps=3),
    ),
    "TrainingFlops": (lambda: TrainingFlops(every_n_steps=3), lambda: TrainingFlops()),
    "SAM": (lambda: SAM(rho=0.05), lambda: SAM(rho=0.0)),
}

# written for runs of the package's own command and tested there
ELSEWHERE = {"RunCheckpoint", "RunReport"}

LLAMA = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip
BYTES: Any = {"config": {**LLAMA, "tokenizer": "bytes"}}
WORDS: Any = {"config": {**LLAMA, "num_hidden_layers": 2, "vocab_size": 8, "pad_token_id": 0}, "attention_bias": True}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


def seeded(make: Callable[[], LightningModule]) -> LightningModule:
    torch.manual_seed(0)
    return make()


def written(folder: Path, name: str, row: Callable[[int], dict[str, str]]) -> str:
    (folder / name).write_text("\n".join(json.dumps(row(number)) for number in range(1, 13)))
    return str(folder / name)


def weights(folder: Path) -> str:
    torch.save({"state_dict": ForeignModule(9).state_dict()}, folder / "weights.ckpt")
    return str(folder / "weights.ckpt")


class LabelledTokens(ForeignData):
    batch = LabelledTextBatch

    def _loader(self, training: bool) -> Any:
        ids = torch.randint(1, 8, (44, 3), generator=torch.Generator().manual_seed(0))
        rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": (i[0] < 4).long()} for i in ids]
        return make_loader(rows, shuffled_batches(44, 4, 5, training), default_collate, 5, training=training)  # type: ignore[arg-type]


def lessons(folder: Path) -> Instructions:
    path = written(folder, "rows.jsonl", lambda i: {"prompt": f"q{i}", "completion": "ab" * i, "task": "xy"[i % 2]})
    return Instructions(path, batch_size=1, val_fraction=0.25, task_column="task")


def questions(folder: Path) -> AnswerOptions:
    path = written(folder, "questions.jsonl", lambda i: {"prompt": f"q{i}", "answer": "ab"[i % 2]})
    return AnswerOptions(path, options={"a": "yes", "b": "no"}, val_fraction=0.5)


def pairs(folder: Path) -> Preferences:
    path = written(folder, "pairs.jsonl", lambda i: {"prompt": "q", "chosen": "a" * i, "rejected": "b" * i})
    return Preferences(path, batch_size=1, val_fraction=0.25)


# class: (as used in a folder, its module, its data), where those of ForeignModule do not do
OF_OTHERS: dict[
    str, tuple[Callable[[Path], Callback], Callable[[], LightningModule], Callable[[Path], LightningDataModule]]
] = {
    "CoBa": (lambda _: CoBa(2, 2, 3), lambda: SupervisedFineTuning(BYTES, "task", optimizer=sgd), lessons),
    "EditingScores": (
        lambda _: EditingScores(every_n_steps=3),
        lambda: SupervisedFineTuning(BYTES, optimizer=sgd),
        lambda _: FactEdits(edits=6, facts=9, passes=3, batch_size=2),
    ),
    "HeadOffsets": (
        lambda _: HeadOffsets(first_steps=4, density=0.3),
        lambda: TextClassifier(WORDS, num_classes=2, optimizer=sgd),
        lambda _: LabelledTokens(),
    ),
    "LikelihoodDisplacement": (
        lambda _: LikelihoodDisplacement(3),
        lambda: DPO(BYTES, optimizer=sgd),
        pairs,
    ),
    "PrefillCost": (lambda _: PrefillCost(rounds=1), lambda: SupervisedFineTuning(BYTES, optimizer=sgd), lessons),
    "SampledText": (
        lambda _: SampledText("a", samples=4, max_new_tokens=5),
        lambda: SupervisedFineTuning(BYTES, optimizer=sgd),
        lessons,
    ),
    "TaskScore": (
        lambda folder: TaskScore({"task": questions(folder)}),
        lambda: SupervisedFineTuning(BYTES, optimizer=sgd),
        lessons,
    ),
    "WarmStart": (lambda folder: WarmStart(weights(folder)), ForeignModule, lambda _: ForeignData()),
}

# settings in which a fit that goes on is one long fit: no share of all steps, nothing at the end of each
GOING_ON: dict[str, Callable[[], Callback]] = {
    "Forgetting": lambda: Forgetting({"old": ForeignData()}, every_n_steps=11),
    "StopBelowLoss": lambda: StopBelowLoss(1e-9),
    "SWAG": lambda: SWAG(start=4, every_n_steps=2, rank=3),
}


def public_callbacks() -> set[str]:
    return {
        name
        for name, value in ((name, getattr(lit_ft.callbacks, name)) for name in lit_ft.callbacks.__all__)
        if inspect.isclass(value) and issubclass(value, Callback) and value.__module__.startswith("lit_ft")
    }


def test_every_callback_has_a_row() -> None:
    assert public_callbacks() - ELSEWHERE == set(ROWS) | set(OF_OTHERS)


@pytest.mark.parametrize("name", list(ROWS))
def test_contracts(name: str, tmp_path: Path) -> None:
    make, no_op = ROWS[name]
    check_callback(make, tmp_path, no_op)


@pytest.mark.parametrize("name", list(OF_OTHERS))
def test_an_object_begins_anew_in_every_fit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    make, make_module, make_data = OF_OTHERS[name]
    pickle.loads(pickle.dumps(make(tmp_path)))
    copy.deepcopy(make(tmp_path))
    assert_begins_anew(
        lambda: make(tmp_path), make_module=lambda: seeded(make_module), make_data=lambda: make_data(tmp_path)
    )


@pytest.mark.parametrize("variant", [FriendlySAM, LookSAM])
def test_gradients_of_another_fit_are_forgotten(variant: Any) -> None:
    assert_begins_anew(lambda: SAM(every_n_steps=2, variant=variant()))


def test_importance_is_measured_in_every_fit() -> None:
    def classifier() -> LightningModule:
        return seeded(lambda: TextClassifier(WORDS, num_classes=2, optimizer=sgd))

    def mask() -> Callback:
        return SoftMask(UnitImportance(LabelledTokens(), num_batches=2))

    assert_begins_anew(mask, make_module=classifier, make_data=LabelledTokens)


class Plain(ForeignModule):
    """With an optimizer that has no state: Lightning makes it anew in every fit."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)


class Evaluated(ForeignData):
    """Has batches to test with, too."""

    def test_dataloader(self) -> Any:
        return self._loader(False)


def evaluator(*callbacks: Callback) -> Trainer:
    return Trainer(callbacks=list(callbacks), accelerator="cpu", logger=False, enable_progress_bar=False)


@pytest.mark.parametrize("name", list(ROWS))
def test_evaluation_without_a_fit_is_as_without_the_callback(name: str) -> None:
    module = Plain()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    for part in ("validate", "test"):
        with_it = getattr(evaluator(ROWS[name][0]()), part)(module, datamodule=Evaluated(), verbose=False)[0]
        without = getattr(evaluator(), part)(module, datamodule=Evaluated(), verbose=False)[0]
        assert with_it | without == with_it
    assert not difference(before, dict(module.state_dict()))


@pytest.mark.parametrize("name", list(OF_OTHERS))
def test_other_modules_are_evaluated_without_a_fit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    make, make_module, make_data = OF_OTHERS[name]
    module = seeded(make_module)
    evaluator(make(tmp_path)).validate(module, datamodule=make_data(tmp_path), verbose=False)
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("name", list(ROWS))
def test_a_second_fit_of_one_trainer_goes_on(name: str) -> None:
    """Two epochs and two more are four, for the weights and for what the callback knows."""
    make = GOING_ON.get(name, ROWS[name][0])
    twice, once = make(), make()
    module, trainer = fit_foreign([twice], module=Plain())
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, datamodule=ForeignData())
    whole, _ = fit_foreign([once], module=Plain(), max_epochs=4)
    assert not difference(dict(module.state_dict()), dict(whole.state_dict()))
    assert not difference(twice.state_dict(), once.state_dict())
