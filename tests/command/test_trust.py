"""No code from files: what a configuration names is a class of the right kind, and of a stored one nothing foreign."""

import json
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lit_ft.command.build import Build, Resolved
from lit_ft.command.cli import command
from lit_ft.command.request import Request
from lit_ft.command.run import load_run
from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.core.trust import PACKAGES
from lit_ft.data import Digits, Instructions, NoisyLinear
from lit_ft.methods import ImageClassifier
from lit_ft.running.files import commit

MLP = {"config": {"model_type": "mlp", "width": 4, "depth": 1}}
SIDE_EFFECT = "import pathlib\npathlib.Path('pwned').touch()\n"
FOREIGN = f"""{SIDE_EFFECT}
import torch
class Rate(torch.optim.SGD): pass
def make(*args, **kwargs): pathlib.Path('pwned').touch()
"""
OWN = """
from torch.optim import SGD, Optimizer
class Rate(SGD): pass
def rate(params, lr=1.0) -> Optimizer: return Rate(params, lr=lr)
"""
TOUCH = {"command": "touch pwned"}
CALLABLES: dict[str, dict[str, Any]] = {
    "os.system": TOUCH,
    "posix.system": TOUCH,
    "subprocess.run": {"args": ["touch", "pwned"]},
    "subprocess.Popen": {"args": ["touch", "pwned"]},
    "builtins.eval": {},
    "builtins.exec": {},
    "torch.load": {"f": "bad.pt", "weights_only": False},
    "numpy.load": {"file": "bad.npy", "allow_pickle": True},
    "torch.serialization.os.system": TOUCH,
    "lit_ft.command.cli.os.system": TOUCH,
    "lit_ft.command.cli.import_module": {"name": "foreign"},
    "lit_ft.running.files.write_text": {"path": "pwned", "text": ""},
    "torch.hub.load": {"repo_or_dir": "a/b", "model": "c"},
    "foreign.make": {},
    "foreign.Rate": {"lr": 0.1},
}


FEW = ("os.system", "torch.load", "foreign.Rate")


def config(**changed: Any) -> dict[str, Any]:
    made = {
        "model": {"class_path": "ImageClassifier", "init_args": {"network": MLP}},
        "data": {"class_path": "GaussianClusters"},
        "trainer": {"max_steps": 1, "accelerator": "cpu"},
    }
    made["model"]["init_args"] |= changed.pop("init_args", {})  # type: ignore[index]
    return {**made, **changed}


def in_trainer(**arguments: Any) -> dict[str, Any]:
    return config(trainer={"max_steps": 1, "accelerator": "cpu", **arguments})


def scheduled(scheduler: Any) -> dict[str, Any]:
    schedule = {"class_path": "TorchSchedule", "init_args": {"scheduler": scheduler}}
    return config(init_args={"optimizer": {"class_path": "SGD", "init_args": {"lr": 0.1}}, "schedule": schedule})


