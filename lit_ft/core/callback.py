"""The base class of callbacks: what one needs, what it remembers, and where it stands in the list."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BaseFinetuning, ModelPruning, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from typing_extensions import override

from lit_ft.core.errors import ConfigError
from lit_ft.core.lifecycle import begins_anew
from lit_ft.core.lightning import either

Need = Literal[
    "automatic optimization",
    "one device",
    "one device or ddp",
    "gradients without a scale",
    "clipping by norm",
    "no other weights",
    "one of its class",
]

WHOLE = (SingleDeviceStrategy, DDPStrategy)
"""Strategies with whole weights and gradients in each process."""
OTHER_WEIGHTS = (BaseFinetuning, ModelPruning, StochasticWeightAveraging, WeightAveraging)


class FitCallback(pl.Callback):
    """A callback that declares its requirements, its state and its place in the list by class attributes.

    ``needs`` is checked in ``setup`` of a fit; ``one of its class`` in every stage, because evaluation logs, too:

    - ``automatic optimization``: the module does not step its optimizers itself;
    - ``one device``, or ``one device or ddp``: with sharded strategies no process has whole weights and gradients;
    - ``gradients without a scale``: no fp16 scaler;
    - ``clipping by norm``: no clipping by value, which fails in a step that leaves no gradient;
    - ``no other weights``: no callback of Lightning that averages, prunes or unfreezes weights. Those pair parameters
      by position with a copy made earlier, look for them under names that change, or mix them with earlier values;
    - ``one of its class``: a second one would log under the same names.

    One object serves several runs: when a fit begins anew, the attributes named in ``remembers`` and ``forgets`` return
    to the values that they had before the first run. A second ``fit`` of one trainer goes on. The attributes of
    ``remembers`` are the state in checkpoints, which is loaded after ``setup``.

    See also: :class:`~lit_ft.core.measurement.Measurement`, the base class of callbacks that measure.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> class StepCounter(FitCallback):
        ...     remembers = ("steps",)
        ...     steps = 0
        ...     def on_train_batch_end(self, *args):
        ...         self.steps += 1
        >>> counter = StepCounter()
        >>> _ = fit_foreign([counter], max_steps=3)
        >>> counter.state_dict()
        {'steps': 3}
        >>> _ = fit_foreign([counter], max_steps=2)  # another fit begins anew
        >>> counter.steps
        2
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    """Requirements, without which the fit is refused."""
    by_hand: ClassVar[str] = ""
    """Advice in the error message for modules that optimise by hand."""
    remembers: ClassVar[tuple[str, ...]] = ()
    """Attributes (plain data and tensors) that are saved, each under its name without leading underscores."""
    forgets: ClassVar[tuple[str, ...]] = ()
    """Further attributes that begin anew; they are not saved, or the subclass saves them in its own form."""
    ends: ClassVar[bool] = False
    """Whether it may end the run; one that goes on with other arguments of it has not ended."""
    first: ClassVar[bool] = False
    """Whether it makes itself the first callback of the trainer."""
    before: ClassVar[tuple[type[pl.Callback], ...]] = ()
    """Callbacks that may not stand earlier in the list."""
    after: ClassVar[tuple[type[pl.Callback], ...]] = ()
    """Callbacks that may not stand later in the list."""
    _at_first: dict[str, Any] | None = None

    def leave(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Remove hooks and everything else from the module; called at the end of each stage and after an exception."""

    def settled(self) -> tuple[str, ...]:
        """Arguments by which the state was made and that act no more: a resume with others is refused."""
        return ()

    def log_step(self, trainer: pl.Trainer, module: pl.LightningModule, values: Mapping[str, Any]) -> None:
        """Log values of the present step, if a logger writes it: ``log`` costs half a millisecond."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.global_step + 1) % every == 0:
            module.log_dict(values, on_step=True, on_epoch=False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the requirements, settle the order of the callbacks, and begin anew."""
        for need in self.needs:
            if stage == "fit" or need == "one of its class":
                self._refuse_without(need, trainer, pl_module)
        self._settle_order(trainer, stage)
        self._note_first()
        if begins_anew(trainer, stage):
            vars(self).update(copy.deepcopy(self._at_first or {}))

    def _note_first(self) -> None:
        if self._at_first is None:
            names = {*self.remembers, *self.forgets}
            self._at_first = copy.deepcopy({name: getattr(self, name) for name in names})

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.leave(trainer, pl_module)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.leave(trainer, pl_module)

    def _refuse_without(self, need: Need, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        name, callbacks = type(self).__name__, _callbacks(trainer)
        other_weights = either(*OTHER_WEIGHTS)
        match need:
            case "automatic optimization" if not module.automatic_optimization:
                allowed = f"automatic optimisation{self.by_hand and '; '}{self.by_hand}"
                raise ConfigError("model", f"{type(module).__name__}, which optimises by hand", allowed)
            case "one device" if trainer.world_size > 1:
                raise ConfigError("trainer.devices", trainer.world_size, "one device")
            case "one device or ddp" if not isinstance(trainer.strategy, either(*WHOLE)):
                raise ConfigError("trainer.strategy", type(trainer.strategy).__name__, "one device, or ddp")
            case "gradients without a scale" if getattr(trainer.precision_plugin, "scaler", None) is not None:
                raise ConfigError("trainer.precision", "16-mixed", "32-true or bf16-mixed")
            case "clipping by norm" if trainer.gradient_clip_val and trainer.gradient_clip_algorithm == "value":
                allowed = f"norm, beside {name}, which takes steps without gradients"
                raise ConfigError("trainer.gradient_clip_algorithm", "value", allowed)
            case "no other weights" if other := next((c for c in callbacks if isinstance(c, other_weights)), None):
                given = f"{type(other).__name__} beside {name}"
                raise ConfigError("trainer.callbacks", given, "no callback that averages, prunes or unfreezes weights")
            case "one of its class" if sum(type(other) is type(self) for other in callbacks) > 1:
                raise ConfigError("trainer.callbacks", f"two of {name}", "one")

    def _settle_order(self, trainer: pl.Trainer, stage: str) -> None:
        callbacks = _callbacks(trainer)
        if self.first:
            callbacks = [self, *(other for other in callbacks if other is not self)]
            trainer.callbacks = callbacks  # type: ignore[attr-defined]
        if stage == "fit" and (self.before or self.after):
            place = callbacks.index(self)
            self._refuse_order(callbacks[:place], self.before, "{other} before {name}", "{name} before {other}")
            self._refuse_order(callbacks[place:], self.after, "{name} before {other}", "{other} before {name}")

    def _refuse_order(
        self, others: Sequence[pl.Callback], kinds: tuple[type[pl.Callback], ...], given: str, allowed: str
    ) -> None:
        if wrong := next((other for other in others if isinstance(other, either(*kinds))), None):
            names = {"name": type(self).__name__, "other": type(wrong).__name__}
            raise ConfigError("trainer.callbacks", given.format(**names), allowed.format(**names))

    @property
    def state_key(self) -> str:
        """The name of the class; unique for each object without state, as Lightning refuses two equal keys."""
        return super().state_key if self.has_state else f"{super().state_key} {id(self)}"

    @property
    def has_state(self) -> bool:
        """Whether checkpoints hold something of it."""
        return bool(self.remembers) or type(self).state_dict is not FitCallback.state_dict

    def state_dict(self) -> dict[str, Any]:
        """The attributes in ``remembers``, in new containers."""
        return {name.lstrip("_"): _copied(getattr(self, name)) for name in self.remembers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the attributes in ``remembers``."""
        self._note_first()
        for name in self.remembers:
            setattr(self, name, _copied(state_dict[name.lstrip("_")]))


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]


def _copied(value: Any) -> Any:
    """The value with new dictionaries and lists around the same tensors and numbers."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
