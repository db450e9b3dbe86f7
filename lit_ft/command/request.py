"""What a command line asks for: read once, before anything heavy is imported, and handed on."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_ft.command.elsewhere import elsewhere
from lit_ft.command.overrides import Override, split_overrides
from lit_ft.command.packaged import found_config
from lit_ft.command.shape import check_shape
from lit_ft.core.errors import ConfigError, existing, nearest
from lit_ft.core.yaml_text import read_yaml

OPTIONS = {
    "ckpt_path": "last, best, none, or a file; fit goes on from it.",
    "run": "Run folder that last and best refer to.",
    "from": "Run folder (or checkpoint) whose weights fit starts from.",
    "name": "Name of the run; the stem of the last -c by default.",
    "run_dir": "Run folder to write; runs/<name>/<time> by default.",
    "runs": "Folder of all runs.",
    "to": "File (.jsonl) or folder that predict writes predictions to; the run folder by default.",
}  # where a run is, was, and is to be
RUN_KEYS = ("stage", *OPTIONS, "config", "import")
SECTIONS = ("seed_everything", "model", "data", "trainer", "monitor", *RUN_KEYS)
LEFT_BY_A_RUN = ("metrics.csv", ".start", "checkpoints/step=*.ckpt", "checkpoints/*.sha256")
FLAGS = {"-c": "config", **{f"--{key}": key for key in ("config", "import", "text", *OPTIONS)}}  # with a value each


@dataclass(frozen=True)
class YamlFile:
    """A file and what it says.

    Args:
        path: As it was given.
        text: Its text.
        tree: The text as plain data.
        of_run: Whether it was asked for as the configuration of a run.
    """

    path: str
    text: str
    tree: Any
    of_run: bool = False

    @property
    def is_stored(self) -> bool:
        """Whether it is the configuration of a run, which somebody else may have written: by what is beside it."""
        files = Path(self.path), Path(self.path).resolve()
        reported = any((file.parent / "report.json").exists() for file in files)
        return self.of_run or reported or any(map(_is_beside_a_run, files))

    @classmethod
    def read(cls, argument: str, path: str | Path) -> "YamlFile":
        """Read a file; an error in it names it.

        Args:
            argument: Where the path was given, for the error when nothing is there.
            path: The file.
        """
        text = existing(argument, path).read_text(encoding="utf-8")
        return cls(str(path), text, read_yaml(text, str(path)))


def _is_beside_a_run(file: Path) -> bool:
    """Whether it has the name of a stored configuration, and a run has left something beside it."""
    named = re.fullmatch(r"config(_until_step_\d+)?\.ya?ml", file.name.lower())
    return named is not None and any(next(file.parent.glob(left), None) for left in LEFT_BY_A_RUN)


def read_config(path: str, of_run: bool = False) -> YamlFile:
    """Read a config; refuse a section that nothing reads, about which the parser is silent when it is empty."""
    file = replace(YamlFile.read("--config", path), of_run=of_run)
    if file.tree is not None and not isinstance(file.tree, dict):
        raise ConfigError("--config", path, f"a mapping with the keys {', '.join(SECTIONS)}")
    for section in file.tree or ():
        if section not in SECTIONS:
            hint = elsewhere(str(section)) or nearest(str(section), SECTIONS)
            allowed = f"{', '.join(SECTIONS)}{hint}"
            raise ConfigError("--config", f"the key {section}", allowed)
    check_shape(file.tree or {})
    return file


@dataclass(frozen=True)
class Request:
    """A command line that has been read.

    A config may say what ``--run``, ``--name`` and the other options of ``OPTIONS`` say; what comes later wins.

    Args:
        command: Name of the stage or tool; empty where Python asks.
        args: What follows it, without ``--import`` and ``--debug``.
        arguments: The part of ``args`` that the parser reads: all but ``overrides``.
        overrides: Changes of single callbacks, which the parser cannot make.
        configs: The files of ``-c``, in order.
        imports: Modules of the user to import first.
        ckpt_path: ``last``, ``best``, ``none`` (the network as it is built) or a checkpoint.
        run: Run folder that ``last`` and ``best`` refer to, and whose config is read where there is no ``-c``.
        start: Run folder or checkpoint of ``--from``.
        name: Name of the run.
        run_dir: Run folder to write.
        runs: Folder of all runs.
        to: File or folder that predict writes to.
        texts: What predict is to predict in place of rows of a table, by ``--text``; ``-`` reads standard input.
    """

    command: str
    args: tuple[str, ...]
    arguments: tuple[str, ...]
    overrides: tuple[Override, ...]
    configs: tuple[YamlFile, ...]
    imports: tuple[str, ...] = ()
    ckpt_path: str | None = None
    run: str | None = None
    start: str | None = None
    name: str | None = None
    run_dir: str | None = None
    runs: str = "runs"
    to: str | None = None
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, args: "Sequence[str] | Request", command: str = "", run: str | Path | None = None) -> "Request":
        """Read arguments and the configs that they name.

        Args:
            args: As on the command line after the stage or tool; a request is returned as it is.
            command: The stage or tool.
            run: Folder of a run whose configuration is read before them.

        Raises:
            ConfigError: A flag has no value, or a config is absent, no mapping, or has a section that nothing reads.
        """
        if isinstance(args, Request):
            return args if command in ("", args.command) else replace(args, command=command)
        if run is not None:
            args = ["-c", str(existing("--run", Path(run) / "config.yaml")), *args]
        kept: list[str] = []
        imports: list[str] = []
        configs: list[YamlFile] = []
        texts: list[str] = []
        options: dict[str, Any] = {}
        for key, value, written in read_flags(args):
            if key == "config":
                found = found_config(value)
                value, written = found, written if found == value else ["--config", found]
            if key == "import":
                imports.append(value)
            elif key == "text":
                texts += sys.stdin.read().splitlines() if value == "-" else [value]
            elif written != ["--debug"]:
                kept += written
            if key == "config":
                configs.append(read_config(value, of_run=run is not None and not configs))
                options |= {key: value for key, value in (configs[-1].tree or {}).items() if key in OPTIONS}
            elif key in OPTIONS:
                options[key] = None if value == "null" else value
        if options.get("run") and not configs:
            again = cls.of([*kept, *(f"--import={module}" for module in imports)], command, options["run"])
            return replace(again, texts=tuple(texts))  # standard input can be read once
        named = {"start" if key == "from" else key: value for key, value in options.items() if value is not None}
        rest, overrides = split_overrides(kept)
        named["texts"] = tuple(texts)
        return cls(command, tuple(kept), tuple(rest), tuple(overrides), tuple(configs), tuple(imports), **named)

    @property
    def run_name(self) -> str:
        """``name``, or the stem of the last config."""
        return folder_name(self.name if self.name is not None else Path(["run", *self.paths][-1]).stem)

    @property
    def paths(self) -> list[str]:
        """Paths of the configs."""
        return [config.path for config in self.configs]


def read_flags(args: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Go through arguments: the key of each flag of ours (else empty), its value, and both as they were written.

    Args:
        args: As on the command line; ``--flag value`` and ``--flag=value``.

    Raises:
        ConfigError: A flag has no value.
    """
    pending = iter(args)
    for argument in pending:
        flag, given, value = argument.partition("=")
        key = _key(flag)
        following = [next(pending, "")] if key and not given else []
        value = "".join(following) or value
        if key and (not value or (following and value.startswith("-") and value != "-")):
            raise ConfigError(flag, "nothing", "a run folder" if key == "run" else "a value")
        yield key, value, [argument, *following]


def _key(flag: str) -> str:
    """What a flag sets; as for the parser, a beginning that is of one flag alone will do."""
    begun = [key for name, key in FLAGS.items() if len(flag) > 2 and name.startswith(flag)]
    return FLAGS.get(flag) or (begun[0] if len(begun) == 1 else "")


def folder_name(name: str) -> str:
    """The value of ``--name``, which may not lead out of the folder of all runs."""
    if name in ("", "..") or name != Path(name).name:
        raise ConfigError("--name", name, "the name of a folder in runs/, not empty; --runs says where else")
    return name
