"""Plain mistakes get one line: the place, what was given, what is allowed. Never what the parser says to itself."""

import errno
import json
import math
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.command.cli import command
from lit_ft.command.report import report_command
from lit_ft.running import files
from lit_ft.running.figures import curves, save_figures
from lit_ft.running.report import write_report
from lit_ft.running.run_folder import held, number_of, take_number

NAN = math.nan


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(
    optimizer: Any = None, schedule: Any = None, network: Any = None, metrics: Any = None, **sections: Any
) -> dict[str, Any]:
    arguments: dict[str, Any] = {"network": network or {"config": {"model_type": "mlp", "width": 4, "depth": 1}}}
    given = {"optimizer": optimizer or sgd(lr=0.1), "schedule": schedule, "metrics": metrics}
    arguments |= {key: value for key, value in given.items() if value is not None}
    trainer = {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False, **sections.pop("trainer", {})}
    model = {"class_path": "ImageClassifier", "init_args": arguments}
    return {"model": model, "data": {"class_path": "GaussianClusters"}, "trainer": trainer, **sections}


def sgd(kind: str = "SGD", **arguments: Any) -> dict[str, Any]:
    return {"class_path": kind, "init_args": arguments}


def trainer(**arguments: Any) -> Any:
    return config(trainer=arguments)


def data(**arguments: Any) -> Any:
    return config(data={"class_path": "GaussianClusters", "init_args": arguments})


def small(**arguments: Any) -> Any:
    return config(network={"config": {"model_type": "mlp", **arguments}})


def vit(**arguments: Any) -> Any:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    network = {"config": {"model_type": "vit", "patch_size": 4, **sizes, **arguments}}
    return config(network=network, data={"class_path": "Digits"})


