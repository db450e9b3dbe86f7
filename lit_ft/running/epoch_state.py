"""What an epoch has summed up so far: logged values and torchmetrics, which Lightning does not save.

Without it, the mean of an epoch that was resumed in the middle is that of its rest, and what follows the mean
(``ReduceLROnPlateau``, ``EarlyStopping``) decides otherwise.
"""

import builtins
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import Tensor
from torchmetrics import Metric

PLAIN = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx",
         "dataloader_idx", "metric_attribute")  # fmt: skip


def epoch_state(trainer: pl.Trainer) -> dict[str, Any]:
    """The logged values, sums and torchmetrics of a training epoch between two batches, as plain data and tensors.

    See also: :func:`restore_epoch_state`.

    Example:
        >>> from lit_ft.testing import fit_foreign
        >>> class Told(pl.Callback):
        ...     def on_train_epoch_end(self, trainer, module):
        ...         print(sorted(epoch_state(trainer)["results"]), *epoch_state(trainer)["metrics"])
        >>> _ = fit_foreign([Told()], max_epochs=1)
        ['training_step.accuracy', 'training_step.loss'] accuracy
    """
    connector, results = trainer._logger_connector, trainer.fit_loop.epoch_loop._results
    modules = trainer.lightning_module.named_modules()
    metrics = {name: one for name, one in modules if isinstance(one, Metric) and one._update_count}
    return {
        "results": {
            key: _result_state(one) for key, one in results.items() if not one.has_reset and one.meta.sync.group is None
        },
        "metrics": {name: _metric_state(metric) for name, metric in metrics.items()},
        "values": [_numbers(values) for values in _values(connector)],
        "hook": connector._current_fx,
    }


def restore_epoch_state(trainer: pl.Trainer, state: Mapping[str, Any], inside: bool) -> None:
    """Go on with what the epoch had summed up; called where the state was taken, before a batch.

    Args:
        trainer: The trainer, at the start of its first batch.
        state: From :func:`epoch_state`.
        inside: Whether the epoch has had a batch.
    """
    module, connector = trainer.lightning_module, trainer._logger_connector
    modules = dict(module.named_modules())
    for name, one in state["metrics"].items():
        if isinstance(modules.get(name), Metric):
            _restore_metric(modules[name], one)  # type: ignore[arg-type]
    for values, saved in zip(_values(connector), state["values"], strict=True):
        values.update({key: _to(value, module.device) for key, value in saved.items()})
    for key, one in state["results"].items():
        result = _result(trainer, one, modules)
        if result is not None:
            trainer.fit_loop.epoch_loop._results[key] = result
    if inside:
        connector._first_loop_iter, connector._current_fx = False, state["hook"]


def _values(connector: Any) -> tuple[dict[str, Any], ...]:
    return connector._callback_metrics, connector._logged_metrics, connector._progress_bar_metrics


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if isinstance(value, (Tensor, int, float))}
    return {key: _to(value, "cpu") for key, value in kept.items()}


def _to(value: Any, device: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().to(device)
    return [_to(item, device) for item in value] if isinstance(value, list) else value


def _metric_state(metric: Metric) -> dict[str, Any]:
    states = {name: _to(getattr(metric, name), "cpu") for name in metric._defaults}
    forward = metric._forward_cache if isinstance(metric._forward_cache, Tensor) else None
    return {"states": states, "updates": metric._update_count, "forward": _to(forward, "cpu")}


def _restore_metric(metric: Metric, state: Mapping[str, Any]) -> None:
    for name, value in state["states"].items():
        if name in metric._defaults:
            setattr(metric, name, _to(value, metric.device))
    metric._update_count, metric._computed = state["updates"], None
    metric._forward_cache = _to(state["forward"], metric.device)


def _result_state(one: _ResultMetric) -> dict[str, Any]:
    meta, sync = one.meta, one.meta.sync
    state = {
        "meta": {name: getattr(meta, name) for name in PLAIN},
        "reduce": [meta.reduce_fx.__name__, meta.reduce_fx is getattr(builtins, meta.reduce_fx.__name__, None)],
        "sync": [sync.should, sync.rank_zero_only],
        "forward": _to(one._forward_cache, "cpu") if isinstance(one._forward_cache, Tensor) else None,
        "updated": one.update_called,
    }
    if one.is_tensor:
        names = ["value", *(["cumulated_batch_size"] if meta.is_mean_reduction else [])]
        state["sums"] = {name: _to(getattr(one, name), "cpu") for name in names}
    return state


def _result(trainer: pl.Trainer, state: Mapping[str, Any], modules: Mapping[str, Any]) -> _ResultMetric | None:
    """The logged value of a state; None where the module has lost its metric."""
    name, builtin = state["reduce"]
    meta = _Metadata(**state["meta"], reduce_fx=getattr(builtins if builtin else torch, name))
    should, rank_zero_only = state["sync"]
    meta.sync = _Sync(_should=should, fn=trainer.strategy.reduce, rank_zero_only=rank_zero_only)
    result = _ResultMetric(meta, is_tensor="sums" in state)
    device = trainer.lightning_module.device
    if not result.is_tensor:
        result.value = modules.get(state["meta"]["metric_attribute"])
        if not isinstance(result.value, Metric):
            return None
    for key, value in state.get("sums", {}).items():
        setattr(result, key, _to(value, device))
    result._forward_cache, result._update_count = _to(state["forward"], device), int(state["updated"])
    result.to(device)
    return result
