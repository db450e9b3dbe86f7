"""The base of callbacks: refusals, beginning anew, state, order, and what is left on a module."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.trainer.connectors.callback_connector import _validate_callbacks_list

from lit_ft.core.callback import FitCallback
from lit_ft.core.errors import ConfigError
from lit_ft.testing import ForeignData, ForeignModule, check_callback, difference, fit_foreign


def needing(need: Any) -> FitCallback:
    return type("Needing", (FitCallback,), {"needs": (need,)})()


class ByHand(ForeignModule):
    automatic_optimization = False


def by_value() -> dict[str, Any]:
    return {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}


def test_a_module_that_optimises_by_hand_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Needing\.model: given 'ByHand.*; allowed: automatic optimisation$"):
        fit_foreign([needing("automatic optimization")], module=ByHand())

    class Served(FitCallback):
        needs = ("automatic optimization",)
        by_hand = "call step"

    with pytest.raises(ConfigError, match=r"automatic optimisation; call step$"):
        fit_foreign([Served()], module=ByHand())


def test_clipping_by_value_is_refused() -> None:
    fit_foreign([needing("clipping by norm")], max_steps=1, gradient_clip_val=0.1)
    with pytest.raises(ConfigError, match="norm, beside Needing"):
        fit_foreign([needing("clipping by norm")], **by_value())


def test_other_weights_are_refused_wherever_they_stand() -> None:
    for callbacks in ([StochasticWeightAveraging(1e-2)], []):
        found = [*callbacks, needing("no other weights"), *([] if callbacks else [StochasticWeightAveraging(1e-2)])]
        with pytest.raises(ConfigError, match=r"StochasticWeightAveraging beside Needing.*averages"):
            fit_foreign(found)


@pytest.mark.parametrize(
    ("need", "attribute", "value", "message"),
    [
        ("one device", "world_size", 2, r"trainer\.devices: given 2; allowed: one device$"),
        ("one device or ddp", "strategy", object(), r"trainer\.strategy: given 'object'; allowed: one device, or ddp"),
        ("gradients without a scale", "precision_plugin", type("P", (), {"scaler": 1})(), "32-true or bf16-mixed"),
    ],
)
def test_what_a_trainer_lacks(need: Any, attribute: str, value: Any, message: str) -> None:
    class Trainer:
        callbacks: list[Any] = []
        world_size, global_step = 1, 0

    trainer: Any = Trainer()
    setattr(trainer, attribute, value)
    with pytest.raises(ConfigError, match=message):
        needing(need).setup(trainer, ForeignModule(), "fit")
    needing(need).setup(trainer, ForeignModule(), "test")  # what is about training matters in a fit alone


def test_two_of_a_class_are_refused_in_every_stage() -> None:
    class Alone(FitCallback):
        needs = ("one of its class",)

    pair = [Alone(), Alone()]
    settings: dict[str, Any] = {
        "logger": False,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_checkpointing": False,
    }
    with pytest.raises(ConfigError, match="two of Alone"):
        fit_foreign(list(pair))
    with pytest.raises(ConfigError, match="two of Alone"):
        pl.Trainer(callbacks=list(pair), **settings).validate(ForeignModule(), ForeignData(), verbose=False)


class Counts(FitCallback):
    """Knows how many batches there were, and the last rows."""

    remembers = ("count", "_rows")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._rows: dict[str, list[int]] = {}

    def on_train_batch_end(self, *_: Any) -> None:
        self.count += 1
        self._rows.setdefault("rows", []).append(self.count)

    def report(self) -> dict[str, Any]:
        return {"count": self.count}


def test_contracts(tmp_path: Any) -> None:
    check_callback(Counts, tmp_path, no_op=Counts)


def test_a_second_fit_of_one_trainer_goes_on() -> None:
    counts = Counts()
    module, trainer = fit_foreign([counts])
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, datamodule=ForeignData())
    assert counts.count == 44
    fit_foreign([counts], max_epochs=1)
    assert counts.count == 11


def test_a_state_is_a_copy_on_both_ways() -> None:
    counts = Counts()
    counts._rows = {"rows": [1]}
    state = counts.state_dict()
    assert state == {"count": 0, "rows": {"rows": [1]}}
    counts._rows["rows"].append(2)
    assert state["rows"] == {"rows": [1]}
    other = Counts()
    other.load_state_dict(state)
    other._rows["rows"].append(3)
    assert not difference(state, {"count": 0, "rows": {"rows": [1]}})
    tensor = torch.ones(2)
    counts._rows = {"rows": tensor}  # type: ignore[dict-item]
    assert counts.state_dict()["rows"]["rows"] is tensor


def test_several_callbacks_without_state_stand_side_by_side() -> None:
    class Plain(FitCallback):
        pass

    _validate_callbacks_list([Plain(), Plain()])
    with pytest.raises(RuntimeError, match="more than one stateful callback"):
        _validate_callbacks_list([Counts(), Counts()])


class Later(FitCallback):
    pass


class Earlier(FitCallback):
    before = (Later,)


class Last(FitCallback):
    after = (Later,)


class First(FitCallback):
    first = True


def test_the_order_is_settled_once() -> None:
    _, trainer = fit_foreign([Earlier(), Later(), first := First()], max_steps=1)
    assert trainer.callbacks[0] is first  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="given 'Later before Earlier'; allowed: Earlier before Later"):
        fit_foreign([Later(), Earlier()])
    with pytest.raises(ConfigError, match="given 'Last before Later'; allowed: Later before Last"):
        fit_foreign([Last(), Later()])
    fit_foreign([Later(), Last()], max_steps=1)


@pytest.mark.parametrize("crash_at", [None, 3])
def test_nothing_is_left_behind(crash_at: int | None) -> None:
    class Hooked(FitCallback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.handle = pl_module.register_forward_hook(lambda *_: None)

        def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.handle.remove()

    module, _ = fit_foreign([Hooked()], crash_at=crash_at)
    assert not module._forward_hooks
