"""Whether preference training lowers the probability of the answers that it should raise."""

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lit_ft.core.checks import PositiveInt, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.gathering import gather_rows
from lit_ft.core.measurement import MeasuredRun, Measurement
from lit_ft.core.passes.second_pass import copied

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLITS = ("train", "val")


class LikelihoodDisplacement(Measurement):
    r"""Measures how log-probabilities of chosen and rejected answers change in training, on fixed pairs.

    The loss of DPO falls as the margin grows, and the margin also grows when both answers lose probability and the
    rejected one loses more. The probability then goes to answers that are in no pair. Measured are the changes
    :math:`\Delta^\pm=\log\pi_t(y^\pm)-\log\pi_0(y^\pm)`, summed over tokens, in nats.

    Logs, for ``train`` and, where there is validation, ``val``: ``likelihood_displacement/<split>_chosen`` and
    ``_rejected`` (mean changes) and ``_displaced`` (share of pairs whose chosen answer lost while the margin grew).
    ``report()`` gives the last values and a verdict: ``displaced`` where on training pairs the mean chosen change is
    below 0 and the margin grew, ``not displaced`` where it is not below 0, else ``no preference learned``.

    Needs a module whose ``predict_step`` gives log-probabilities of shape (pairs, 2), such as ``DPO``, and a data
    module. Cost: ``num_batches`` forward passes for each split at each measurement.

    Args:
        every_n_steps: Optimizer steps between measurements, at least 1.
        num_batches: Batches of each split on each process, at least 1; always the same ones.

    Source: N. Razin et al., Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization, 2024,
    arXiv:2410.08847 (C1).

    See also: :class:`~lit_ft.data.ChesFilter`, which leaves out pairs that cause it.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from lit_ft.data import Preferences
        >>> from lit_ft.methods import DPO
        >>> from lit_ft.testing import fit_foreign
        >>> rows = [{"prompt": "q", "chosen": "yes" * n, "rejected": "no" * n} for n in range(1, 9)]
        >>> _ = Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        >>> gpt2 = {"model_type": "gpt2", "tokenizer": "bytes", "n_embd": 8, "n_head": 1, "n_layer": 1}
        >>> method, data = DPO({"config": gpt2}), Preferences("pairs.jsonl", val_fraction=0.25)
        >>> displacement = LikelihoodDisplacement(every_n_steps=1)
        >>> _ = fit_foreign([displacement], module=method, data=data, max_steps=2)
        >>> displacement.report()["verdict"]
        'not displaced'
    """

    prefix = "likelihood_displacement/"
    remembers = ("_start", "_last")

    def __init__(self, every_n_steps: PositiveInt = 10, num_batches: PositiveInt = 4) -> None:
        super().__init__()
        checked(locals())
        self.every_n_steps, self.num_batches = every_n_steps, num_batches
        self._batches: dict[str, list[Any]] = {}
        self._start: dict[str, Tensor] = {}

    @override
    def settled(self) -> tuple[str, ...]:
        return ("num_batches",) if self._start else ()

    def prepare(self, run: MeasuredRun) -> None:
        """Choose the pairs and measure them before training; a resumed run restores these values."""
        if getattr(run.trainer, "datamodule", None) is None:
            raise ConfigError("callbacks", "LikelihoodDisplacement", "a data module of preference pairs")
        for split in SPLITS:
            self._batches[split] = list(islice(run.loader(f"{split}_dataloader"), self.num_batches))
        if not self._start:
            self._start = self._log_probs(run)

    def measure(self, run: MeasuredRun) -> dict[str, float]:
        """Compare with the start."""
        return self._changes(self._log_probs(run))

    def _log_probs(self, run: MeasuredRun) -> dict[str, Tensor]:
        found = {}
        with run.trainer.precision_plugin.forward_context():
            for split, batches in self._batches.items():
                if batches:
                    each = [self._pairs(run.module, batch, i) for i, batch in enumerate(batches)]
                    found[split] = gather_rows(torch.cat(each).float())[0].cpu()
        return found

    def _pairs(self, module: pl.LightningModule, batch: Any, number: int) -> Tensor:
        result = module.predict_step(copied(batch), number)
        if not isinstance(result, Tensor) or result.dim() != 2 or result.shape[1] != 2:
            given = type(module).__name__
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

        curves = {k: v for k, v in history.items() if k.startswith(self.prefix) and not k.endswith("displaced")}
        if not curves:
            return {}
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for key, (steps, values) in sorted(curves.items()):
            axes.plot(steps, values, linestyle="--" if "val" in key else "-", label=key.removeprefix(self.prefix))
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(xlabel="step", ylabel="change of log p (nats)", title="likelihood displacement")
        axes.legend(fontsize="small", frameon=False)
        return {"likelihood displacement": figure}
