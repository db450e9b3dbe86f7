"""Start a run from the weights of another one."""

from pathlib import Path

import lightning.pytorch as pl
from torch.nn.parameter import is_lazy

from lit_ft.core.callback import FitCallback
from lit_ft.core.errors import ConfigError, existing, nearest
from lit_ft.core.lifecycle import from_its_start
from lit_ft.core.method import Method
from lit_ft.core.weights import tensors_and_notes
from lit_ft.running.files import undamaged


class WarmStart(FitCallback):
    """Loads the weights of another run's checkpoint before training begins, by name; a resume overrides it.

    Weights of the module that the checkpoint lacks (a new head) keep their initial values, and weights that only the
    checkpoint has are ignored; ``report()`` counts both. At least one must fit. Works in any module.
    Weights beside another frozen base, or of an adapter with other settings, are refused.

    Args:
        checkpoint: A checkpoint of Lightning or torch, or a ``.safetensors`` file.

    See also: :class:`~lit_ft.callbacks.RunCheckpoint`, to resume a run.

    Example:
        >>> import torch
        >>> from lit_ft.testing import fit_foreign
        >>> torch.save({"state_dict": {"model.0.bias": torch.ones(12)}}, "other.ckpt")
        >>> start = WarmStart("other.ckpt")
        >>> _ = fit_foreign([start], max_steps=1)
        >>> start.report()
        {'loaded': 1, 'kept': 8, 'unused': 0}
    """

    def __init__(self, checkpoint: str | Path) -> None:
        super().__init__()
        self.checkpoint = str(undamaged("checkpoint", existing("checkpoint", checkpoint)))
        self._counts: dict[str, int] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights in place, unless the fit resumes or continues another one."""
        if not from_its_start(trainer):
            return
        saved, notes = tensors_and_notes("checkpoint", Path(self.checkpoint))
        own = pl_module.state_dict()
        fitting = {name: tensor for name, tensor in saved.items() if name in own}
        if not fitting:
            first = next(iter(saved))
            raise ConfigError(
                "checkpoint", self.checkpoint, f"weights of this module; it has {first!r}{nearest(first, own)}"
            )
        for name, tensor in fitting.items():
            if not is_lazy(own[name]) and own[name].shape != tensor.shape:  # a lazy one takes the shape
                shapes = f"{tuple(tensor.shape)} for {name}"
                raise ConfigError("checkpoint", f"{self.checkpoint} with {shapes}", f"shape {tuple(own[name].shape)}")
        if isinstance(pl_module, Method) and not self.checkpoint.endswith(".safetensors"):
            pl_module.check_origin(notes, whole=False)
        pl_module.load_state_dict(fitting, strict=False)
        self._counts = {"loaded": len(fitting), "kept": len(own) - len(fitting), "unused": len(saved) - len(fitting)}

    def report(self) -> dict[str, int]:
        """How many tensors were loaded, kept as built, and not used."""
        return self._counts
