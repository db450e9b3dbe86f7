"""A fit that goes on with another configuration: each difference is told, takes effect, and is what the folder says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_ft.command.cli import build, command
from lit_ft.command.run import execute

CONFIG: dict[str, Any] = {
    "model": {"class_path": "Toy", "init_args": {"network": {"path": "here"}, "width": 5}},
    "data": {"class_path": "ToyData"},
    "trainer": {
        "max_steps": 7,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "callbacks": [{"class_path": "RunCheckpoint", "init_args": {"every_n_steps": 1, "keep": 99}}],
    },
}
RATE = '--model.optimizer={"class_path": "SGD", "init_args": {"lr": %s}}'
pytestmark = pytest.mark.filterwarnings("ignore:the configuration differs:UserWarning")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("toy.yaml").write_text("# a config\n" + yaml.safe_dump(CONFIG))


def fit(*arguments: str, folder: str = "run") -> int:
    return command(["fit", "-c", "toy.yaml", "--import", "toy_package", "--run_dir", folder, *arguments])


def goes_on(*arguments: str) -> Any:
    return execute("fit", ["-c", "toy.yaml", "--import", "toy_package", "--run_dir", "run", "--ckpt_path", "last",
                           "--trainer.max_steps=9", *arguments])  # fmt: skip


def config(name: str = "config.yaml") -> dict[str, Any]:
    return yaml.safe_load((Path("run") / name).read_text())


def test_what_is_written_is_trained_with_told_and_kept() -> None:
    assert fit(RATE % 0.1) == 0
    with pytest.warns(UserWarning, match="differs") as said:
        run = goes_on(RATE % 0.5, "--trainer.gradient_clip_val=0.5")
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == 0.5
    text = "".join(str(one.message) for one in said)
    assert "model.init_args.optimizer.init_args.lr: 0.1 -> 0.5" in text
    assert "trainer.gradient_clip_val: None -> 0.5" in text
    assert config()["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.5
    assert config("config_until_step_7.yaml")["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.1
    assert "lr: 0.5" in Path("run/report.html").read_text()
    assert json.loads(Path("run/report.json").read_text())["steps"] == 9
    again = build(["--run", "run", "--import", "toy_package"])
    assert again.plain()["trainer"]["gradient_clip_val"] == 0.5


def test_the_same_configuration_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    goes_on()
    said = capsys.readouterr().err
    assert said.count("->") == 1
    assert "trainer.max_steps: 7 -> 9" in said
    goes_on()
    assert "->" not in capsys.readouterr().err
    assert [path.name for path in Path("run").glob("config_until*")] == ["config_until_step_7.yaml"]


def test_a_network_of_another_place_is_not_said_to_win() -> None:
    assert fit() == 0
    with pytest.warns(UserWarning, match=r"network\.path: 'here' -> 'there' \(its form alone: the weights"):
        goes_on("--model.network.path=there")


STOPPING = (
    '--trainer.callbacks+={"class_path": "EarlyStopping", "init_args": {"monitor": "train/loss", "patience": %s}}'
)


def test_an_argument_that_a_state_would_restore_over() -> None:
    assert fit(STOPPING % 3) == 0
    with pytest.warns(UserWarning, match=r"trainer.callbacks.EarlyStopping.patience: 3 -> 100"):
        run = goes_on(STOPPING % 100)
    assert [one.patience for one in run.trainer.callbacks if type(one).__name__ == "EarlyStopping"] == [100]


def test_a_callback_that_comes_or_goes_is_told() -> None:
    assert fit() == 0
    with pytest.warns(UserWarning, match=r"trainer.callbacks.EarlyStopping: None -> "):
        goes_on(STOPPING % 3)
    Path("run/config.yaml").write_text("none: 1")
    with pytest.warns(UserWarning, match=r"trainer.callbacks.EarlyStopping: {.*} -> None"):
        goes_on("--trainer.max_steps=10")  # the checkpoint knows


def test_rows_cannot_change_inside_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve steps are inside of the second epoch, and ten are its start."""
    assert fit("--trainer.max_steps=12") == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert fit("--ckpt_path", "last", "--data.rows=36") == 2
    said = capsys.readouterr().err
    assert "data.init_args.rows: given 36; allowed: 40 until the epoch ends" in said
    assert "--from" in said
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert fit("--ckpt_path", "run/checkpoints/step=00000010.ckpt", "--data.rows=36", "--trainer.max_steps=14") == 0
    assert config()["data"]["init_args"]["rows"] == 36
    assert config("config_until_step_10.yaml")["data"]["init_args"]["rows"] == 40


def test_another_optimizer_and_another_seed_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    assert fit("--ckpt_path", "last", RATE % 0.1) == 2
    assert "optimizer: given 'SGD'; allowed: AdamW, as in the checkpoint; " in capsys.readouterr().err
    assert fit("--ckpt_path", "last", "--seed_everything=5") == 2
    assert "--seed_everything: given 5; allowed: 0, whose randomness goes on" in capsys.readouterr().err


def test_a_checkpoint_of_before_takes_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """It holds neither its configuration nor what it was built with: the folder tells, and its groups."""
    cosine = '--model.schedule={"class_path": "Cosine"}'
    assert fit(RATE % 0.1, cosine) == 0
    whole = execute("fit", ["-c", "toy.yaml", "--import", "toy_package", "--run_dir", "whole", RATE % 0.1, cosine,
                            "--trainer.max_steps=9"])  # fmt: skip
    for path in Path("run/checkpoints").glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        for key in ("configuration", "as_built", "epoch_state"):
            content.pop(key)
        content["run_checkpoint"].pop("positions")
        torch.save(content, path)
        path.with_name(path.name + ".sha256").unlink()
    last = ["--ckpt_path", "run/checkpoints/step=00000007.ckpt"]
    run = execute("fit", ["-c", "toy.yaml", "--import", "toy_package", "--run_dir", "run", *last, RATE % 0.1, cosine,
                          "--trainer.max_steps=9"])  # fmt: skip
    rates = [
        one.metrics["lr-SGD/pg1"] if "lr-SGD/pg1" in one.metrics else one.metrics["lr-SGD"] for one in (run, whole)
    ]
    assert rates[0] == rates[1]
