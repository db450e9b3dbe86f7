"""The configuration of a run in its folder and in its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from lit_ft.core.callback import FitCallback
from lit_ft.core.lifecycle import from_its_start
from lit_ft.running.files import write_text

UNTIL = "config_until_step_"


class RunConfiguration(FitCallback):
    """Keeps ``config.yaml`` what the run does now; what it did before a resume stays as ``config_until_step_N.yaml``.

    Checkpoints hold the configuration, too, so that a resume from anywhere can tell what is written otherwise.

    Args:
        folder: The run folder.
        text: The resolved configuration.
        former: That of the checkpoint from which the run goes on; None where it is not known, or there is none.
        logged: What loggers are told of it, as plain data.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> from lit_ft.callbacks import RunCheckpoint
        >>> _ = fit_foreign([RunCheckpoint(folder="saved"), RunConfiguration("run", "lr: 0.1")], max_steps=1)
        >>> goes_on = [RunCheckpoint(folder="saved"), RunConfiguration("run", "lr: 0.5", former="lr: 0.1")]
        >>> _ = fit_foreign(goes_on, resume="saved/step=00000001.ckpt", max_steps=2)
        >>> [(path.name, path.read_text()) for path in sorted(Path("run").iterdir())]
        [('config.yaml', 'lr: 0.5'), ('config_until_step_1.yaml', 'lr: 0.1')]
    """

    def __init__(
        self, folder: str, text: str, former: str | None = None, logged: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.folder, self.text, self.former, self.logged = Path(folder), text, former, logged

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell every logger the whole configuration: the arguments of callbacks and data, too."""
        for logger in trainer.loggers if self.logged else ():
            logger.log_hyperparams(dict(self.logged or {}))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the configuration of a run that goes on, now that nothing can be refused any more."""
        if trainer.is_global_zero and not from_its_start(trainer):
            keep_configuration(self.folder, self.text, self.former, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration."""
        checkpoint["configuration"] = self.text


def keep_configuration(folder: Path, text: str, former: str | None, step: int) -> None:
    """Write ``config.yaml``, and what held until now beside it; files of later steps, which are undone, are removed.

    Example:
        >>> for step, text in ((0, "lr: 1"), (5, "lr: 2"), (9, "lr: 3"), (7, "lr: 4")):
        ...     keep_configuration(Path("other"), text, None, step)
        >>> [(path.name, path.read_text()) for path in sorted(Path("other").iterdir())]
        [('config.yaml', 'lr: 4'), ('config_until_step_5.yaml', 'lr: 1'), ('config_until_step_7.yaml', 'lr: 2')]
    """
    now = folder / "config.yaml"
    later = {number: path for path in folder.glob(f"{UNTIL}*.yaml") if (number := _number(path)) >= step}
    held = later[min(later)] if later else now
    before = held.read_text(encoding="utf-8") if held.exists() else former
    for path in later.values():
        path.unlink()
    if before is not None and before != text:
        write_text(folder / f"{UNTIL}{step}.yaml", before)
    if not now.exists() or now.read_text(encoding="utf-8") != text:
        write_text(now, text)


def _number(path: Path) -> int:
    digits = path.stem.removeprefix(UNTIL)
    return int(digits) if digits.isdecimal() else -1
