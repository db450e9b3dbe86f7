"""Arguments by which the state of a callback was made, in a resumed run: refused by name, as they would do nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging, Timer

from lit_ft.callbacks import (
    SWAG,
    FeatureProbe,
    Forgetting,
    ForwardMask,
    GradientMask,
    HeadOffsets,
    LayerSimilarity,
    LearnedGraft,
    LotteryTicket,
    RunCheckpoint,
    SoftMask,
    StopBelowLoss,
)
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Names, RandomElements, TopMagnitude
from lit_ft.sparse.unit_importance import UnitImportance
from lit_ft.testing import ForeignData, ForeignModule, fit_foreign
from tests.sparse.examples import LabelledTokens, classifier

WORDS = {"make_module": classifier, "make_data": LabelledTokens}
FIRST, LAST = Names("model.0.weight"), Names("model.4.weight")
SETTLED: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [  # a class, its arguments, and those that come too late
    (ForwardMask, {"selection": FIRST, "init": 0.006}, {"selection": LAST}),
    (ForwardMask, {"selection": FIRST, "init": 0.006}, {"init": 0.02}),
    (GradientMask, {"selection": TopMagnitude(0.3)}, {"selection": TopMagnitude(0.4)}),
    (GradientMask, {"selection": TopMagnitude(0.3)}, {"selection": RandomElements(0.3)}),
    (GradientMask, {"selection": RandomElements(0.3), "outside": "zero"}, {"outside": "base"}),
    (LotteryTicket, {"first_steps": 2, "density": 0.2}, {"density": 0.5}),
    (LotteryTicket, {"first_steps": 2, "density": 0.2}, {"scope": "tensor"}),
    (LotteryTicket, {"first_steps": 2, "density": 0.2}, {"dense": ["model.4.bias"]}),
    (LotteryTicket, {"first_steps": 2, "density": 0.2}, {"first_steps": 7}),
    (LearnedGraft, {"first_steps": 2, "density": 0.1, "lr": 10.0, "bias": 2.0}, {"density": 0.2}),
    (LearnedGraft, {"first_steps": 2, "density": 0.1, "lr": 10.0, "bias": 2.0}, {"seed_mask": FIRST}),
    (SWAG, {"start": 2, "every_n_steps": 1}, {"start": 4}),
    (LayerSimilarity, {"modules": ["model.0"], "num_rows": 20}, {"modules": ["model.2"]}),
    (LayerSimilarity, {"modules": ["model.0"], "num_rows": 20}, {"num_rows": 30}),
    (FeatureProbe, {"module": "model.2", "at_start": False, "at_validation": True}, {"at_start": True}),
    (Forgetting, {"data": {"old": ForeignData()}}, {"data": {"old": ForeignData(), "new": ForeignData()}}),
    (Forgetting, {"data": {"old": ForeignData()}}, {"limit_batches": 2}),
]
OF_WORDS: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (HeadOffsets, {"first_steps": 2, "density": 0.3}, {"density": 0.5}),
    (HeadOffsets, {"first_steps": 2, "density": 0.3}, {"dense": ["*classifier*"]}),
    (SoftMask, {"importance": UnitImportance(LabelledTokens(), num_batches=1)},
     {"importance": UnitImportance(LabelledTokens(), num_batches=2)}),
]  # fmt: skip
HONOURED: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [  # what acts in every step, or is yet to come
    (ForwardMask, {"selection": FIRST, "init": 0.006}, {"threshold": 0.004, "penalty": 0.1}),
    (GradientMask, {"selection": TopMagnitude(0.3)}, {"selection": TopMagnitude(0.3)}),
    (LotteryTicket, {"first_steps": 8, "density": 0.2}, {"density": 0.5, "first_steps": 6}),
    (LearnedGraft, {"first_steps": 2, "density": 0.1, "lr": 10.0, "bias": 2.0}, {"lr": 1.0, "others": "base"}),
    (SWAG, {"start": 8, "every_n_steps": 1}, {"start": 4}),
    (SWAG, {"start": 2, "every_n_steps": 1}, {"rank": 3, "every_n_steps": 2}),
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("kind", "then", "now"), SETTLED + OF_WORDS)
@pytest.mark.filterwarnings("ignore:.*the run ended in its first phase")
def test_what_comes_too_late_is_refused(kind: Any, then: Any, now: Any, tmp_path: Path) -> None:
    more = {**(WORDS if (kind, then, now) in OF_WORDS else {}), "default_root_dir": tmp_path}
    steps = {"max_epochs": 1} if kind is FeatureProbe else {"max_steps": 4, "val_check_interval": 2}
    _, trainer = fit_foreign([RunCheckpoint(), kind(**then)], **more, **steps)
    last = tmp_path / f"checkpoints/step={trainer.global_step:08d}.ckpt"
    further = {"max_steps": trainer.global_step + 1}
    fit_foreign([RunCheckpoint(folder="again"), kind(**then)], resume=last, **more, **further)
    (name,) = now
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\.{name}: given .*by which its state was made; to begin"):
        fit_foreign([RunCheckpoint(folder="other"), kind(**{**then, **now})], resume=last, **more, **further)


@pytest.mark.parametrize(("kind", "then", "now"), HONOURED)
@pytest.mark.filterwarnings("ignore:.*the run ended in its first phase")
def test_what_acts_later_is_taken(kind: Any, then: Any, now: Any, tmp_path: Path) -> None:
    fit_foreign([RunCheckpoint(), kind(**then)], max_steps=4, default_root_dir=tmp_path)
    last, callback = tmp_path / "checkpoints/step=00000004.ckpt", kind(**{**then, **now})
    fit_foreign([RunCheckpoint(folder="again"), callback], resume=last, max_steps=7, default_root_dir=tmp_path)
    assert all(getattr(callback, name) == value for name, value in now.items())


@pytest.mark.parametrize(("now", "refused"), [(0.05, True), (0.02, False)])
@pytest.mark.parametrize("epochs", [1, 3])
def test_the_rate_of_an_averaging_that_has_begun(now: float, refused: bool, epochs: int, tmp_path: Path) -> None:
    def fit(rate: float, epochs: int, resume: Path | None = None) -> None:
        averaging = StochasticWeightAveraging(rate, swa_epoch_start=2)
        saves = RunCheckpoint(folder=str(tmp_path / ("again" if resume else "first")))
        fit_foreign([saves, averaging], resume=resume, max_epochs=6, max_steps=11 * epochs)

    fit(0.02, epochs)
    last = tmp_path / f"first/step={11 * epochs:08d}.ckpt"
    if refused and epochs == 3:
        with pytest.raises(ConfigError, match=r"swa_lrs: given 0\.05; allowed: 0\.02, by which"):
            fit(now, epochs + 1, last)
    else:
        fit(now, epochs + 1, last)


ENDED: dict[str, tuple[Any, Any, bool]] = {  # what ended a run, and whether it goes on with what is there now
    "the same": (lambda: EarlyStopping("val/loss", patience=1, min_delta=9), None, False),
    "more patience": (lambda: EarlyStopping("val/loss", patience=1, min_delta=9),
                      lambda: EarlyStopping("val/loss", patience=9, min_delta=9), True),
    "a smaller change": (lambda: EarlyStopping("val/loss", patience=1, min_delta=9),
                         lambda: EarlyStopping("val/loss", patience=1, min_delta=0), True),
    "another key": (lambda: EarlyStopping("val/loss", patience=1, min_delta=9),
                    lambda: EarlyStopping("loss", patience=9), True),
    "without it": (lambda: EarlyStopping("val/loss", patience=1, min_delta=9), RunCheckpoint, True),
    "a threshold": (lambda: StopBelowLoss(100.0), lambda: StopBelowLoss(1e-9), True),
    "more time": (lambda: Timer({"microseconds": 1}), lambda: Timer({"hours": 1}), True),
}  # fmt: skip


@pytest.mark.parametrize("case", list(ENDED))
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_that_was_ended_goes_on_when_that_is_written_otherwise(case: str, tmp_path: Path) -> None:
    ends, now, further = ENDED[case]
    first, again = (RunCheckpoint(folder=str(tmp_path / name)) for name in ("first", "again"))
    _, trainer = fit_foreign([first, ends()], max_epochs=4)
    assert trainer.global_step < 44
    last = next((tmp_path / "first").glob(f"step=*{trainer.global_step}.ckpt"))
    callbacks = [again] if now is RunCheckpoint else [again, (now or ends)()]
    _, resumed = fit_foreign(callbacks, resume=last, max_epochs=4)
    assert (resumed.global_step > trainer.global_step) is further


@pytest.mark.parametrize(
    ("now", "anew"),
    [(("val/loss", "max"), True), (("loss", None), True), ((None, None), True), (("val/loss", "min"), False)],
)
def test_the_best_value_is_of_what_is_monitored(now: Any, anew: bool, tmp_path: Path) -> None:
    """The second run validates once: its value is the best one where the best begins anew, else the lower of two."""
    first = RunCheckpoint(monitor="val/loss", folder=str(tmp_path))
    fit_foreign([first], max_epochs=1)
    before = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]["model.0.weight"]
    saves = RunCheckpoint(monitor=now[0], mode=now[1], folder=str(tmp_path))
    module = ForeignModule()
    _, trainer = fit_foreign([saves], resume=tmp_path / "step=00000011.ckpt", max_epochs=2, module=module)
    after = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]["model.0.weight"]
    if now[0] is None:
        assert saves.best is None
        return
    value = trainer.callback_metrics[now[0]]
    assert saves.best == (value if anew else min(value, first.best))
    assert torch.equal(after, before) is (saves.best == first.best)
