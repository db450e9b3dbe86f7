"""Every data module with a method that reads it: broken off anywhere and resumed, bit for bit the same run."""

import json
import os
import signal

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image

from lit_ft.data import Digits, GaussianClusters, ImageFolder, LabelledText
from lit_ft.methods import ImageClassifier, TextClassifier
from lit_ft.running.processes import ProcessFailed, start
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.testing import assert_equal_runs, assert_resumes, fit_foreign

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "tokenizer": "bytes", "hidden_dropout_prob": 0.3}  # fmt: skip
MLP = {"model_type": "mlp", "width": 16, "dropout": 0.2}
CNN = {"model_type": "cnn", "width": 4, "dropout": 0.2, "batch_norm": True}


def text_rows(folder):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "ab" * (1 + i % 9), "label": i % 3}) + "\n" for i in range(90)))
    return str(path)


def image_folder(folder):
    generator = torch.Generator().manual_seed(0)
    for name in ("one", "two"):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(24):
            pixels = torch.randint(256, (5, 5, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / "images" / name / f"{i}.png")
    return str(folder / "images")


class Nothing(pl.Callback):
    """A callback that does nothing."""


class Kill(pl.Callback):
    """Ends the process in the middle of a micro-batch."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.at -= 1
        if self.at < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def text_classifier():
    return TextClassifier({"config": BERT})


CASES = {
    "labelled text": (
        text_classifier,
        lambda f: lambda: LabelledText(str(f / "rows.jsonl"), batch_size=8, max_rows=32, seed=1),
    ),
    "text, two workers": (
        text_classifier,
        lambda f: lambda: LabelledText(str(f / "rows.jsonl"), batch_size=8, max_rows=32, num_workers=2),
    ),
    "digits": (lambda: ImageClassifier({"config": CNN}), lambda f: lambda: Digits(batch_size=16, max_rows=64)),
    "digits, full batch": (
        lambda: ImageClassifier({"config": MLP}, loss="squared_error"),
        lambda f: lambda: Digits(batch_size=None, flat=True, max_rows=50),
    ),
    "image folder": (
        lambda: ImageClassifier({"config": CNN}),
        lambda f: lambda: ImageFolder(str(f / "images"), image_size=6, batch_size=4, max_rows=16),
    ),
    "clusters": (lambda: ImageClassifier({"config": MLP}), lambda f: lambda: GaussianClusters(rows=50, batch_size=8)),
}


@pytest.fixture(autouse=True)
def _data(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    text_rows(tmp_path)
    image_folder(tmp_path)


@pytest.mark.parametrize("case", list(CASES))
def test_resumes_exactly(tmp_path, case):
    """Four batches an epoch, two to a window: the run dies within the last window of the second epoch."""
    module, data = CASES[case]
    accumulate, epochs = (1, 8) if case == "digits, full batch" else (2, 2)
    make_data = data(tmp_path)
    arguments = {"make_module": module, "make_data": make_data, "accumulate_grad_batches": accumulate}
    assert_resumes(Nothing, tmp_path / "run", crash_at=7, max_epochs=epochs, **arguments)


def fit_and_die(folder, path, die_at, resume):
    """In a process of its own: no chance to tidy up."""
    callbacks = [Nothing() if die_at is None else Kill(die_at)]
    data = LabelledText(path, batch_size=8, max_rows=32)
    fit_foreign(callbacks, folder, text_classifier(), data, resume=resume, accumulate_grad_batches=2)


def test_resumes_after_sigkill_in_mid_epoch(tmp_path):
    path = text_rows(tmp_path)
    fit_and_die(tmp_path / "whole", path, None, None)
    child = start(fit_and_die, tmp_path / "killed", path, 7, None)
    with pytest.raises(ProcessFailed) as failure:
        child.result()
    assert failure.value.exit_code == -signal.SIGKILL
    last, _ = newest_whole(tmp_path / "killed" / "checkpoints")
    fit_and_die(tmp_path / "killed", path, None, last)
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")
