"""Hyper-parameters of other people's modules hold classes, functions and encoders."""

from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

from lit_ft.callbacks import RunCheckpoint, WarmStart
from lit_ft.core.errors import ConfigError
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.testing import difference
from tests.contracts.foreign.project import Net, fit, seeded

pytestmark = [
    pytest.mark.usefixtures("empty_folder"),
    pytest.mark.filterwarnings("ignore:.*already saved during checkpointing"),  # Lightning to such modules
]


class Encoder:
    """Learns the mean of a column."""

    def __init__(self) -> None:
        self.mean = np.arange(3.0)


@dataclass
class Settings:
    width: int = 6


class Size(Enum):
    SMALL = 1


HELD = {
    "a module": nn.CrossEntropyLoss(),
    "a class": nn.Linear,
    "an own class": Settings,
    "an encoder": Encoder(),
    "a dataclass": Settings(3),
    "an enum": Size.SMALL,
    "a function": torch.nn.functional.relu,
    "a partial": partial(torch.optim.SGD, lr=0.1),
    "an array": np.arange(4),
    "a list of encoders": [{"column": Encoder()}],
}


class Holding(Net):
    def __init__(self, held: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.parametrize("name", HELD)
def test_a_run_with_any_hyperparameter_is_saved_and_goes_on(name: str, tmp_path: Path) -> None:
    whole = seeded(Holding, HELD[name])
    with pytest.warns(UserWarning, match="resume with trainer.fit.*weights_only=False.*add_safe_globals") as said:
        fit(whole, RunCheckpoint(every_n_steps=2, keep=9, folder="whole"))
    assert sum("of this run hold" in str(one.message) for one in said) == 1
    part = seeded(Holding, HELD[name])
    with pytest.warns(UserWarning, match="checkpoints of this run hold"):
        fit(part, RunCheckpoint(None, folder="part"), ckpt=tmp_path / "whole/step=00000004.ckpt", weights_only=False)
    assert not difference(dict(whole.state_dict()), dict(part.state_dict()))


def test_named_classes_need_no_word() -> None:
    with torch.serialization.safe_globals([nn.CrossEntropyLoss]):
        whole = seeded(Holding, nn.CrossEntropyLoss())
        fit(whole, RunCheckpoint(every_n_steps=4, keep=9, folder="whole"))
        part = seeded(Holding, nn.CrossEntropyLoss())
        fit(part, RunCheckpoint(None, folder="part"), ckpt=Path("whole/step=00000004.ckpt"))
    assert not difference(dict(whole.state_dict()), dict(part.state_dict()))


def test_its_weights_are_refused_in_one_line_with_the_way() -> None:
    with pytest.warns(UserWarning, match="hold"):
        fit(seeded(Holding, Encoder()), RunCheckpoint(None, folder="whole"))
    with pytest.raises(ConfigError, match=r"checkpoint: .*Encoder.*add_safe_globals") as error:
        fit(seeded(Net), WarmStart("whole/step=00000006.ckpt"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "said"), [("nothing", "empty"), ("half", "end is missing"), ("bytes", "in it is damaged")]
)
def test_a_damaged_write_ends_the_run_and_not_the_checkpoint_before_it(
    damage: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = pl.Trainer.save_checkpoint

    def faulty(trainer: pl.Trainer, path: Path, **kwargs: Any) -> None:
        save(trainer, path, **kwargs)
        if trainer.global_step == 4:
            whole = path.read_bytes()
            weight = next(trainer.model.parameters()).detach().numpy().tobytes()
            changed = whole.replace(weight, weight[::-1])
            path.write_bytes({"nothing": b"", "half": whole[: len(whole) // 2], "bytes": changed}[damage])

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", faulty)
    with pytest.raises(OSError, match=f"is not what was written.*{said}"):
        fit(seeded(Net), RunCheckpoint(every_n_steps=2, folder="run"))
    assert newest_whole(Path("run"))[0] == Path("run/step=00000002.ckpt")
