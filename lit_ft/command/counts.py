"""Numbers of the trainer that it would stumble over later, or would not do what they say."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from lit_ft.core.checks import Range
from lit_ft.core.errors import ConfigError
from lit_ft.running.processes import cores_here
from lit_ft.running.saying import say

LEAST = {
    "accumulate_grad_batches": Range(above=0),
    "val_check_interval": Range(above=0),
    "check_val_every_n_epoch": Range(above=0),
    "gradient_clip_val": Range(low=0),
    "log_every_n_steps": Range(low=0),
    "num_sanity_val_steps": Range(low=-1),
    "num_nodes": Range(low=1),
    "limit_train_batches": Range(low=0),
    "limit_val_batches": Range(low=0),
    "limit_test_batches": Range(low=0),
    "limit_predict_batches": Range(low=0),
    "overfit_batches": Range(low=0),
    "max_steps": Range(low=-1),
    "max_epochs": Range(low=-1),
    "min_steps": Range(low=0),
    "min_epochs": Range(low=0),
}
FEW = 4  # processes that may share a core: to see whether something runs


def check_counts(trainer: Mapping[str, Any]) -> None:
    """Refuse numbers that the trainer would divide by after the first step, or that it reads as something else.

    Args:
        trainer: Its arguments.

    Example:
        >>> check_counts({"max_steps": 10, "min_steps": 20})
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: trainer.min_steps: given 20; allowed: at most trainer.max_steps, which is 10
    """
    for key, allowed in LEAST.items():
        value = trainer.get(key)
        if isinstance(value, (int, float)) and value not in allowed:
            raise ConfigError(f"trainer.{key}", value, str(allowed))
    for unit in ("steps", "epochs"):
        least, most = (trainer.get(f"{bound}_{unit}") for bound in ("min", "max"))
        if least is not None and most not in (None, -1) and least > most:
            raise ConfigError(f"trainer.min_{unit}", least, f"at most trainer.max_{unit}, which is {most}")
    check_processes(trainer.get("accelerator"), trainer.get("devices"), cores_here())


def check_processes(accelerator: Any, devices: Any, cores: int) -> None:
    """Refuse a number of devices that is none, and processes that would drown the machine.

    Args:
        accelerator: That of the trainer.
        devices: Those of the trainer.
        cores: How many cores there are.

    Example:
        >>> check_processes("cpu", 99, cores=8)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: trainer.devices: given 99; allowed: 1 to 8, the cores of this machine
    """
    number = int(devices) if isinstance(devices, str) and devices.strip().lstrip("-").isdigit() else devices
    if not isinstance(number, int) or isinstance(number, bool):
        return
    alone = accelerator in (None, "auto") and not (CUDAAccelerator.is_available() or MPSAccelerator.is_available())
    if not (alone or str(accelerator) == "cpu"):
        if number < -1 or number == 0:
            raise ConfigError("trainer.devices", devices, "1 or more, or -1 for all")
        return
    most = max(cores, FEW)
    if not 1 <= number <= most:
        raise ConfigError("trainer.devices", devices, f"1 to {most}, the cores of this machine")
    if number > cores:
        say(f"trainer.devices: {number} processes share {cores} core{'s' * (cores > 1)}")
