"""A command line is read once: what it asks for, what is wrong with its files, and what is left for the parser."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_ft.command.request import Request
from lit_ft.core.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("# first\nmodel: {class_path: Toy}\nruns: mine\nckpt_path: last\n")
    Path("b.yaml").write_text("trainer: {max_steps: 3}\nname: said\n")


def test_everything_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    text_of = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: (read.append(path.name), text_of(path, *a, **k))[1])
    given = ["-c", "a.yaml", "--debug", "--import", "mine", "--trainer.callbacks.SAM.rho", "-1", "--config=b.yaml"]
    request = Request.of([*given, "--from=old", "--model.x=--run", "--import=other"], "fit")
    assert read == ["a.yaml", "b.yaml"]
    assert request.command == "fit"
    assert request.arguments == ("-c", "a.yaml", "--config=b.yaml", "--from=old", "--model.x=--run")
    assert request.args == (*request.arguments[:2], *given[5:7], *request.arguments[2:])
    assert request.overrides == (("SAM", "rho", "-1"),)
    assert request.imports == ("mine", "other")
    assert [config.path for config in request.configs] == ["a.yaml", "b.yaml"]
    assert request.configs[0].text.startswith("# first")
    assert request.configs[1].tree == {"trainer": {"max_steps": 3}, "name": "said"}
    assert (request.start, request.run, request.run_dir) == ("old", None, None)
    assert Request.of(request, "fit") is Request.of(request) is request
    assert Request.of(request, "test").command == "test"


def test_what_comes_later_wins() -> None:
    request = Request.of(["-c", "a.yaml", "--runs", "theirs", "--name=one", "--name", "two"])
    assert (request.ckpt_path, request.runs, request.name) == ("last", "theirs", "two")
    assert Request.of(["--runs=theirs", "--ckpt_path=null", "-c", "a.yaml"]).runs == "mine"
    assert Request.of(["-c", "a.yaml", "--ckpt_path=null"]).ckpt_path is None


def test_the_beginning_of_a_flag_will_do_as_for_the_parser() -> None:
    request = Request.of(["--ckpt=last", "--fro", "old", "--ru", "x", "--", "-x"])
    assert (request.ckpt_path, request.start, request.run, request.runs) == ("last", "old", None, "runs")


def test_the_name_of_a_run() -> None:
    assert Request.of([]).run_name == "run"
    assert Request.of(["-c", "b.yaml", "-c", "a.yaml"]).run_name == "said"
    assert Request.of(["-c", "b.yaml", "-c", "a.yaml", "--name=null"]).run_name == "a"
    with pytest.raises(ConfigError, match=r"--name: given '\.\./up'"):
        Request.of(["--name", "../up"]).run_name  # noqa: B018


def test_a_run_has_its_own_config() -> None:
    Path("old").mkdir()
    Path("old/config.yaml").write_text("model: {class_path: Toy}\n")
    request = Request.of(["--run", "old", "--trainer.max_steps=1"])
    assert request.arguments == ("-c", "old/config.yaml", "--run", "old", "--trainer.max_steps=1")
    assert request.run == "old"
    assert Request.of(["-c", "a.yaml", "--run=old"]).paths == ["a.yaml"]
    with pytest.raises(ConfigError, match=r"--run: given 'new/config\.yaml'; allowed"):
        Request.of(["--run", "new"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--config: given 'wrong.yaml'; allowed: a path that exists"),
        ("[a, b]", "--config: given 'wrong.yaml'; allowed: a mapping with the keys seed_everything, model"),
        ("trainr: {}", "--config: given 'the key trainr'; .*did you mean 'trainer'"),
        ("a: [1\nb: 2", 'in "wrong.yaml", line 2'),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str | None, message: str) -> None:
    if text is not None:
        Path("wrong.yaml").write_text(text)
    with pytest.raises((ConfigError, yaml.YAMLError), match=message):
        Request.of(["-c", "a.yaml", "-c", "wrong.yaml"])


def test_a_wrong_file_is_refused_before_anything_heavy_is_imported() -> None:
    Path("wrong.yaml").write_text("trainr: {}\n")
    code = (
        "import sys; from lit_ft.command.cli import command;"
        " print(command(['fit', '-c', 'wrong.yaml']),"
        " [m for m in ('torch', 'lightning', 'jsonargparse') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.strip() == "2 []"
    assert "did you mean 'trainer'" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: [1]", r"trainer: given \[1\]; allowed: a mapping of arguments"),
        ("trainer:", "trainer: given None; allowed: a mapping"),
        ("model: [Toy]", "model: given .*; allowed: a class"),
        ("data: 3", "data: given 3; allowed: a class"),
        ("model: {class_path: Toy, init_arg: {width: 3}}", r"model\.init_arg: given .* \(did you mean 'init_args'\?\)"),
        ("model: {class_path: Toy, width: 3}", r"model\.width: given 3; .*init_args, below which arguments stand"),
        ("model: {init_args: {optimizer: {clas_path: SGD}}}", r"\.optimizer\.clas_path: .*'class_path'"),
        ("trainer: {callbacks: [{class_path: SAM, initargs: {rho: 1}}]}", r"trainer\.callbacks\[0\]\.initargs: given"),
        ("model: {init_args: {network: {peft: {class_path: Lora, init_arg: {r: 2}}}}}", r"network\.peft\.init_arg"),
        ("trainer: {max_steps: 1}\ntrainer: {}", "the key 'trainer' stands here and in line 1"),
    ],
)  # fmt: skip
def test_what_nothing_would_read_is_refused_with_its_place(text: str, message: str) -> None:
    Path("wrong.yaml").write_text(text)
    with pytest.raises((ConfigError, yaml.YAMLError), match=message):
        Request.of(["-c", "wrong.yaml"])


def test_keys_of_plain_data_are_its_own() -> None:
    Path("c.yaml").write_text("model: {init_args: {network: {config: {class_path: a, init_arg: 1, x: 2}}}}")
    assert Request.of(["-c", "c.yaml"]).configs[0].tree["model"]["init_args"]["network"]["config"]["x"] == 2
