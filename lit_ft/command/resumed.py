"""What a configuration says otherwise than the run that a checkpoint is of: told, or refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.command.names import public
from lit_ft.core.archive import read
from lit_ft.core.errors import ConfigError
from lit_ft.core.facts import FACTS
from lit_ft.core.hyperparameters import differences, is_plain
from lit_ft.core.yaml_text import read_yaml
from lit_ft.running.as_written import FROM, tell

SECTIONS = ("seed_everything", "model", "data", "trainer", "monitor")
LENGTH = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "trainer.min_steps", "trainer.min_epochs")
OF_NO_ROW = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "val", "test", "predict",
             "max_eval_rows", "eval_batch_size")  # fmt: skip


@dataclass(frozen=True)
class Resumed:
    """A checkpoint, and the configuration of its run as far as it is known.

    Args:
        path: The checkpoint.
        content: What is in it, without its tensors.
        former: Text of the configuration that it was made with; None where nothing tells.
    """

    path: Path
    content: dict[str, Any]
    former: str | None

    @classmethod
    def of(cls, path: Path) -> "Resumed | None":
        """Read a checkpoint; a sharded one is a folder, about which nothing is known."""
        if not path.is_file():
            return None
        content = read("--ckpt_path", path, map_location="meta", mmap=True)
        beside = path.parent.parent / "config.yaml"
        text = content.get("configuration")
        if text is None and path.parent.name == "checkpoints" and beside.is_file():
            text = beside.read_text(encoding="utf-8")
        return cls(path, content, text)

    def differences(self, plain: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What a fit that goes on says otherwise, by the key: the former value and that of now.

        Args:
            plain: The resolved configuration of now.
        """
        if self.former is None:
            return self._of_model(plain["model"])
        old, new = ({key: one.get(key) for key in SECTIONS} for one in (public(read_yaml(self.former)), plain))
        found = differences(by_class(old), by_class(new))
        return {key: pair for key, pair in found.items() if not _is_new_default(old, key, pair[1])}

    def _of_model(self, model: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """By the hyper-parameters alone."""
        saved, from_data = self.content.get("hyper_parameters", {}), self.content.get(FACTS, ())
        saved = {key: value for key, value in saved.items() if key != "_instantiator" and is_plain(value)}
        path = saved.pop("_class_path", model.get("class_path"))
        old = public({"class_path": path, "init_args": saved.pop("init_args", saved) or None})
        found = differences(old, {key: model.get(key) for key in ("class_path", "init_args")})
        return {
            f"model.{key}": pair
            for key, pair in found.items()
            if key == "class_path" or pair[0] is not None
            if not (pair[1] is None and key.removeprefix("init_args.") in from_data)
        }

    def warn_of_model(self, plain: Mapping[str, Any]) -> None:
        """Say once which hyper-parameters an evaluation overrules."""
        if found := self._of_model(plain["model"]):
            lines = "".join(f"\n  {key}: {new!r} (checkpoint: {old!r})" for key, (old, new) in found.items())
            rank_zero_warn(f"the configuration differs from the checkpoint {self.path} and wins:{lines}")

    def check(self, plain: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Say what a fit that goes on does otherwise from here on.

        Args:
            plain: The resolved configuration of now.

        Returns:
            The differences.

        Raises:
            ConfigError: A difference cannot take effect in the middle of a run, or in the middle of an epoch.
        """
        found = self.differences(plain)
        for key, (old, new) in found.items():
            if key == "seed_everything":
                raise ConfigError("--seed_everything", new, f"{old}, whose randomness goes on; {FROM}")
            if key.startswith("data.") and self.inside_epoch and not _of_no_row(key):
                raise _in_the_middle(key, new, old)
        lines = [f"{key}: {old!r} -> {new!r}{_of_form(key, plain)}" for key, (old, new) in found.items()]
        if any(key not in LENGTH for key in found):
            text = "".join(f"\n  {line}" for line in lines)
            rank_zero_warn(f"the configuration differs from the checkpoint {self.path} and wins:{text}")
        else:
            tell(lines)  # a run goes on for longer: that is what it was asked for
        return found

    @property
    def inside_epoch(self) -> bool:
        """Whether the checkpoint stands between two batches of an epoch."""
        batch = self.content.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress")
        if batch is None:
            return False
        at_its_end = batch["is_last_batch"] and batch["current"]["ready"] == batch["current"]["completed"]
        return batch["current"]["completed"] > 0 and not at_its_end


def _of_form(key: str, plain: Mapping[str, Any]) -> str:
    """What the place of a network still says where a checkpoint holds all weights; beside an adapter, its base."""
    spec = (plain["model"].get("init_args") or {}).get("network")
    if not key.endswith(".network.path") or not isinstance(spec, Mapping) or spec.get("peft") is not None:
        return ""
    return " (its form alone: the weights are those of the checkpoint)"


def _in_the_middle(key: str, given: Any, old: Any) -> ConfigError:
    allowed = f"{old!r} until the epoch ends in which the checkpoint stands, as its rows would not go on; {FROM}"
    return ConfigError(key, given, allowed)


def by_class(node: Any) -> Any:
    """A configuration in which lists of objects are mappings by the names of their classes."""
    if isinstance(node, Mapping):
        return {key: by_class(value) for key, value in node.items()}
    if isinstance(node, list) and node and all(isinstance(one, Mapping) and "class_path" in one for one in node):
        named: dict[str, Any] = {}
        for one in node:
            name = str(one["class_path"]).rpartition(".")[2]
            count = sum(key.split(" ")[0] == name for key in named)
            named[name if not count else f"{name} {count + 1}"] = by_class(one.get("init_args") or {})
        return named
    return node


def _is_new_default(old: Mapping[str, Any], key: str, value: Any) -> bool:
    """Whether a key is absent from an older configuration and is nothing now."""
    node: Any = by_class(old)
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return value is None
        node = node[part]
    return False


def _of_no_row(key: str) -> bool:
    """Whether a key of a data module has no part in the order of the training rows."""
    name = key.removeprefix("data.").removeprefix("init_args.").split(".")[0]
    return name.startswith(OF_NO_ROW) and not name.endswith("fraction")
