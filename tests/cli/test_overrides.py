"""Callbacks of a file changed from the command line: one of them by its name, or a line that says how."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_ft.command.cli import command
from lit_ft.command.overrides import override_callbacks, split_overrides
from lit_ft.command.request import folder_name, read_flags
from lit_ft.command.run import resolve
from lit_ft.core.errors import ConfigError

SAM = {"class_path": "SAM", "init_args": {"rho": 0.2, "adaptive": True, "every_n_steps": 3}}
SWAG = {"class_path": "SWAG", "init_args": {"rank": 4}}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def callbacks(written: Any, *arguments: str) -> list[dict[str, Any]]:
    model = {"class_path": "ImageClassifier", "init_args": {"network": {"config": {"model_type": "mlp"}}}}
    config = {"model": model, "data": {"class_path": "Digits"}, "trainer": {"max_steps": 1, "callbacks": written}}
    Path("c.yaml").write_text(yaml.safe_dump(config))
    found = resolve(["-c", "c.yaml", *arguments])["trainer"]["callbacks"]
    return [callback["init_args"] for callback in (found if isinstance(found, list) else [found])]


def refused(capsys: pytest.CaptureFixture[str], written: Any, *arguments: str) -> str:
    callbacks(written)
    assert command(["fit", "-c", "c.yaml", *arguments]) == 2
    assert not Path("runs").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("flag", ["rho", "init_args.rho", "SAM.rho", "SAM.init_args.rho"])
@pytest.mark.parametrize("written", [SAM, [SAM]], ids=["alone", "in a list"])
def test_one_callback_keeps_its_other_arguments(written: Any, flag: str) -> None:
    (sam,) = callbacks(written, f"--trainer.callbacks.{flag}=0.5")
    assert (sam["rho"], sam["adaptive"], sam["every_n_steps"]) == (0.5, True, 3)


def test_one_of_several_is_changed_by_its_name() -> None:
    sam, swag = callbacks([SAM, SWAG], "--trainer.callbacks.SAM.rho=0.5", "--trainer.callbacks.SWAG.rank", "7")
    assert (sam["rho"], sam["adaptive"], swag["rank"]) == (0.5, True, 7)


def test_values_inside_a_mapping() -> None:
    given, overrides = split_overrides(["-c", "f", "--trainer.callbacks.A.data.init_args.path=p", "--x=1"])
    assert given == ["-c", "f", "--x=1"]
    (changed,) = override_callbacks({"class_path": "m.A", "init_args": {"data": {"class_path": "D"}}}, overrides)
    assert changed["init_args"] == {"data": {"class_path": "D", "init_args": {"path": "p"}}}
    with pytest.raises(ConfigError, match="once among the callbacks: A, A"):
        override_callbacks([{"class_path": "A"}, {"class_path": "A"}], overrides)


def test_mistakes_are_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    both = [SAM, SWAG]
    error = refused(capsys, both, "--trainer.callbacks.rho=0.5")
    assert "trainer.callbacks.init_args.rho: unknown key; allowed: SWAG takes" in error, "it goes to the last one"
    assert "--trainer.callbacks.CLASS.rho" in error
    error = refused(capsys, both, "--trainer.callbacks.SAM.roh=0.5")
    assert "SAM takes" in error
    assert "did you mean 'rho'" in error
    assert "did you mean 'SAM'" in refused(capsys, both, "--trainer.callbacks.SAMM.rho=0.5")
    assert "rho: given 'x'; allowed: float" in refused(capsys, both, "--trainer.callbacks.SAM.rho=x")
    for written in (SAM, [SAM]):
        error = refused(capsys, written, "--trainer.callbacks.rho=-1")
        assert "rho: given -1.0; allowed" in error


def test_values_of_flags() -> None:
    args = ["-c", "a.yaml", "--config=b.yaml", "--x", "1", "--trainer.x=-c", "--run=-c"]
    found = list(read_flags(args))
    assert [value for key, value, _ in found if key == "config"] == ["a.yaml", "b.yaml"]
    assert [value for key, value, _ in found if key == "run"] == ["-c"]
    assert [part for key, _, written in found if not key for part in written] == ["--x", "1", "--trainer.x=-c"]
    assert list(read_flags([])) == []
    for lacking in (["--run"], ["--run", "-c", "a.yaml"], ["--run="]):
        with pytest.raises(ConfigError, match="--run: given 'nothing'"):
            list(read_flags(lacking))


def test_a_name_stays_among_the_runs() -> None:
    assert folder_name("a name.v2") == "a name.v2"
    for name in ("", ".", "..", "../up", "up/", "/up"):
        with pytest.raises(ConfigError, match="--name"):
            folder_name(name)


def test_a_text_that_is_no_yaml_is_a_text() -> None:
    template = '[{text: "{text}{eos}", weight: 1}]'
    data = resolve(
        ["--model=SupervisedFineTuning", "--data=Instructions", "--data.path=x", f"--data.template={template}"]
    )
    assert data["data"]["init_args"]["template"][0]["text"] == "{text}{eos}"


def test_null_is_no_value() -> None:
    config = '--model.network.config={"model_type": "mlp", "width": 4}'
    args = ["--model=ImageClassifier", config, "--data=Digits", "--model.optimizer=SGD", "--model.optimizer.lr=1"]
    arguments = resolve(
        [*args, "--model.network.path=null", "--model.network.config.width=null", "--model.optimizer.foreach=null"]
    )["model"]["init_args"]
    assert arguments["network"]["path"] is None, "it was the text None"
    assert arguments["network"]["config"] == {"model_type": "mlp", "width": None}
    assert arguments["optimizer"]["init_args"]["foreach"] is None
    other = resolve([*args, "--model.network.config=null", "--model.network.path=here"])
    assert other["model"]["init_args"]["network"]["config"] is None
