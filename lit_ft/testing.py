"""Contracts that a callback keeps, for the tests of anybody's callbacks.

```python
from lit_ft.testing import check_callback

def test_my_callback(tmp_path):
    check_callback(lambda: MyCallback(strength=0.1), tmp_path, no_op=lambda: MyCallback(strength=0.0))
```
"""

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset, default_collate
from torchmetrics.classification import MulticlassAccuracy

from lit_ft.running.metrics_file import MetricsFile
from lit_ft.running.run_checkpoint import RunCheckpoint, newest_whole
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.loader import make_loader

ROWS, BATCH = 44, 4

MakeCallback = Callable[[], Callback]


class ForeignModule(pl.LightningModule):
    """A plain LightningModule that does not use lit_ft: dropout, batch norm, a metric, logging in its steps.

    Args:
        seed: Seed of the initial weights.
        norm: Whether there is a batch norm.

    Example:
        >>> ForeignModule(seed=0).model(torch.zeros(4, 6)).shape
        torch.Size([4, 3])
    """

    def __init__(self, seed: int = 0, norm: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            middle = nn.BatchNorm1d(12) if norm else nn.Identity()
            self.model = nn.Sequential(nn.Linear(6, 12), middle, nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3))
        self.accuracy = MulticlassAccuracy(3, average="micro")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross entropy; logs loss and accuracy."""
        x, y = batch
        logits = self.model(x)
        loss = F.cross_entropy(logits.float(), y)
        self.accuracy(logits, y)
        self.log("loss", loss)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Cross entropy."""
        x, y = batch
        self.log("val/loss", F.cross_entropy(self.model(x).float(), y), batch_size=len(y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with decay, which also moves weights whose gradient is zero."""
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)


class ForeignData(pl.LightningDataModule):
    """Rows for ``ForeignModule``, in an order that resumes exactly.

    Args:
        num_rows: Number of rows, of which four are a batch.

    Example:
        >>> inputs, labels = next(iter(ForeignData().train_dataloader()))
        >>> inputs.shape, labels.shape
        (torch.Size([4, 6]), torch.Size([4]))
    """

    def __init__(self, num_rows: int = ROWS) -> None:
        super().__init__()
        self.num_rows = num_rows

    def _loader(self, training: bool) -> Any:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(self.num_rows, 6, generator=generator)
        y = (x[:, :3] + 0.5 * torch.randn(self.num_rows, 3, generator=generator)).argmax(1)
        plan = shuffled_batches(self.num_rows, BATCH, seed=5, shuffle=training)
        return make_loader(TensorDataset(x, y), plan, default_collate, seed=5, training=training)

    def train_dataloader(self) -> Any:
        """Shuffled."""
        return self._loader(True)

    def val_dataloader(self) -> Any:
        """In order."""
        return self._loader(False)


class _Logged(Callback):
    """The logged values after each batch and each validation."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rows.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.on_train_batch_end(trainer)


class _Crash(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at:
            raise RuntimeError("crash on purpose")


class _SavesBefore(RunCheckpoint):
    """Saves at the start of the window of accumulation in which the run is to die, and at its end."""

    def __init__(self, crash_at: int | None) -> None:
        super().__init__(every_n_steps=None, keep=50)
        self.crash_at = crash_at

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        left = math.inf if self.crash_at is None else self.crash_at - trainer.fit_loop.epoch_loop.total_batch_idx
        self.every_n_steps = 1 if left < trainer.accumulate_grad_batches else None
        super().on_train_batch_start(trainer, *args)


def fit_foreign(
    callbacks: list[Callback],
    folder: Path | None = None,
    module: pl.LightningModule | None = None,
    data: pl.LightningDataModule | None = None,
    crash_at: int | None = None,
    resume: Path | None = None,
    make_module: Callable[[], pl.LightningModule] = ForeignModule,
    make_data: Callable[[], pl.LightningDataModule] = ForeignData,
    **trainer: Any,
) -> tuple[pl.LightningModule, pl.Trainer]:
    """Train a small module for two epochs from a fixed seed.

    Args:
        callbacks: The callbacks to test.
        folder: Folder for ``metrics.csv``, a checkpoint of the end, and one of the crash; None writes nothing.
        module: The module; None makes one.
        data: Its data; None makes it.
        crash_at: Number of the micro-batch before which the run crashes.
        resume: Checkpoint to resume from.
        make_module: Makes the module, after the seed is set; ``ForeignModule`` by default.
        make_data: Makes the data; ``ForeignData`` by default.
        trainer: Further arguments of the trainer.

    Returns:
        The module and the trainer.

    Example:
        >>> from lit_ft.callbacks import SAM
        >>> module, trainer = fit_foreign([SAM(rho=0.05)], max_steps=3)
        >>> type(module).__name__, trainer.global_step
        ('ForeignModule', 3)
    """
    pl.seed_everything(11, verbose=False)
    saves = folder is not None and not any(isinstance(callback, RunCheckpoint) for callback in callbacks)
    settings: dict[str, Any] = {"max_epochs": 2, "log_every_n_steps": 1, "accelerator": "cpu", "devices": 1}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    runner = pl.Trainer(
        **{**settings, **quiet, **trainer},
        callbacks=[
            *([_SavesBefore(crash_at)] if saves else []),
            *callbacks,
            *([] if crash_at is None else [_Crash(crash_at)]),
        ],
        logger=False if folder is None else [MetricsFile(folder)],
        num_sanity_val_steps=0,
    )
    module = make_module() if module is None else module
    data = make_data() if data is None else data
    try:
        runner.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
    except RuntimeError as error:
        if "crash on purpose" not in str(error):
            raise
    return module, runner


def difference(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths at which two nested structures of tensors and plain data differ, bit by bit.

    Example:
        >>> difference({"weights": [torch.ones(2)], "step": 3}, {"weights": [torch.zeros(2)], "step": 3})
        ['/weights[0]']
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if a.shape == b.shape and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return [place for key in keys for place in difference(a.get(key), b.get(key), f"{path}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [place for i, (x, y) in enumerate(zip(a, b, strict=True)) for place in difference(x, y, f"{path}[{i}]")]
    same = a == b or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)
    return [] if same else [f"{path}: {a!r} {b!r}"]


def assert_equal_runs(a: Path, b: Path, ignore: tuple[str, ...] = ()) -> None:
    """Check that the last checkpoints and the logged values of two run folders are the same, bit by bit.

    Args:
        a: Folder of one run.
        b: Folder of the other.
        ignore: Parts of paths inside the checkpoint that may differ (wall-clock values).

    Example:
        >>> for name in ("a", "b"):
        ...     _ = fit_foreign([], Path(name), max_steps=2)
        >>> assert_equal_runs(Path("a"), Path("b"), ignore=("start_time", "/timer"))
    """
    checkpoints = [newest_whole(folder / "checkpoints")[0] for folder in (a, b)]
    loaded = [torch.load(path, map_location="cpu", weights_only=True) for path in checkpoints if path is not None]
    assert len(loaded) == 2, f"no checkpoint in {a if checkpoints[0] is None else b}"
    places = [place for place in difference(*loaded) if not any(part in place for part in ignore)]
    assert not places, f"checkpoints differ in {places[:8]}"
    metrics = [(folder / "metrics.csv").read_text() for folder in (a, b)]
    assert metrics[0] == metrics[1], "logged values differ"


def assert_resumes(make: MakeCallback, folder: Path, crash_at: int = 13, **fit: Any) -> None:
    """Check that a run that crashes before micro-batch ``crash_at`` and resumes equals an uninterrupted one.

    Example:
        >>> from lit_ft.callbacks import SAM
        >>> assert_resumes(lambda: SAM(every_n_steps=2), Path("resumed"), crash_at=2, max_steps=3)
    """
    fit_foreign([make()], folder / "whole", **fit)
    _, broken = fit_foreign([make()], folder / "broken", crash_at=crash_at, **fit)
    assert broken.interrupted, f"the run came to its end before micro-batch {crash_at}"
    last, _ = newest_whole(folder / "broken" / "checkpoints")
    assert last is not None, "the broken run left no checkpoint"
    fit_foreign([make()], folder / "broken", resume=last, **fit)
    assert_equal_runs(folder / "whole", folder / "broken", ignore=("start_time", "/timer"))


def assert_begins_anew(make: MakeCallback, make_module: Any = ForeignModule, **fit: Any) -> None:
    """Check that a callback from an earlier fit of other weights, finished or crashed, works like a new one.

    Weights, logged values, its state and its report are the same, bit by bit; the module of the earlier fit keeps no
    trace of it.

    Example:
        >>> from lit_ft.callbacks import SAM
        >>> assert_begins_anew(lambda: SAM(rho=0.05), max_steps=2)
    """

    def run(callback: Callback, module: pl.LightningModule | None = None, **more: Any) -> tuple[dict[str, Any], int]:
        logged = _Logged()
        callbacks = [callback, logged]
        module, trainer = fit_foreign(callbacks, None, module, make_module=make_module, **{**fit, **more})
        told = {name: getattr(callback, name)() for name in ("state_dict", "report") if hasattr(callback, name)}
        return {"weights": dict(module.state_dict()), "logged": logged.rows, **told}, int(trainer.num_training_batches)

    new, epoch = run(make())
    for earlier in ({"max_epochs": 1}, {"crash_at": epoch + 3, "accumulate_grad_batches": 2}):
        used, other = make(), make_module()
        other.configure_model()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
        before = _traces(other)
        run(used, other, **earlier)
        assert (after := _traces(other)) == before, f"{after - before or before - after} after {earlier}"
        places = difference(run(used)[0], new)
        assert not places, f"of a fit {earlier} there is left {places[:5]}"


def _traces(module: pl.LightningModule) -> set[str]:
    """Possible traces of a callback on a module: hooks, trained parameters, and methods of the object."""
    found = {f"own {name}" for name, value in vars(module).items() if inspect.isroutine(value)}
    for name, child in module.named_modules():
        hooks = (child._forward_hooks, child._forward_pre_hooks, child._backward_hooks, child._backward_pre_hooks)
        found |= {f"a hook on {name}"} if any(hooks) else set()
    for name, parameter in module.named_parameters():
        hooks = (parameter._backward_hooks, parameter._post_accumulate_grad_hooks)  # type: ignore[assignment, attr-defined]
        found |= {f"a hook on {name}"} if any(hooks) else set()
        found |= {f"trained {name}"} if parameter.requires_grad else set()
    return found


def assert_no_op(make: MakeCallback, folder: Path, **fit: Any) -> None:
    """Check that a run with this callback has the weights and logged values of one without it, bit by bit.

    The callback may log further values, in the rows of the run or in rows of their own.

    Example:
        >>> from lit_ft.callbacks import SAM
        >>> assert_no_op(lambda: SAM(rho=0.0), Path("no_op"), max_steps=2)
    """
    for name, callbacks in (("with", [make()]), ("without", [])):
        fit_foreign(callbacks, folder / name, **fit)
    ours, plain = (MetricsFile(folder / name).read() for name in ("with", "without"))
    shared = list(plain[0])
    values = [key for key in shared if key not in ("step", "epoch")]
    own = [row for row in ours if not any(row[key] for key in values)]
    assert all(any(row[key] for key in row.keys() - set(shared)) for row in own), "rows without any value"
    assert [[row[key] for key in shared] for row in ours if row not in own] == [list(row.values()) for row in plain]
    loaded = []
    for name in ("with", "without"):
        path, _ = newest_whole(folder / name / "checkpoints")
        assert path is not None
        loaded.append(torch.load(path, map_location="cpu", weights_only=True))
    loaded[1]["run_checkpoint"]["rows"] = [rows + len(own) for rows in loaded[1]["run_checkpoint"]["rows"]]
    for key in ("state_dict", "optimizer_states", "run_checkpoint"):
        places = difference(loaded[0][key], loaded[1][key], key)
        assert not places, f"the callback left a trace in {places[:5]}"


def check_callback(make: MakeCallback, folder: Path, no_op: MakeCallback | None = None, **fit: Any) -> None:
    """Check all contracts of a callback on a module that does not use lit_ft; takes some seconds.

    Trains plainly, with accumulation and clipping, and in bf16-mixed; crashes and resumes bit-exactly (also inside an
    epoch with accumulation); with ``no_op``, equals training without it bit by bit; leaves no hook and no changed
    ``requires_grad`` behind; survives ``copy.deepcopy`` and ``pickle`` before use; begins anew in every fit.

    Args:
        make: Makes the callback.
        folder: An empty folder.
        no_op: Makes the callback in the setting without effect.
        fit: Further arguments of ``fit_foreign``.

    See also: :func:`assert_resumes`, :func:`assert_begins_anew` and :func:`assert_no_op`, which check one contract.

    Example:
        >>> from lightning.pytorch.callbacks import EarlyStopping
        >>> check_callback(lambda: EarlyStopping("loss", stopping_threshold=9.0), Path("checked"))  # ends too early
        Traceback (most recent call last):
            ...
        AssertionError
    """
    pickle.loads(pickle.dumps(make()))
    copy.deepcopy(make())
    _, trainer = fit_foreign([make()], precision="bf16-mixed", **fit)
    epoch = int(trainer.num_training_batches)
    assert trainer.global_step == 2 * epoch
    assert_begins_anew(make, **fit)
    assert_resumes(make, folder / "resume", crash_at=epoch + 2, **fit)
    windows = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}
    assert_resumes(make, folder / "resume_accumulated", crash_at=epoch + 5, **windows, **fit)
    if no_op is not None:
        assert_no_op(no_op, folder / "no_op", **fit)
        assert_no_op(no_op, folder / "no_op_accumulated", **windows, **fit)
