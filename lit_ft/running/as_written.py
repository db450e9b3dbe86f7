"""A resumed run does what is written: optimizer options and schedules that are built otherwise now win.

The checkpoint is translated before Lightning restores it. Nothing is touched where both sides were built alike, so that
a resume of the same run stays bit-identical.
"""

import copy
import sys
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from typing_extensions import override

from lit_ft.core.callback import FitCallback
from lit_ft.core.errors import ConfigError
from lit_ft.running.arguments import of_callbacks, put_back, saved_arguments, stopping
from lit_ft.running.as_built import as_built, changed, factors, of_its_groups, plain, reached, same
from lit_ft.running.averaged import give_network

SCHEDULED = ("lr", "momentum", "betas")  # what schedules of torch move
BUFFERS = (  # what an option asks for, and the buffer of the same shape that stands wherever the option is known
    ("amsgrad", "max_exp_avg_sq", "exp_avg_sq"),
    ("centered", "grad_avg", "square_avg"),
    ("momentum", "momentum_buffer", "square_avg"),
)
SETTLED = (("Adagrad", "initial_accumulator_value"), ("LBFGS", "history_size"), ("Rprop", "lr"))
"""Options that act in the first step alone: what they gave is in the state."""
FROM = "to begin another run from its weights: lit-ft fit --from, or the callback WarmStart"


