"""What a configuration asks of the machine and of its packages is there, or is refused by name."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import StrategyRegistry

from lit_ft.core.errors import ConfigError, nearest


def check_machine(trainer: Mapping[str, Any]) -> None:
    """Refuse an accelerator that is not there, and a strategy that nobody knows."""
    given, strategy = trainer.get("accelerator"), trainer.get("strategy")
    if isinstance(given, str) and given != "auto":
        kinds = {name: entry["accelerator"] for name, entry in AcceleratorRegistry.items()}
        there = [name for name, kind in kinds.items() if kind.is_available()]
        there += ["gpu"] if {"cuda", "mps"} & set(there) else []
        if given not in there:
            close = "" if given in (*kinds, "gpu") else nearest(given, [*kinds, "gpu", "auto"])
            raise ConfigError("trainer.accelerator", given, f"auto, {', '.join(there)}: what this machine has{close}")
    names = StrategyRegistry.available_strategies()
    if isinstance(strategy, str) and strategy not in ("auto", *names):
        common = [name for name in names if "_" not in name]
        raise ConfigError("trainer.strategy", strategy, f"auto, {', '.join(common)} ...{nearest(strategy, names)}")


def no_rate(module: str) -> ConfigError:
    """What a search for a learning rate is refused with, where the module has none that it could set."""
    allowed = f"a module with an attribute lr, which {module} lacks; --model.optimizer.lr sets its rate"
    return ConfigError("trainer.callbacks", "LearningRateFinder", allowed)


def tensor_board(folder: Path | None) -> Any:
    """The logger that ``true`` asks for; ``metrics.csv`` is written beside any."""
    if not any(find_spec(name) for name in ("tensorboard", "tensorboardX")):
        allowed = "false or a logger: true asks for TensorBoard, which is not installed (pip install tensorboard)"
        raise ConfigError("trainer.logger", True, f"{allowed}; metrics.csv is written in any case")
    return False if folder is None else TensorBoardLogger(str(folder), name=None, version="tensorboard")