PLACES = {
    "model": lambda spec: config(model=spec),
    "data": lambda spec: config(data=spec),
    "optimizer": lambda spec: config(init_args={"optimizer": spec}),
    "schedule": lambda spec: config(init_args={"schedule": spec}),
    "scheduler": scheduled,
    "lambda": lambda spec: scheduled(
        {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": spec}}
    ),
    "metric": lambda spec: config(init_args={"metrics": {"accuracy": spec}}),
    "network": lambda spec: config(init_args={"network": spec}),
    "callback": lambda spec: in_trainer(callbacks=[spec]),
    "hook": lambda spec: in_trainer(
        callbacks=[{"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": spec}}]
    ),
    "logger": lambda spec: in_trainer(logger=spec),
    "plugins": lambda spec: in_trainer(plugins=[spec]),
}
PLAIN = {
    "config": lambda spec: config(init_args={"network": {"config": {**MLP["config"], "activation": spec}}}),
    "config itself": lambda spec: config(init_args={"network": {"config": {**MLP["config"], **spec}}}),
    "adapter": lambda spec: config(init_args={"network": {**MLP, "peft": spec}}),
    "setting of an adapter": lambda spec: config(
        init_args={"network": {**MLP, "peft": {"class_path": "LoraConfig", "init_args": {"rank_pattern": spec}}}}
    ),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("foreign.py").write_text(FOREIGN)
    for folder in ("sent/checkpoints", "run"):
        Path(folder).mkdir(parents=True)
    Path("sent/checkpoints/step=00000001.ckpt").touch()
    yield
    sys.modules.pop("foreign", None)


def harmless(file: str) -> BaseException | None:
    """What building from a file raises; nothing has been called or imported by then."""
    error: BaseException | None = None
    try:
        Build(Request.of(["-c", file], "fit")).plain()
    except BaseException as raised:
        error = raised
    assert not Path("pwned").exists(), f"{type(error)}: {error}"
    assert "foreign" not in sys.modules
    return error


def specs(name: str, place: str) -> list[Any]:
    spec = {"class_path": name, "init_args": CALLABLES[name]}
    return [spec] if place in ("model", "data", "network") else [spec, name]


TABLE = [
    pytest.param(place, name, marks=[] if place == "optimizer" or name in FEW else pytest.mark.slow)
    for place in PLACES
    for name in CALLABLES
]


@pytest.mark.parametrize(("place", "name"), TABLE)
def test_of_a_stored_configuration_nothing_is_called_or_imported(place: str, name: str) -> None:
    for spec in specs(name, place):
        Path("sent/config.yaml").write_text(json.dumps(PLACES[place](spec)))
        error = harmless("sent/config.yaml")
        assert error is not None
        if name.startswith("foreign") and place not in ("network",):
            assert isinstance(error, ConfigError)
            assert "--import foreign" in str(error)


BELONGS = [param for param in TABLE if param.values[0] not in ("lambda", "hook") and "foreign" not in param.values[1]]


@pytest.mark.parametrize(("place", "name"), BELONGS)
def test_of_a_file_of_the_command_line_only_what_belongs_there_is_called(place: str, name: str) -> None:
    for spec in specs(name, place):
        Path("mine.yaml").write_text(json.dumps(PLACES[place](spec)))
        assert harmless("mine.yaml") is not None


@pytest.mark.parametrize("place", ["lambda", "hook"])
@pytest.mark.parametrize("name", ["torch.load", "foreign.make", "foreign.Rate"])
def test_a_function_is_never_called_at_once(place: str, name: str) -> None:
    Path("foreign.py").write_text(FOREIGN.removeprefix(SIDE_EFFECT).replace("import torch", "import torch, pathlib"))
    Path("mine.yaml").write_text(json.dumps(PLACES[place](specs(name, place)[0])))
    with pytest.raises(Exception, match=r".+"):
        Build(Request.of(["-c", "mine.yaml"], "fit"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize("place", PLAIN)
@pytest.mark.parametrize("file", ["mine.yaml", "sent/config.yaml"])
def test_plain_data_stay_plain_data(place: str, file: str) -> None:
    for name in ("os.system", "foreign.Rate"):
        spec = {"class_path": name, "init_args": CALLABLES[name]}
        Path(file).write_text(json.dumps(PLAIN[place](spec)))
        assert harmless(file) is None
        network = Resolved(Request.of(["-c", file], "fit")).plain()["model"]["init_args"]["network"]
        assert name in json.dumps(network)


def test_an_own_class_where_one_of_its_kind_belongs_is_imported() -> None:
    Path("foreign.py").write_text(OWN)
    parameters = [torch.nn.Parameter(torch.ones(1))]
    for name in ("Rate", "rate"):
        spec = {"class_path": f"foreign.{name}", "init_args": {"lr": 0.25}}
        Path("mine.yaml").write_text(json.dumps(PLACES["optimizer"](spec)))
        assert Build(Request.of(["-c", "mine.yaml"], "fit")).model.optimizer(parameters).defaults["lr"] == 0.25
    sys.modules.pop("foreign")
    Path("sent/config.yaml").write_text(json.dumps(PLACES["optimizer"](spec)))
    with pytest.raises(ConfigError, match=r"model\.init_args\.optimizer: given 'foreign\.rate'; .*--import foreign"):
        Build(Request.of(["-c", "sent/config.yaml"], "fit"))
    assert "foreign" not in sys.modules
    Build(Request.of(["-c", "sent/config.yaml", "--import", "foreign"], "fit"))
    Path("over.yaml").write_text(json.dumps({"model": {"init_args": {"optimizer": spec}}}))
    Build(Request.of(["-c", "sent/config.yaml", "-c", "over.yaml"], "fit"))


def test_what_a_stored_configuration_is() -> None:
    for name in (
        "config.yaml",
        "run/config.yaml",
        "sent/Config.yml",
        "sent/x.yaml",
        "run/config_until_step_12.yaml",
        "run/x.yaml",
    ):
        Path(name).write_text(json.dumps(config()))
    Path("run/report.json").write_text("{}")
    Path("link.yaml").symlink_to("run/config.yaml")
    Path("mine.yaml").write_text(json.dumps(config()))
    names = ["mine.yaml", "config.yaml", "sent/x.yaml", "run/config.yaml", "sent/Config.yml",
             "run/config_until_step_12.yaml", "run/x.yaml", "link.yaml"]  # fmt: skip
    assert [file.is_stored for file in Request.of([part for n in names for part in ("-c", n)]).configs] == [
        *[False] * 3, *[True] * 5]  # fmt: skip
    Path("bare").mkdir()
    Path("bare/config.yaml").write_text(json.dumps(config()))
    assert not Request.of(["-c", "bare/config.yaml"]).configs[0].is_stored
    assert Request.of(["--run", "bare"]).configs[0].is_stored, "whatever is beside it"


def test_what_python_has_imported_of_others_is_not_what_the_user_names() -> None:
    Path("foreign.py").write_text(OWN)
    spec = {"class_path": "foreign.Rate", "init_args": {"lr": 0.25}}
    Path("sent/config.yaml").write_text(json.dumps(PLACES["optimizer"](spec)))
    import_module("foreign")
    assert Build(Request.of([], run="sent")).model.optimizer is not None, "the user's own"
    others = {"class_path": "apart.Rate", "init_args": {"lr": 0.25}}
    Path("sent/config.yaml").write_text(json.dumps(PLACES["optimizer"](others)))
    apart = ModuleType("apart")
    apart.Rate, apart.__file__ = sys.modules["foreign"].Rate, f"{sysconfig.get_path('purelib')}/apart.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "apart", apart)
        with pytest.raises(ConfigError, match="--import apart"):
            Build(Request.of([], run="sent"))


@pytest.mark.parametrize("spec", [{"class_path": "foreign.Rate"}, {"class_path": "os.system", "init_args": TOUCH}])
def test_every_way_to_a_run_folder(spec: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("sent/config.yaml").write_text(json.dumps(PLACES["optimizer"](spec)))
    torch.save({"state_dict": {}}, "aside")
    commit(Path("aside"), Path("sent/checkpoints/step=00000001.ckpt"))
    Path("sent/graft.safetensors").touch()
    Path("other").touch()
    for arguments in (
        ["fit", "-c", "sent/config.yaml"],
        ["fit", "--run", "sent", "--ckpt_path", "last"],
        ["test", "--run", "sent"],
        ["predict", "--run", "sent"],
        ["show-batch", "--run", "sent"],
        ["estimate", "--run", "sent"],
        ["export", "sent", "--to", "out"],
        ["overlap", "sent/graft.safetensors", "other"],
    ):
        assert command(arguments) == 2, arguments
        error = capsys.readouterr().err.strip()
        assert "optimizer: given" in error, error
        assert error.count("\n") == 0, error
        assert not Path("pwned").exists()
        assert "foreign" not in sys.modules
    with pytest.raises(ConfigError, match="optimizer: given"):
        load_run("sent")


def test_code_that_comes_with_a_model_is_trusted_in_the_command_alone(capsys: pytest.CaptureFixture[str]) -> None:
    trusting = {"network": {**MLP, "trust_remote_code": True}}
    for name in ("mine.yaml", "sent/config.yaml"):
        Path(name).write_text(json.dumps(config(init_args=trusting)))
        assert command(["fit", "-c", name]) == 2
        error = capsys.readouterr().err
        assert "model.init_args.network.trust_remote_code: given True" in error
        assert "--model.network.trust_remote_code=true" in error
        for argument in (
            "--model.network.trust_remote_code=true",
            f"--model.network={json.dumps(trusting['network'])}",
        ):
            Build(Request.of(["-c", name, argument], "fit"))
        Build(Request.of(["-c", name, "--model.network.trust_remote_code=false"], "fit"))
    assert Network(path="x", trust_remote_code=True).trust_remote_code, "in Python"
    with pytest.raises(ConfigError, match=r"network\.attention: given 'someone/kernel'"):
        Network(path="x", attention="someone/kernel")


@pytest.mark.parametrize("name", FEW)
def test_of_a_checkpoint_nothing_is_called_or_imported(name: str) -> None:
    Path("mine.yaml").write_text(json.dumps(config()))
    model = Build(Request.of(["-c", "mine.yaml"], "fit")).model
    spec = {"class_path": name, "init_args": CALLABLES[name]}
    for changed in (
        {"optimizer": spec},
        {"optimizer": name},
        {"schedule": spec},
        {"metrics": {"a": spec}},
        {"_class_path": name},
        {"network": {**MLP, "peft": spec}},
    ):
        parameters = {**model.hparams, "num_classes": 2, "input_shape": [2], **changed}
        content = {"hyper_parameters": parameters, "state_dict": {}, "pytorch-lightning_version": "2.6.4"}
        torch.save(content, "bad.ckpt")
        with pytest.raises(Exception, match=r".+"):
            ImageClassifier.load_from_checkpoint("bad.ckpt", weights_only=True)
        assert not Path("pwned").exists()
        assert "foreign" not in sys.modules


@pytest.mark.parametrize("name", ["os.system", "foreign.Rate"])
def test_of_data_in_a_checkpoint_nothing_is_imported(name: str) -> None:
    for kind in (Instructions, Digits, NoisyLinear):
        stored = {"_class_path": name, "_instantiator": "lightning.pytorch.cli.instantiate_module", **CALLABLES[name]}
        content = {"datamodule_hyper_parameters": stored, "pytorch-lightning_version": "2.6.4"}
        torch.save({**content, "datamodule_hparams_name": "kwargs"}, "bad.ckpt")
        with pytest.raises(Exception, match=r".+"):
            kind.load_from_checkpoint("bad.ckpt", weights_only=True)
        assert not Path("pwned").exists()
        assert "foreign" not in sys.modules


@pytest.mark.parametrize("built", [True, False])
def test_a_checkpoint_does_not_trust_for_the_user(built: bool) -> None:
    Path("mine.yaml").write_text(json.dumps(config()))
    model = Build(Request.of(["-c", "mine.yaml"], "fit")).model if built else ImageClassifier(MLP)
    trusting = {**MLP, "trust_remote_code": True}
    parameters = {**model.hparams, "num_classes": 2, "input_shape": [2], "network": trusting}
    made = ImageClassifier(MLP, num_classes=2, input_shape=(2,))
    made.configure_model()
    content = {"hyper_parameters": parameters, "state_dict": made.state_dict(), "pytorch-lightning_version": "2.6.4"}
    torch.save(content, "other.ckpt")
    with pytest.raises(ConfigError, match=r"network\.trust_remote_code: given True; allowed: false in what was stored"):
        ImageClassifier.load_from_checkpoint("other.ckpt", weights_only=True)
    for network in (trusting, Network.of(trusting)):
        said = ImageClassifier.load_from_checkpoint("other.ckpt", weights_only=True, network=network)
        assert said.spec.trust_remote_code
    torch.save({**content, "hyper_parameters": {**parameters, "network": MLP}}, "other.ckpt")
    assert ImageClassifier.load_from_checkpoint("other.ckpt", weights_only=True).network is not None


def test_the_packages_are_those_that_this_one_depends_on() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = {line.split(">")[0].split("[")[0] for line in project["dependencies"]}
    assert set(PACKAGES) == {"lit_ft", *names} - {"jsonargparse", "scikit-learn"} | {"sklearn"}
