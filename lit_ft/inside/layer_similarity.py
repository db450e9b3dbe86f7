"""Which layers fine-tuning changes, and how well each predicts the labels before and after."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lit_ft.core.checks import Range, checked
from lit_ft.core.errors import ConfigError
from lit_ft.core.forms import classes, labels_of, named, vectors
from lit_ft.core.measurement import MeasuredRun, Measurement, measuring
from lit_ft.core.observing import outputs_on
from lit_ft.core.parameters import ParameterIndex, refuse_lazy
from lit_ft.inside.linear_probe import fit_linear_probe
from lit_ft.inside.similarity import linear_cka, representational_similarity
from lit_ft.tokens.pooling import pool

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LayerSimilarity(Measurement):
    r"""Compares the representations of each layer with those before the first step, and probes both for the labels.

    Over the first ``num_rows`` validation rows (of several loaders, those of the first), with the outputs of a layer
    averaged over tokens: linear CKA (see :func:`~lit_ft.inside.similarity.linear_cka`) and the correlation of pairwise
    cosine distances (RSA), each 1 where nothing changed; and the accuracy of a linear probe fitted on rows 0, 2, 4 ...
    and measured on the others. A frozen layer above only frozen ones stays at 1.

    Logs ``layer_similarity/<layer>`` (CKA) after each validation. The report holds, by layer, ``cka``, ``rsa``,
    ``probe_before`` and ``probe_after`` at the end of the fit, and a figure shows them. Cost: a forward pass over the
    rows each time, and the initial features in memory and in checkpoints (rows x width x layers x 4 bytes). The run
    itself does not change. Refuses: more than one device; a network without a stack of blocks, unless ``modules`` are
    named.

    Source: "Towards Efficient Fine-tuning of Pre-trained Code Models: An Experimental Study and Beyond", arXiv
    2304.05216. Deviations: CKA beside their RSA; probed for the labels of the task, not for lexical, syntactic and
    structural properties of code.

    Args:
        modules: Submodules whose outputs are compared, by name; None takes the blocks of the first stack, by number.
        num_rows: Rows to compare, at least 3.
        probe: Fit probes; the batches need labels, as for :class:`~lit_ft.callbacks.FeatureProbe`.

    Example:
        >>> from lit_ft.callbacks import GradientMask
        >>> from lit_ft.core.selection import Layers
        >>> from lit_ft.data import GaussianClusters
        >>> from lit_ft.methods import ImageClassifier
        >>> from lit_ft.testing import fit_foreign
        >>> method = ImageClassifier({"config": {"model_type": "mlp", "width": 4, "depth": 2}})
        >>> callbacks = [GradientMask(Layers(start=1)), LayerSimilarity(probe=False)]  # block 0 is frozen
        >>> _ = fit_foreign(callbacks, module=method, data=GaussianClusters(rows=100), max_steps=2)
        >>> cka = callbacks[1].report()["cka"]
        >>> round(cka["0"], 9), cka["1"] < 1
        (1.0, True)
    """

    needs = ("one device",)
    when = ("validation", "end")
    prefix = "layer_similarity/"
    remembers = ("_start", "_found")

    def __init__(
        self, modules: list[str] | None = None, num_rows: Annotated[int, Range(low=3)] = 500, probe: bool = True
    ) -> None:
        super().__init__()
        checked(locals())
        if modules is not None and not modules:
            raise ConfigError("modules", modules, "names of submodules, or null")
        self.modules, self.num_rows, self.probe = modules, num_rows, probe
        self._start: dict[str, Tensor] = {}
        self._found: dict[str, dict[str, float]] = {}

    @override
    def settled(self) -> tuple[str, ...]:
        return ("modules", "num_rows", "probe") if self._start else ()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the initial representations; a resumed run has them from its checkpoint."""
        if not self._start:
            refuse_lazy(pl_module)
            with measuring(trainer, pl_module) as run:
                self._start, labels = self._collect(run)
            self._found = {"probe_before": self._probes(self._start, labels)} if self.probe else {}

    @override
    def logs_end(self) -> bool:
        return False

    def measure(self, run: MeasuredRun) -> dict[str, float]:
        """Compare with the initial representations, if there are any."""
        if not self._start:
            return {}
        now, labels = self._collect(run)
        self._found["cka"] = {layer: linear_cka(self._start[layer], now[layer]) for layer in now}
        self._found["rsa"] = {layer: representational_similarity(self._start[layer], now[layer]) for layer in now}
        if self.probe:
            self._found["probe_after"] = self._probes(now, labels)
        return self._found["cka"]

    def _probes(self, features: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
        classes = int(labels.max()) + 1
        return {
            layer: fit_linear_probe(rows[::2], labels[::2], classes).accuracy(rows[1::2], labels[1::2])
            for layer, rows in features.items()
        }

    def _collect(self, run: MeasuredRun) -> tuple[dict[str, Tensor], Tensor]:
        """Features by layer, and the labels if there are probes."""
        module, places = run.module, self._places(run.module)
        found: dict[str, list[Tensor]] = {layer: [] for layer in places}
        labels: list[Tensor] = []
        rows = 0
        for batch in run.loader("val_dataloader"):
            own = self._labels(labels_of, batch) if self.probe else None
            with run.precision():
                outputs = outputs_on(module, list(places.values()), batch)
            for layer, place in places.items():
                hidden = _pooled(outputs[place][0], batch, place, None if own is None else len(own))
                found[layer].append(hidden.float().cpu())
            rows += len(hidden)
            if own is not None:
                labels.append(own.cpu())
            if rows >= self.num_rows:
                break
        if rows < 3:
            raise ConfigError("callbacks", "LayerSimilarity", "data whose val_dataloader has at least 3 rows")
        features = {layer: torch.cat(parts)[: self.num_rows] for layer, parts in found.items()}
        numbers = self._labels(classes, torch.cat(labels)[: self.num_rows]) if labels else torch.zeros(0)
        return features, numbers

    def _labels(self, read: Callable[[Any], Tensor], source: Any) -> Tensor:
        """What is read of labels, or the word that one can do without."""
        try:
            return read(source)
        except ConfigError as error:
            raise ConfigError("probe", f"true, with {error.given}", f"false, or {error.allowed}") from None

    def _places(self, module: pl.LightningModule) -> dict[str, str]:
        """Full names of the compared modules, by their names in the report."""
        if self.modules is not None:
            return {name: name for name in self.modules}
        index = ParameterIndex(module)
        entry = next((e for e in index.values() if e.stack is not None), None)
        if entry is None:
            raise ConfigError("modules", None, f"names of submodules: {type(index.network).__name__} has no blocks")
        place = f"{entry.stack}.{entry.block}."
        inside = next(full for full, p in module.named_parameters() if p is entry.parameter)
        stack = inside[: inside.index(place)] + str(entry.stack)
        return {str(block): f"{stack}.{block}" for block in range(entry.blocks)}

    def report(self) -> dict[str, Any]:
        """The latest similarities and accuracies, by layer."""
        return self._found

    def plots(self, history: Mapping[str, tuple[list[int], list[float]]]) -> "dict[str, Figure]":
        """Similarity and accuracy of the probes over the layers."""
        from matplotlib.figure import Figure

        if "cka" not in self._found:
            return {}
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for name, values in self._found.items():
            axes.plot(list(values), list(values.values()), marker=".", label=name.replace("_", " "))
        axes.set(xlabel="layer", title="before and after fine-tuning")
        axes.grid(alpha=0.25)
        axes.legend(fontsize="small", frameon=False)
        return {"layers before and after": figure}


def _pooled(hidden: Tensor, batch: Any, name: str, rows: int | None) -> Tensor:
    """One vector a row, without padding if the batch has an attention mask."""
    mask = named(batch, "attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape == hidden.shape[:-1]:
        hidden = pool(hidden, mask, "mean")
    return vectors(hidden, name, rows)
