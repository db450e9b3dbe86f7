"""Build, fit, validate, test and predict from YAML: what the command does, callable from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, LearningRateMonitor

from lit_ft.command.build import Build, Resolved
from lit_ft.command.predicting import SaysSplit, predicting
from lit_ft.command.predictions import begin_predictions
from lit_ft.command.request import Request
from lit_ft.command.resumed import LENGTH, Resumed, by_class
from lit_ft.command.run_folders import ClearDead, CutRows, find_checkpoint, placed, weights_of
from lit_ft.core.archive import read
from lit_ft.core.errors import ConfigError, existing
from lit_ft.core.facts import restore_facts
from lit_ft.core.method import Method
from lit_ft.core.yaml_text import write_yaml
from lit_ft.running.as_written import AsWritten
from lit_ft.running.monitored import Monitored
from lit_ft.running.not_finite import NotFinite
from lit_ft.running.predictions import Predictions, file_of
from lit_ft.running.report import read_report
from lit_ft.running.run_checkpoint import RunCheckpoint
from lit_ft.running.run_configuration import RunConfiguration
from lit_ft.running.run_report import RunReport
from lit_ft.running.stop_signals import as_signal
from lit_ft.running.warm_start import WarmStart

STAGES = ("fit", "validate", "test", "predict")


@dataclass
class Run:
    """A finished command.

    Args:
        folder: The run folder.
        trainer: The trainer, with the values it logged last.
        module: The module.
        data: The data module; None when the module brings its own loaders.
        predictions: The file that ``predict`` has written.
    """

    folder: Path
    trainer: pl.Trainer
    module: pl.LightningModule
    data: pl.LightningDataModule | None
    predictions: Path | None = None

    @property
    def dir(self) -> Path:
        """The run folder."""
        return self.folder

    @property
    def metrics(self) -> dict[str, float]:
        """The last logged values."""
        return {key: float(value) for key, value in self.trainer.callback_metrics.items()}


def build(args: Sequence[str] | Request) -> Build:
    """Model and data module from the arguments of a command, for a notebook.

    Args:
        args: As on the command line, without the stage: ``["-c", "configs/demo.yaml", "--trainer.max_steps=10"]``;
            ``["--run", DIR]`` takes the configuration of a run.

    Returns:
        An object with ``model`` and ``datamodule``; ``make_trainer([], None)`` gives the trainer.
    """
    return Build(Request.of(args))


def resolve(args: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of a command as plain data."""
    return Resolved(Request.of(args)).plain()


def load_run(run_dir: str | Path, args: Sequence[str] = (), command: str = "") -> Build:
    """What a run was made of, with its best weights in the model where it watched a value, else with its last.

    Of classes outside of lit_ft and its dependencies, your own must have been imported before; ``--import`` names those
    of other packages that are installed.

    Args:
        run_dir: The run folder.
        args: Further arguments, as on the command line; ``["--ckpt_path", "last"]`` takes others of its weights.
        command: The tool that asks; empty where Python does.
    """
    folder = existing("run_dir", run_dir)
    existing("run_dir", folder / "config.yaml")
    built = Build(Request.of(args, command, run=folder))
    which = built.request.ckpt_path
    built.checkpoint = weights_of(folder) if which is None else find_checkpoint(which, folder)
    checkpoint = read("run_dir", built.checkpoint, map_location="cpu")
    built.model.on_load_checkpoint(checkpoint)
    built.model.load_state_dict(checkpoint["state_dict"])
    return built


def execute(stage: str, args: Sequence[str] | Request) -> Run:
    """Run one stage.

    Args:
        stage: fit, validate, test or predict.
        args: As on the command line after the stage.

    Returns:
        The finished run.
    """
    if stage not in STAGES:
        raise ConfigError("stage", stage, ", ".join(STAGES))
    request = Request.of(args, stage)
    if request.texts and stage != "predict":
        raise ConfigError("--text", request.texts[0], f"for predict alone; {stage} reads the data of the config")
    if request.to is not None and stage != "predict":
        raise ConfigError("--to", request.to, f"where predict writes to; {stage} writes to --run_dir")
    with placed(request) as (folder, checkpoint, anew):
        return _executed(Build(request), folder, checkpoint, anew)


