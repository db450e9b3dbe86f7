"""The parser of a command, and the objects of its configuration."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import set_dumper, set_loader, set_parsing_settings
from lightning.pytorch.callbacks import Callback, Checkpoint, LearningRateFinder, ProgressBar, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden

import lit_ft.core.schedules  # noqa: F401  importing a class is what makes its short name known in YAML
from lit_ft.command.counts import check_counts
from lit_ft.command.machine import check_machine, no_rate, tensor_board
from lit_ft.command.names import import_named, named_by_user, public
from lit_ft.command.overrides import override_callbacks
from lit_ft.command.remote_code import refuse_unsaid
from lit_ft.command.request import OPTIONS, RUN_KEYS, Request
from lit_ft.core.errors import ConfigError
from lit_ft.core.trust import own_modules, reading
from lit_ft.core.yaml_text import read_yaml, write_yaml
from lit_ft.running.metrics_file import MetricsFile
from lit_ft.running.progress_lines import ProgressLines

set_parsing_settings(config_read_mode_fsspec_enabled=False)  # no value is an address to fetch from
YAML = "yaml of lit_ft"  # a mode of the parser


def read_value(text: str) -> Any:
    """YAML, in which None is null: the parser writes so what it hands on to the parser of a class.

    A word with a colon behind it, and words in braces, are texts on the command line and no mappings to nothing.
    """
    if text.strip() == "None":
        return None
    try:
        value = read_yaml(text)
    except yaml.constructor.ConstructorError as error:
        if "stands here" in str(error.problem):  # no text that only looks like a mapping
            raise ConfigError("a value", text, f"keys that differ: {error.problem}") from error
        raise
    if isinstance(value, dict) and value and all(inner is None for inner in value.values()):
        words = set(text.strip(" {}").replace(" ", "").split(","))
        return text if text.strip() in (f"{key}:" for key in value) or words == set(value) else value
    return value


set_loader(YAML, read_value, (yaml.YAMLError,))  # a text that is no YAML is a text
set_dumper(YAML, write_yaml)


class Build(LightningCLI):
    """Objects from YAML and command line, without running them.

    LightningCLI in subclass mode over LightningModule and LightningDataModule, so that foreign classes work by their
    path; without subcommands, so that a saved configuration is read like a written one. The parser reads the configs
    itself: files that they name are relative to them, and it has a grammar of numbers of its own.

    Args:
        request: What was asked for.
    """

    checkpoint: Path | None = None
    """That of which the weights are, where they are of a run."""

    def __init__(self, request: Request) -> None:
        self.request = request
        import_named(request)
        argv, sys.argv = sys.argv, sys.argv[:1]  # Lightning warns when both are there
        try:
            with self._reading():
                super().__init__(
                    pl.LightningModule,
                    pl.LightningDataModule,
                    save_config_callback=None,
                    subclass_mode_model=True,
                    subclass_mode_data=True,
                    seed_everything_default=0,
                    auto_configure_optimizers=False,
                    trainer_defaults={"log_every_n_steps": 10},
                    parser_kwargs={"exit_on_error": False, "prog": "lit-ft", "parser_mode": YAML},
                    args=list(request.arguments),
                    run=False,
                )
        finally:
            sys.argv = argv

    def _reading(self) -> AbstractContextManager[None]:
        """While the parser reads and writes values: what they may name depends on where they come from."""
        request, stored = self.request, any(file.is_stored for file in self.request.configs)
        named = named_by_user(request) if stored else request.imports
        return reading(stored, [*named, *([] if request.command else own_modules())])

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What a run watches; where it is, was, and is to be."""
        parser.add_argument("--monitor", type=str | None, help="Logged key whose best value ends and is kept.")
        for option, text in OPTIONS.items():
            kind: dict[str, Any] = {"type": str, "default": "runs"} if option == "runs" else {"type": str | None}
            parser.add_argument(f"--{option}", help=text, **kind)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; then once more when a callback in a list is changed by its name, which the parser cannot do."""
        super().parse_arguments(parser, args)
        if self.request.overrides:
            plain = read_yaml(parser.dump(self.config, skip_none=False))["trainer"]["callbacks"]
            changed = write_yaml(override_callbacks(plain, self.request.overrides))
            super().parse_arguments(parser, [*args, f"--trainer.callbacks={changed}"])
        refuse_unsaid(self.config, self.request.args)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer is made later, when the run folder is known."""
        return None  # type: ignore[return-value]

    def make_trainer(self, callbacks: list[Callback], folder: Path | None) -> pl.Trainer:
        """The trainer of the configuration, with further callbacks in front and ``metrics.csv`` in ``folder``."""
        config = dict(self.config_init["trainer"])
        given = config.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        config["callbacks"] = [*callbacks, *given]
        check_once(config["callbacks"])
        if any(isinstance(c, LearningRateFinder) for c in given) and not hasattr(self.model, "lr"):
            raise no_rate(type(self.model).__name__)
        if config.get("max_steps", -1) == -1 and config.get("max_epochs") is None and config.get("max_time") is None:
            config["max_epochs"] = 1
        check_counts(config)
        check_machine(config)
        if config.get("logger") is True:
            config["logger"] = tensor_board(folder)
        if folder is not None:
            loggers = config.get("logger")
            loggers = loggers if isinstance(loggers, list) else [loggers] if loggers not in (None, True, False) else []
            config["logger"] = [MetricsFile(folder), *loggers]
            config["default_root_dir"] = str(folder)
        elif config.get("logger") is None:
            config["logger"] = False  # else lightning_logs/ appears where one stands
        config["enable_checkpointing"] = any(isinstance(c, Checkpoint) for c in given)
        if config.get("enable_progress_bar") is None:
            config["enable_progress_bar"] = sys.stderr.isatty() or any(isinstance(c, ProgressBar) for c in given)
        if config["enable_progress_bar"] and not any(isinstance(c, ProgressBar) for c in given):
            config["callbacks"].append(RichProgressBar())
        if not config["enable_progress_bar"] and folder is not None:
            config["callbacks"].append(ProgressLines(self.config["monitor"]))
        return pl.Trainer(**config)

    def _dump_config(self) -> None:
        """As Lightning has it, for the hyper-parameters; what was parsed a moment ago is not validated again."""
        if not hasattr(self, "config_dump"):
            text = self.parser.dump(
                self.config, skip_link_targets=False, skip_none=False, skip_validation=True, format="yaml"
            )
            self.config_dump = yaml.safe_load(text)

    def plain(self) -> dict[str, Any]:
        """The resolved configuration as plain data, without what belongs to one command only."""
        with self._reading():
            text = self.parser.dump(self.config, skip_none=False, skip_validation=True)
        said = {key: value for key, value in read_yaml(text).items() if key not in RUN_KEYS}
        return public({key: value for key, value in said.items() if (key, value) != ("monitor", None)})


def check_once(callbacks: Sequence[Callback]) -> None:
    """Refuse two callbacks whose states a checkpoint could not tell apart."""
    keys = [callback.state_key for callback in callbacks]
    for callback in callbacks:
        if is_overridden("state_dict", callback) and keys.count(callback.state_key) > 1:
            name = type(callback).__name__
            raise ConfigError("trainer.callbacks", f"{name} {keys.count(callback.state_key)} times", f"{name} once")


class Resolved(Build):
    """The configuration alone; nothing is made of it."""

    def instantiate_classes(self) -> None:
        """Leave the configuration as it is."""

    def _set_seed(self) -> None:
        """Leave the random generators alone."""
