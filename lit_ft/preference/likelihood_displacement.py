"""Whether preference training lowers the very answers that it should raise."""

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lit_ft.core.anew import begins_anew
from lit_ft.core.errors import ConfigError
from lit_ft.core.gathering import gather_rows
from lit_ft.core.observing import own_loader
from lit_ft.core.passes.second_pass import copied, silent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLITS = ("train", "val")


class LikelihoodDisplacement(Callback):
    r"""Follows log-probabilities of chosen and rejected answers from their start, on fixed pairs.

    The loss of DPO falls with the margin, which also grows when both answers lose and the rejected one loses more. The
    probability then goes to answers that are in no pair. This is what is measured here:
    :math:`\Delta^\pm=\log\pi_t(y^\pm)-\log\pi_0(y^\pm)`, summed over tokens, in nats.

    Logs, for ``train`` and, where there is validation, ``val``: ``likelihood_displacement/<split>_chosen`` and
    ``_rejected`` (mean changes) and ``_displaced`` (share of pairs whose chosen answer lost while the margin grew).
    ``report()`` gives the last values and a verdict: ``displaced`` where on training pairs the mean chosen change is
    below 0 and the margin grew, ``not displaced`` where it is not below 0, else ``no preference learned``.

    Needs a module whose ``predict_step`` gives log-probabilities of shape (pairs, 2), such as ``DPO``, and a data
    module. Cost: ``num_batches`` forwards a split at each measurement.

    Args:
        every_n_steps: Optimizer steps between measurements, at least 1.
        num_batches: Batches of each split that are followed, on each process, at least 1; always the same ones.

    Source: N. Razin et al., Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization, 2024,
    arXiv:2410.08847 (C1).
    """

    def __init__(self, every_n_steps: int = 10, num_batches: int = 4) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("num_batches", num_batches)):
            if value < 1:
                raise ConfigError(name, value, "at least 1")
        self.every_n_steps, self.num_batches = every_n_steps, num_batches
        self._batches: dict[str, list[Any]] = {}
        self._start: dict[str, Tensor] = {}
        self._last: dict[str, float] = {}
        self._measured = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget what another fit has measured."""
        if begins_anew(trainer, stage):
            self._start, self._last = {}, {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the pairs and measure where they start; a resumed run keeps the start of the first one."""
        data = getattr(trainer, "datamodule", None)
        if data is None:
            raise ConfigError("callbacks", "LikelihoodDisplacement", "a data module of preference pairs")
        with silent(trainer, pl_module):  # a loader may draw random numbers
            for split in SPLITS:
                batches = own_loader(trainer, pl_module, f"{split}_dataloader")
                self._batches[split] = list(islice(batches, self.num_batches))
        if not self._start:
            self._start = self._log_probs(trainer, pl_module)
        self._measured = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure after every n-th optimizer step."""
        if trainer.global_step != self._measured and trainer.global_step % self.every_n_steps == 0:
            self._measured = trainer.global_step
            self._last = self._changes(self._log_probs(trainer, pl_module))
        for name, value in self._last.items():  # Lightning repeats the last value in every row; so after a resume
            pl_module.log(f"likelihood_displacement/{name}", value, on_step=True, on_epoch=False, batch_size=1)

    def _log_probs(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        found = {}
        with silent(trainer, pl_module), torch.no_grad(), trainer.precision_plugin.forward_context():
            pl_module.eval()
            for split, batches in self._batches.items():
                if batches:
                    each = [self._pairs(trainer, pl_module, batch, i) for i, batch in enumerate(batches)]
                    found[split] = gather_rows(torch.cat(each).float())[0].cpu()
        return found

    def _pairs(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, number: int) -> Tensor:
        result = pl_module.predict_step(copied(batch), number)
        if not isinstance(result, Tensor) or result.dim() != 2 or result.shape[1] != 2:
            given = type(pl_module).__name__
            raise ConfigError("callbacks", given, "a module whose predict_step gives log-probabilities (pairs, 2)")
        return result

    def _changes(self, now: Mapping[str, Tensor]) -> dict[str, float]:
        values = {}
        for split, current in now.items():
            change = current - self._start[split]
            chosen, rejected = change.unbind(1)
            displaced = (chosen < 0) & (chosen > rejected)
            values[f"{split}_chosen"] = float(chosen.mean())
            values[f"{split}_rejected"] = float(rejected.mean())
            values[f"{split}_displaced"] = float(displaced.float().mean())
        return values

    def report(self) -> dict[str, Any]:
        """The last changes, and the verdict."""
        if not self._last:
            return {"verdict": "not measured"}
        chosen, rejected = self._last["train_chosen"], self._last["train_rejected"]
        learned = chosen > rejected
        verdict = ("displaced" if chosen < 0 else "not displaced") if learned else "no preference learned"
        return {"verdict": verdict, **self._last}

    def plots(self, history: Mapping[str, tuple[list[int], list[float]]]) -> "dict[str, Figure]":
        """Mean changes of both answers over the steps."""
        from matplotlib.figure import Figure

        prefix = "likelihood_displacement/"
        curves = {k: v for k, v in history.items() if k.startswith(prefix) and not k.endswith("displaced")}
        if not curves:
            return {}
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for key, (steps, values) in sorted(curves.items()):
            axes.plot(steps, values, linestyle="--" if "val" in key else "-", label=key.removeprefix(prefix))
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(xlabel="step", ylabel="change of log p (nats)", title="likelihood displacement")
        axes.legend(fontsize="small", frameon=False)
        return {"likelihood displacement": figure}

    def state_dict(self) -> dict[str, Any]:
        """The start, and the last values."""
        return {"start": dict(self._start), "last": dict(self._last)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self._start, self._last = dict(state_dict["start"]), dict(state_dict["last"])