NO_OPTIMIZER = config()
NO_OPTIMIZER["model"]["init_args"]["optimizer"] = None
MISTAKES: dict[str, tuple[Any, str]] = {
    "rate below 0": (config(sgd(lr=-0.1)), r"optimizer\.lr: given -0\.1; .*Invalid learning rate: -0\.1"),
    "rate no number": (config(sgd(lr=NAN)), r"optimizer\.lr: given nan; allowed: a finite number"),
    "rate without end": (config(sgd(lr=math.inf)), r"optimizer\.lr: given inf"),
    "rate too large": (config(sgd("AdamW", lr=1e38)), r"optimizer\.lr: given 1e\+38; allowed: a number of at most"),
    "epsilon too large": (config(sgd("AdamW", eps=1e308)), r"optimizer\.eps: given 1e\+308"),
    "a rate of many digits": (config(sgd(lr=10**40)), r"optimizer\.lr: given 1.*0; allowed: a number of at most"),
    "decay no number": (config(sgd(lr=0.1, weight_decay=NAN)), r"optimizer\.weight_decay: given nan"),
    "momentum no number": (config(sgd(lr=0.1, momentum=NAN)), r"optimizer\.momentum: given nan"),
    "momentum below 0": (config(sgd(lr=0.1, momentum=-1.0)), r"Invalid momentum value: -1\.0"),
    "betas": (config(sgd("AdamW", betas=[0.9, 1.5])), r"optimizer\.betas: given .*Invalid beta .*: 1\.5"),
    "epsilon": (config(sgd("AdamW", eps=-1.0)), "Invalid epsilon value"),
    "nesterov alone": (config(sgd(lr=0.1, nesterov=True)), "Nesterov momentum requires"),
    "no optimizer": (NO_OPTIMIZER, r"optimizer: given None; allowed: a class or function that makes an optimizer"),
    "an optimizer of another kind": (config(sgd("torch.nn.Linear", in_features=1, out_features=1)),
        r"model\.init_args\.optimizer: given .*torch\.nn\.Linear.*; allowed: a class, by name.*makes Optimizer"),
    "a function": (config({"class_path": "torch.load"}), r"\.optimizer: given .*torch\.load.*makes Optimizer"),
    "warm-up no number": (config(schedule={"class_path": "Cosine", "init_args": {"warmup": NAN}}), "warmup: given nan"),
    "schedule a number": (config(schedule=3), r"model\.init_args\.schedule: given 3; allowed: Schedule, null"),
    "a number of a scheduler": (config(schedule={"class_path": "TorchSchedule", "init_args": {"scheduler": {
        "class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": "x"}}}}),
        r"\.scheduler\.init_args\.step_size: given 'x'; allowed: int"),
    "network null": (config() | {"model": {"class_path": "ImageClassifier", "init_args": {"network": None}}},
        r"model\.init_args\.network: given None; allowed: a mapping with path or config"),
    "a base class": (config() | {"model": {"class_path": "lit_ft.core.method.Method", "init_args": {
        "network": {"path": "x"}}}}, r"model: Method defines build_network\(\); allowed: one of its subclasses"),
    "an argument that nothing takes": (config(data={"class_path": "GaussianClusters", "dict_kwargs": {"bach_size": 3}}),
        r"data: .*unexpected keyword argument 'bach_size'"),
    "what a callback refuses": (trainer(callbacks=[{"class_path": "EarlyStopping", "init_args": {
        "monitor": "val/loss", "mode": "lower"}}]), r"trainer\.callbacks\[0\]: `mode` can be min, max, got lower"),
    "a key that is not logged": (trainer(max_steps=60, callbacks=[{"class_path": "EarlyStopping", "init_args": {
        "monitor": "val/los"}}]), r"trainer\.callbacks\[0\]\.init_args\.monitor: given 'val/los'.*'val/loss'"),
    "a key above others": (config() | {"model": {"class_path": "ImageClassifier", "init_args": {
        "optimzer": sgd(lr=0.1)}}},
        r"model\.init_args\.optimzer: unknown key; .*did you mean 'optimizer'"),
    "network of ours": (config(network={"config": {"model_type": "mpl"}}), "given 'mpl'; .*did you mean 'mlp'"),
    "data of another kind": (config() | {"model": {"class_path": "DPO", "init_args": {"network": {"config": {
        "model_type": "gpt2", "tokenizer": "bytes"}}}}}, r"data: given 'GaussianClusters'; allowed: .*  \[DPO\]"),
    "accelerator that is not there": (trainer(accelerator="tpu"), r"trainer\.accelerator: given 'tpu'; .*this machine"),
    "accelerator": (trainer(accelerator="gup"), r"trainer\.accelerator: given 'gup'; .*did you mean 'gpu'"),
    "strategy": (trainer(strategy="ddpp"), r"trainer\.strategy: given 'ddpp'; .*did you mean 'ddp'"),
    "TensorBoard": (trainer(logger=True), r"trainer\.logger: given True; .*metrics\.csv is written in any case"),
    "search for a rate": (trainer(callbacks=[{"class_path": "LearningRateFinder"}]),
        r"trainer\.callbacks: given 'LearningRateFinder'; allowed: a module with an attribute lr"),
    "column": (config(data={"class_path": "LabelledText", "init_args": {"path": "t.csv", "text": "txt"}}) | {"model": {
        "class_path": "TextClassifier", "init_args": {"network": {"config": {
            "model_type": "bert", "tokenizer": "bytes"}}}}},
        r"data\.init_args\.text: given 'txt'; allowed: a column of t\.csv: text, kind \(did you mean 'text'"),
    "key at the top": (config(lr_scheduler="StepLR"), r"the key lr_scheduler.*; here it is model\.schedule"),
    "metric null": (config(metrics={"a": None}), r"model\.init_args\.metrics: given .*allowed: a Metric"),
    "interval above the epoch": (trainer(val_check_interval=500), r"trainer: `val_check_interval` \(500\) must be"),
    "steps below 0": (trainer(max_steps=-5), r"trainer\.max_steps: given -5; allowed: -1 or more"),
    "clipping below 0": (trainer(gradient_clip_val=-1.0), r"trainer\.gradient_clip_val: given -1\.0; allowed: 0"),
    "clipping no number": (trainer(gradient_clip_val=NAN), r"trainer\.gradient_clip_val: given nan"),
    "logging below 0": (trainer(log_every_n_steps=-1), r"trainer\.log_every_n_steps: given -1"),
    "sanity below all": (trainer(num_sanity_val_steps=-5), r"trainer\.num_sanity_val_steps: given -5; allowed: -1"),
    "limit no number": (trainer(limit_val_batches=NAN), r"trainer\.limit_val_batches: given nan"),
    "no devices": (trainer(devices=0), r"trainer\.devices: given 0; allowed: 1 to \d+, the cores"),
    "devices of another machine": (trainer(devices=4096), r"trainer\.devices: given 4096; allowed: 1 to \d+, the"),
    "devices below all": (trainer(devices="-3"), r"trainer\.devices: given '-3'; allowed: 1 to"),
    "more steps than most": (trainer(min_steps=9), r"trainer\.min_steps: given 9; allowed: at most .*max_steps.* 2"),
    "more epochs than most": (trainer(max_steps=-1, max_epochs=1, min_epochs=2), r"trainer\.min_epochs: given 2"),
    "more epochs than the one": (trainer(max_steps=-1, min_epochs=2), r"trainer\.min_epochs: given 2"),
    "a time of no unit": (trainer(max_time="5"), r"trainer: `Timer\(duration='5'\)` is not a valid duration"),
    "precision": (trainer(precision="half"), r"trainer\.precision: given 'half'; allowed: "),
    "two checkpoints": (trainer(callbacks=[{"class_path": "RunCheckpoint"}] * 2),
        r"trainer\.callbacks: given 'RunCheckpoint 2 times'; allowed: RunCheckpoint once"),
    "a callback a number": (trainer(callbacks=[3]), r"trainer\.callbacks: given .*; allowed: "),
    "callbacks a number": (trainer(callbacks=3), r"trainer\.callbacks: given 3; allowed: "),
    "a callback of another kind": (trainer(callbacks=[{"class_path": "torch.optim.SGD"}]),
        r"trainer\.callbacks: given class 'torch\.optim\.SGD'; allowed: a Callback"),
    "logger a number": (trainer(logger=3), r"trainer\.logger: given 3; allowed: "),
    "seed of the data": (data(seed=-1), r"data\.init_args\.seed: given -1; allowed: a whole number, 0 or more"),
    "workers": (data(num_workers=-1), r"num_workers"),
    "a list for a number": (data(batch_size=[1]), r"data\.init_args\.batch_size: given "),
    "width below 1": (small(width=-1), r"network\.config\.width: given -1; allowed: a whole number, 1 or more"),
    "width a list": (small(width=[8]), r"network\.config\.width: given \[8\]"),
    "depth null": (small(depth=None), r"network\.config\.depth: given None"),
    "activation a list": (small(activation=["relu"]), r"network\.config\.activation: given \['relu'\]"),
    "activation misspelt": (small(activation="rel"), r"did you mean 'relu'"),
    "dropout no number": (small(dropout=NAN), r"network\.config\.dropout: given nan"),
    "model type a list": (vit(model_type=["vit"]), r"network\.config\.model_type: given \['vit'\]"),
    "config a list": (config(network={"config": [1]}), r"model\.init_args\.network\.?.*: given .*; allowed: "),
    "heads that do not divide": (vit(num_attention_heads=3),
        r"network\.config\.num_attention_heads: given 3; allowed: a divisor of hidden_size, which is 8"),
    "size a word": (vit(hidden_size="x"), r"network\.config: given .*hidden_size"),
    "size below 0": (vit(hidden_size=-4), r"network\.config\.hidden_size: given -4; allowed: 0 or more"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--optimizer=SGD", "; here it is model.optimizer"),
        ("--lr_scheduler.step_size=3", "; here it is model.schedule"),
        ("--max_epochs=2", "; here it is trainer.max_epochs"),
        ("--lr=0.1", "; here it is model.optimizer.lr"),
    ],
)
def test_a_key_of_other_tools_is_told_its_place(
    argument: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.yaml").write_text(json.dumps(config()))
    assert command(["fit", "-c", "c.yaml", argument]) == 2
    assert expected in capsys.readouterr().err


def test_what_is_asked_for_of_the_trainer_happens(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal too: a bar that is named, a profile, an argument that is a word of an enumeration."""
    callbacks = [{"class_path": "RichProgressBar"}, {"class_path": "Timer"}]
    content = trainer(callbacks=callbacks, profiler="simple", enable_model_summary=False)
    del content["trainer"]["enable_progress_bar"]
    Path("c.yaml").write_text(json.dumps(content))
    assert command(["fit", "-c", "c.yaml", "--run_dir=run"]) == 0
    said = capsys.readouterr().out
    assert all(text in said for text in ("FIT Profiler Report", "run_training_epoch"))
    assert "interval: step" in Path("run/config.yaml").read_text()


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = MISTAKES[case]
    Path("t.csv").write_text("text,kind\na,b\n")
    Path("c.yaml").write_text(json.dumps(content).replace("NaN", ".nan").replace("Infinity", ".inf"))
    assert command(["fit", "-c", "c.yaml"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-ft: "))
    assert re.search(expected, line), line
    for inside in ("Union", "Parser key", "Subtypes", "Namespace", "Traceback"):
        assert inside not in line


@pytest.mark.parametrize(("kind", "allowed"), [
    ("text", "a checkpoint; this file cannot be read as one"),
    ("nothing", "a checkpoint; this file cannot be read as one"),
    ("tensors", "a checkpoint of a run; weights alone are what --from takes"),
    ("weights", "one to go on from; this holds weights alone: --from takes it"),
])  # fmt: skip
def test_what_is_no_checkpoint_is_refused_before_a_step_is_said(
    kind: str, allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.yaml").write_text(json.dumps(config()))
    weights = {"state_dict": {"network.0.weight": torch.ones(1)}, "pytorch-lightning_version": "2.6.4"}
    content = {"text": b"hello", "nothing": b"", "tensors": weights["state_dict"], "weights": weights}[kind]
    Path("x.ckpt").write_bytes(content) if isinstance(content, bytes) else torch.save(content, "x.ckpt")
    assert command(["fit", "-c", "c.yaml", "--ckpt_path", "x.ckpt"]) == 2
    said = capsys.readouterr()
    assert said.err == f"lit-ft: --ckpt_path: given 'x.ckpt'; allowed: {allowed}\n"
    assert not said.out
    assert not Path("runs").exists()


def test_no_step_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text(json.dumps(trainer(max_steps=0)))
    assert command(["fit", "-c", "c.yaml"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("report: "))
    assert line == "report: none, as no step was made" or Path(line.removeprefix("report: ")).exists()


@pytest.mark.draws
def test_names_with_brackets_and_dollars(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("share[red]of$x", "c$_{^d", "[/bold]")
    metric = {"class_path": "torchmetrics.classification.MulticlassAccuracy", "init_args": {"num_classes": 4}}
    run = {"max_steps": 4, "val_check_interval": 1, "enable_progress_bar": True}
    Path("c.yaml").write_text(json.dumps(config(metrics=dict.fromkeys(names, metric), trainer=run)))
    assert command(["fit", "-c", "c.yaml", "--run_dir", "run"]) == 0
    shown = capsys.readouterr().out
    for name in names:
        assert f"val/{name}" in shown
    report_command(["run"])
    assert "val/[/bol" in capsys.readouterr().out, "a narrow column"
    page = Path("run/report.html").read_text()
    assert "c$_{^d" in page


def test_a_table_of_runs_tells_the_dead_from_those_that_run(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dead", "alive", "done", "elsewhere", "of Python"):
        write_report(Path("r") / name, {"status": "finished" if name == "done" else "running", "metrics": {}})
        if name != "of Python":
            take_number(Path("r") / name, Path("r"))
    Path("r/elsewhere/.start").write_text("7\npc2\n")
    with held(Path("r/alive")):
        report_command(["r"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("r/dead (dead)", "r/alive (running)", "r/done", "r/elsewhere (running, or dead, on pc2)",
                  "r/of Python (running, or dead)"):  # fmt: skip
        assert words in shown, shown
    assert number_of(Path("r/elsewhere")) == 7


@pytest.mark.draws
def test_a_figure_of_a_callback_with_a_broken_formula_is_drawn(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.suptitle("c$_{^d$")
    assert save_figures({"own": figure}, tmp_path) == {"own": "own"}
    assert list(curves({"val/c$_{^d$": ([1, 2], [0.5, 0.25])})) == ["c$_{^d$"]


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_what_is_said_and_leaves_no_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(self: pl.Trainer, path: Any, *_: Any, **__: Any) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"the first half")
        monkeypatch.setattr(Path, "write_text", full)
        full()

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", save)
    Path("c.yaml").write_text(json.dumps(config()))
    with pytest.warns(UserWarning, match="no report of how the run ended could be written"):
        assert command(["fit", "-c", "c.yaml", "--run_dir", "run"]) == 2
    monkeypatch.undo()
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-ft: "))
    assert re.search(r"step=00000002\.ckpt.*: no space left on device", line), line
    assert not [path for path in Path("run").rglob("*") if path.name.endswith((".tmp", ".ckpt"))]


def test_a_part_of_a_text_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(tmp_path / "note", "text")
    assert list(tmp_path.iterdir()) == []