def _executed(built: Build, folder: Path, checkpoint: Path | None, anew: bool) -> Run:
    stage, plain = built.request.command, built.plain()
    torch.set_float32_matmul_precision("high")
    text = write_yaml(plain)
    resumed = None if checkpoint is None else Resumed.of(checkpoint)
    if resumed is not None and stage != "fit":
        resumed.warn_of_model(plain)
    callbacks = default_callbacks(built, folder, text)
    if stage == "fit":
        callbacks.insert(
            0, RunConfiguration(str(folder), text, None if resumed is None else resumed.former, by_class(plain))
        )
    if resumed is not None and stage == "fit":
        put_into_effect(resumed.check(plain), [*callbacks, *given_callbacks(built)])
    if anew:
        callbacks.insert(0, ClearDead(folder, text))
    elif stage == "fit" and checkpoint is not None and not checkpoint.name.startswith("step="):
        callbacks.insert(0, CutRows())
    if stage == "predict":
        if isinstance(built.model, Method) and resumed is not None:
            restore_facts(built.model, resumed.content)  # new rows know nothing of the classes
        with predicting(built.request, folder, built.datamodule) as to:
            return _predicted(built, callbacks, to, checkpoint)
    trainer = built.make_trainer(callbacks, folder if stage == "fit" else None)
    kwargs: dict[str, Any] = {"datamodule": built.datamodule, "ckpt_path": checkpoint}
    if checkpoint is not None:
        kwargs["weights_only"] = True
    try:
        getattr(trainer, stage)(built.model, **kwargs)
    except SystemExit as ended:
        raise as_signal(ended) from None
    if stage in ("validate", "test") and not trainer.callback_metrics:
        allowed = f"a data module with rows to {stage}; this one has none (see its {stage} path or fraction)"
        raise ConfigError("data", type(built.datamodule).__name__, allowed)
    return Run(folder, trainer, built.model, built.datamodule)


def _predicted(built: Build, callbacks: list[Callback], to: Path, checkpoint: Path | None) -> Run:
    """Predict into a file; what is there already is not made again."""
    file, data = file_of(to), built.datamodule
    folder = file.parent
    if begin_predictions(to, built.plain(), checkpoint, built.request.texts):
        return Run(folder, built.make_trainer(callbacks, None), built.model, data, file)
    trainer = built.make_trainer([*callbacks, Predictions(to), SaysSplit(built.request)], None)
    weights: dict[str, Any] = {} if checkpoint is None else {"ckpt_path": checkpoint, "weights_only": True}
    try:
        trainer.predict(built.model, datamodule=data, return_predictions=False, **weights)  # they are in the file
    except SystemExit as ended:
        raise as_signal(ended) from None
    if not file.exists():
        raise ConfigError("data", type(data).__name__, "a data module with rows to predict; this has none")
    return Run(folder, trainer, built.model, data, file)


def default_callbacks(built: Build, folder: Path, text: str) -> list[Callback]:
    """What every run has unless its configuration brings its own."""
    request, seed = built.request, built.config["seed_everything"]
    command = " ".join(["lit-ft", request.command, *request.args])
    name = request.name or read_report(folder).get("name", request.run_name)  # a run that goes on keeps its name
    report = RunReport(str(folder), name, text, command, int(seed) if seed is not False else None)
    if request.command != "fit":
        return [report]
    given = given_callbacks(built)
    callbacks = watching(built.config["monitor"], given)
    if not any(isinstance(callback, RunCheckpoint) for callback in [*callbacks, *given]):
        callbacks.append(AsWritten() if any(isinstance(one, Checkpoint) for one in given) else RunCheckpoint())
    if not any(isinstance(callback, NotFinite) for callback in given):
        callbacks.append(NotFinite())
    if request.start:
        start = existing("--from", request.start)
        callbacks.append(WarmStart(str(start if start.is_file() else find_checkpoint("last", start))))
    if not any(isinstance(callback, LearningRateMonitor) for callback in given):
        callbacks.append(LearningRateMonitor(logging_interval="step"))
    return [*callbacks, report]


def given_callbacks(built: Build) -> list[Callback]:
    """The callbacks of the configuration."""
    given = built.config_init["trainer"].get("callbacks") or []
    return given if isinstance(given, list) else [given]


def watching(monitor: str | None, given: Sequence[Callback]) -> list[Callback]:
    """What a value that is named once asks for: the weights of its best are kept, and training ends when it stays away.

    Args:
        monitor: The key that the configuration names for the whole run; None takes that of its only EarlyStopping.
        given: The callbacks of the configuration. Those that watch something are left as they are.
    """
    stops = [one for one in given if isinstance(one, EarlyStopping)]
    keys = {(one.monitor, one.mode) for one in stops if one.monitor.startswith("val/")}
    made: list[Callback] = []
    if monitor and not stops:
        made.append(EarlyStopping(monitor, check_on_train_epoch_end=False))
    kept: str | None = monitor
    mode: Any = None
    if not monitor and len(keys) == 1:
        kept, mode = keys.pop()
    saving = [one for one in given if isinstance(one, Checkpoint)]
    for one in saving:
        if isinstance(one, RunCheckpoint) and one.monitor is None:
            one.monitor, one.mode = kept, one.mode or mode
    if kept and not any(getattr(one, "monitor", None) for one in saving):
        made.append(RunCheckpoint(monitor=kept, mode=mode))
    return [Monitored(monitor, made), *made]


def put_into_effect(changes: dict[str, tuple[Any, Any]], callbacks: list[Callback]) -> None:
    """Let optimizers and schedules take what is written otherwise, also of a checkpoint that does not tell its own."""
    if any(key.startswith("model.") or key in LENGTH for key in changes):
        for callback in callbacks:
            if isinstance(callback, AsWritten):
                callback.otherwise = True


def fit(args: Sequence[str]) -> Run:
    """``lit-ft fit`` with these arguments."""
    return execute("fit", args)


def test(args: Sequence[str]) -> Run:
    """``lit-ft test`` with these arguments."""
    return execute("test", args)