class AsWritten(FitCallback):
    """Puts what is written now into the optimizers and schedules that a checkpoint restores; base of RunCheckpoint.

    Every key of a parameter group and of a schedule that is *built* otherwise than in the run of the checkpoint takes
    its new value; a schedule is a function of the step, and takes its value at the step reached. The history of
    ``ReduceLROnPlateau`` stays, and the reductions that it made. Each change is told in a line. Another optimizer
    class, or other parameters, are refused.

    Example:
        >>> from lit_ft.callbacks import RunCheckpoint
        >>> from lit_ft.testing import ForeignModule, fit_foreign
        >>> class Decays(ForeignModule):
        ...     decay = 0.1
        ...     def configure_optimizers(self):
        ...         return torch.optim.AdamW(self.parameters(), weight_decay=self.decay)
        >>> _ = fit_foreign([RunCheckpoint()], max_steps=2, make_module=Decays, default_root_dir="run")
        >>> Decays.decay = 0.0
        >>> last = "run/checkpoints/step=00000002.ckpt"
        >>> _, trainer = fit_foreign([RunCheckpoint()], resume=last, max_steps=3, make_module=Decays)
        >>> trainer.optimizers[0].param_groups[0]["weight_decay"]
        0.0
    """

    forgets: ClassVar[tuple[str, ...]] = ("_checkpoint", "_built", "_made_with")
    otherwise: bool = False
    """Whether something is known to be written otherwise than in a checkpoint that does not tell how it was built."""
    _checkpoint: dict[str, Any] | None = None
    _built: dict[str, Any] | None = None
    _made_with: Mapping[str, dict[str, Any]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note the arguments of the callbacks, before their states are restored."""
        super().setup(trainer, pl_module, stage)
        self._made_with = of_callbacks(trainer)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the checkpoint until there are optimizers."""
        if trainer.state.fn == "fit":
            self._checkpoint = checkpoint
            give_network(trainer, pl_module)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        checkpoint, self._checkpoint = self._checkpoint, None
        give_network(trainer, pl_module)
        self._built = as_built(trainer, pl_module)
        if checkpoint is None:
            return
        if "as_built" not in checkpoint and self.otherwise and "optimizer_states" in checkpoint:
            checkpoint["as_built"] = of_its_groups(checkpoint, self._built)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        lines = put_back(callbacks, self._made_with, checkpoint, FROM)
        if "as_built" in checkpoint:
            lines += rewrite(checkpoint, checkpoint["as_built"], self._built, trainer)
        tell(lines)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note what optimizers and schedules were built with."""
        if self._built is not None:
            callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
            checkpoint["as_built"] = {
                **self._built,
                "reached": reached(trainer),
                "callbacks": saved_arguments(callbacks, self._made_with, checkpoint.get("callbacks", {})),
                "stopping": stopping(callbacks, self._made_with),
            }


@rank_zero_only
def tell(lines: list[str]) -> None:
    """Say on standard error what differs from a checkpoint, a line each."""
    if lines:
        text = "".join(f"\n  {line}" for line in lines)
        print(f"the configuration differs from the checkpoint and wins:{text}", file=sys.stderr)


def rewrite(
    checkpoint: dict[str, Any], then: Mapping[str, Any], now: Mapping[str, Any], trainer: pl.Trainer
) -> list[str]:
    """Translate the states of optimizers and schedules to what is written now.

    The schedules of the trainer are stepped to the step reached; they are restored afterwards.

    Args:
        checkpoint: The checkpoint of another run, changed in place.
        then: How its optimizers were built, see ``as_built``.
        now: How they are built now.
        trainer: The trainer, whose optimizers are fresh.

    Returns:
        A line for each change.

    Raises:
        ConfigError: There is another optimizer, or its parameters are others.
    """
    states = checkpoint.get("optimizer_states")
    if not isinstance(states, list) or not all(isinstance(state, dict) and "param_groups" in state for state in states):
        return []  # sharded: its strategy alone can read it
    old, new = ([one["class"] for one in built["optimizers"]] for built in (then, now))
    if old != new:
        raise ConfigError("optimizer", _names(new), f"{_names(old)}, as in the checkpoint; {FROM}")
    lines: list[str] = []
    schedules = [None] * len(now["schedules"])
    for place in range(len(new)):
        name = "optimizer" if len(new) == 1 else f"optimizer {place + 1}"
        lines += _Rewrite(name, place, checkpoint, then, now, trainer).apply(schedules)
    if any(one is not None for one in schedules) or len(then["schedules"]) != len(schedules):
        before = checkpoint["lr_schedulers"]
        merged = [one if one is not None else before[place] for place, one in enumerate(schedules)]
        checkpoint["lr_schedulers"] = merged
    return lines


class _Rewrite:
    """One optimizer of a checkpoint, and its schedules."""

    def __init__(
        self, name: str, place: int, checkpoint: Any, then: Mapping[str, Any], now: Mapping[str, Any], trainer: Any
    ) -> None:
        self.name, self.place, self.checkpoint, self.trainer = name, place, checkpoint, trainer
        self.optimizer, self.state = trainer.optimizers[place], checkpoint["optimizer_states"][place]
        self.old, self.new = then["optimizers"][place], now["optimizers"][place]
        self.schedules = [
            _Schedule(
                config, one, then["schedules"][number] if number < len(then["schedules"]) else None, number, checkpoint
            )
            for number, (config, one) in enumerate(zip(trainer.lr_scheduler_configs, now["schedules"], strict=True))
            if one["optimizer"] == place
        ]
        self.removed = [one for one in then["schedules"][len(now["schedules"]) :] if one["optimizer"] == place]
        kinds = [one["class"] for one in then.get("reached", ())]
        self.taken_over = kinds != [one["class"] for one in then["schedules"]]  # by a callback, such as SWA

    def apply(self, states: list[Any]) -> list[str]:
        """Rewrite; the states of changed schedules go into ``states``. Returns a line for each change."""
        origins = self._origins()
        differing = [
            changed(self.old["groups"][origin], group)
            for origin, group in zip(origins, self.new["groups"], strict=True)
        ]
        self._refuse_settled(differing)
        scheduled = bool(self.removed) or any(one.changed for one in self.schedules)
        regrouped = self._regroup(origins)
        lines = self._lines(differing) + [line for one in self.schedules for line in one.lines()]
        lines += [f"schedule: {_short(one['class'])} -> None" for one in self.removed]
        moves = scheduled or regrouped or any(key in keys for keys in differing for key in SCHEDULED)
        only_history = not self.removed and all(one.keeps_history for one in self.schedules)
        if self.taken_over:
            if moves and lines:
                lines.append(f"{self.name}: its rate stays with the callback that had taken it over")
            moves = False
        rates = [plain(group["lr"]) for group in self.state["param_groups"]]
        if moves:
            for one in self.schedules:
                one.replay(self.trainer)
        fresh = self.optimizer.param_groups
        for number, keys in enumerate(differing):
            touched = set(keys) - (set(SCHEDULED) if self.taken_over else set())
            if moves and not only_history and (scheduled or any(key in keys for key in SCHEDULED)):
                touched |= set(SCHEDULED) & fresh[number].keys()
            self._put(self.state["param_groups"][number], fresh[number], touched, self.old["groups"][origins[number]])
        self._begin_buffers()
        if moves:
            for one in self.schedules:
                states[one.number] = one.state([group["lr"] for group in self.state["param_groups"]])
        if self.schedules or self.removed:
            lines += self._rates(rates)
        return lines

    def _refuse_settled(self, differing: list[dict[str, tuple[Any, Any]]]) -> None:
        kind = _short(self.old["class"])
        for keys in differing if self.state["state"] else ():
            for name in keys:
                if (kind, name.removeprefix("initial_") if name == "initial_lr" else name) in SETTLED:
                    old, new = map(_shown, keys[name])
                    raise ConfigError(f"{self.name}.{name}", new, f"{old}, by which the state was made; {FROM}")

    def _put(self, group: dict[str, Any], fresh: Mapping[str, Any], keys: set[str], old: Mapping[str, Any]) -> None:
        """Put new values of some keys into a group; a plateau's reductions of the rate are kept."""
        kept = next((one for one in self.schedules if one.keeps_history), None)
        share = group["lr"] / old["lr"] if kept is not None and not same(plain(group["lr"]), old["lr"]) else None
        for key in keys:
            if key in fresh:
                group[key] = copy.deepcopy(fresh[key])
            else:
                group.pop(key, None)
        if share is not None and "lr" in keys:
            group["lr"] = group["lr"] * share

    def _begin_buffers(self) -> None:
        """Begin at zero, as at step 0, what an option that is switched on now needs of each parameter."""
        for group in self.state["param_groups"]:
            for own in (self.state["state"].get(number, {}) for number in group["params"]):
                for option, buffer, like in BUFFERS:
                    if group.get(option) and like in own and buffer not in own:
                        own[buffer] = torch.zeros_like(own[like])

    def _origins(self) -> list[int]:
        """For each group of now, the group of the checkpoint that its parameters were in."""
        old, new = self.old["parameters"], self.new["parameters"]
        alike = [len(names) for names in old] == [len(names) for names in new]
        if alike and (old == new or {*_flat(old)} != {*_flat(new)}):
            return list(range(len(new)))  # the same groups, or the same under other names
        home = {name: place for place, names in enumerate(old) for name in names}
        known = len(self.state["param_groups"]) == len(old) and None not in home
        if not known or sorted(_flat(old)) != sorted(_flat(new), key=str):
            raise _other_parameters(self.name, old, new)
        return [home[names[0]] for names in new]

    def _regroup(self, origins: list[int]) -> bool:
        """Sort the checkpoint's parameters into the groups of now."""
        old, new = self.old["parameters"], self.new["parameters"]
        if old == new or {*_flat(old)} != {*_flat(new)}:
            return False
        numbers = [number for group in self.state["param_groups"] for number in group["params"]]
        number_of = dict(zip(_flat(old), numbers, strict=True))
        groups, per_parameter, count = [], {}, 0
        for origin, names in zip(origins, new, strict=True):
            group = copy.copy(self.state["param_groups"][origin])
            group["params"] = list(range(count, count + len(names)))
            for name in names:
                if number_of[name] in self.state["state"]:
                    per_parameter[count] = self.state["state"][number_of[name]]
                count += 1
            groups.append(group)
        self.checkpoint["optimizer_states"][self.place] = self.state = {
            **self.state,
            "state": per_parameter,
            "param_groups": groups,
        }
        return True

    def _lines(self, differing: list[dict[str, tuple[Any, Any]]]) -> list[str]:
        lines = []
        for number, keys in enumerate(differing):
            group = "" if len(differing) == 1 or all(other == keys for other in differing) else f" group {number + 1}"
            if not group and number:
                break
            for key, (old, new) in keys.items():
                if key == "lr" and "initial_lr" in keys and None not in keys["initial_lr"]:
                    continue  # the first value of a schedule
                shown = "lr" if key == "initial_lr" and None not in (old, new) else key
                if not (key == "initial_lr" and None in (old, new)):
                    lines.append(f"{self.name}{group}.{shown}: {_shown(old)} -> {_shown(new)}")
        return lines

    def _rates(self, before: list[Any]) -> list[str]:
        after = [plain(group["lr"]) for group in self.state["param_groups"]]
        step = self.checkpoint["global_step"]
        if len(before) == len(after) and same(before, after):
            return []
        old, new = (_shown(rates[0] if len(rates) == 1 else rates) for rates in (before, after))
        return [f"{self.name}.lr at step {step}: {old} -> {new}"]


class _Schedule:
    """A schedule as it is written now, and what the checkpoint knows of the one in its place."""

    def __init__(self, config: Any, now: Any, then: Any, number: int, checkpoint: dict[str, Any]) -> None:
        self.config, self.now, self.number, self.checkpoint = config, now, number, checkpoint
        self.then = then if then is not None and then["optimizer"] == now["optimizer"] else None
        saved = checkpoint.get("lr_schedulers", [])
        self.saved = saved[number] if self.then is not None and number < len(saved) else None
        of_class = self.then is not None and self.then["class"] == now["class"]
        self.keeps_history = of_class and (config.reduce_on_plateau or not isinstance(config.scheduler, LRScheduler))
        self.timed = self.then is not None and all(self.then[key] == now[key] for key in ("interval", "frequency"))
        self.keys = changed(then["state"], now["state"]) if of_class else {}
        told = checkpoint["as_built"].get("reached", ())
        function = of_class and number < len(told) and told[number]["class"] == now["class"]
        self.function_changed = function and not same(
            told[number]["factors"], factors(config.scheduler, self.saved or {})
        )
        self.changed = not of_class or not self.timed or bool(self.keys) or self.function_changed

    def lines(self) -> list[str]:
        """What is written otherwise."""
        if self.then is None or self.then["class"] != self.now["class"]:
            before = _short(self.then["class"]) if self.then else None
            return [f"schedule: {before} -> {_short(self.now['class'])}"]
        pairs = {key: (self.then[key], self.now[key]) for key in ("interval", "frequency")}
        pairs |= {key: pair for key, pair in self.keys.items() if key not in ("_last_lr", "base_lrs")}
        return [f"schedule.{key}: {_shown(old)} -> {_shown(new)}" for key, (old, new) in pairs.items() if old != new]

    def replay(self, trainer: pl.Trainer) -> None:
        """Step the fresh schedule to the step reached."""
        if self.config.reduce_on_plateau or not isinstance(self.config.scheduler, LRScheduler):
            return  # not a function of the step
        count, scheduler = self._count(trainer), self.config.scheduler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the order of the steps of optimizer and schedule
            if type(scheduler) is LambdaLR and count > 1:  # its value depends on the count alone
                scheduler.last_epoch, scheduler._step_count, count = count - 1, count, 1
            for _ in range(count):
                scheduler.step()

    def _count(self, trainer: pl.Trainer) -> int:
        """How often a run with this schedule would have stepped it by now."""
        count = self.saved.get("last_epoch") if self.saved is not None and self.timed else None
        if isinstance(count, int):
            return count
        loop, every = self.checkpoint["loops"]["fit_loop"], self.config.frequency
        epochs = loop["epoch_progress"]["current"]["processed"]
        if self.config.interval == "epoch":
            return epochs // every
        if every == 1:
            return self.checkpoint["global_step"]
        trainer.fit_loop.setup_data()  # to know the length of an epoch
        whole, done = trainer.num_training_batches, loop["epoch_loop.batch_progress"]["current"]["completed"]
        if whole == float("inf"):
            return self.checkpoint["global_step"] // every
        parts = trainer.accumulate_grad_batches
        ends = [batch for batch in range(1, int(whole) + 1) if batch % parts == 0 or batch == whole]
        steps = [batch for batch in ends if batch % every == 0]
        return epochs * len(steps) + sum(batch <= done for batch in steps)

    def state(self, rates: list[Any]) -> dict[str, Any]:
        """What the checkpoint is to restore."""
        fresh = copy.deepcopy(self.config.scheduler.state_dict())
        if not self.keeps_history or self.saved is None:
            return fresh
        merged = {**self.saved, **{key: fresh[key] for key in self.keys if key in fresh}}
        return {**merged, "_last_lr": rates} if "_last_lr" in merged else merged


def _other_parameters(name: str, old: list[list[Any]], new: list[list[Any]]) -> ConfigError:
    given = f"groups of {_sizes(new)} parameters"
    return ConfigError(name, given, f"the parameters of the checkpoint, in groups of {_sizes(old)}; {FROM}")


def _flat(parameters: list[list[Any]]) -> list[Any]:
    return [name for names in parameters for name in names]


def _names(classes: list[str]) -> str:
    return ", ".join(map(_short, classes)) or "none"


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def _sizes(parameters: list[list[Any]]) -> str:
    return " + ".join(str(len(names)) for names in parameters)


def _shown(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _shown(value.tolist())
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
