"""Examples in docstrings run, and give the results that they show."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): text
    for path in sorted((ROOT / "lit_ft").rglob("*.py"))
    if ">>> " in (text := path.read_text())
}
# every public name of these has an example
COVERED = (
    *("lit_ft.callbacks", "lit_ft.methods", "lit_ft.data", "lit_ft.metrics", "lit_ft.testing"),
    *("lit_ft.core.selection", "lit_ft.core.schedules", "lit_ft.core.curvature"),
)
pytestmark = pytest.mark.draws
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.filterwarnings("ignore:.*tensorboardX")  # an example leaves the logger out where it matters
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_give_what_they_show(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example knows the names of its module, ``torch`` and ``nn``; files go to a folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    runner, failures = doctest.DocTestRunner(optionflags=FLAGS), []
    found = doctest.DocTestFinder().find(importlib.import_module(name), extraglobs={"torch": torch, "nn": nn})
    for example in found:
        torch.manual_seed(0)
        torch.set_printoptions(profile="default", precision=4, sci_mode=False)
        runner.run(example, out=failures.append)
    assert not failures, "".join(failures)
    assert runner.tries, f"the examples of {name} are not in the docstrings of its own classes and functions"


@pytest.mark.parametrize("name", COVERED)
def test_every_public_name_has_an_example(name: str) -> None:
    module = importlib.import_module(name)
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == name and key[0] != "_"]
    public = getattr(module, "__all__", own)
    assert public
    assert not [key for key in public if ">>> " not in (getattr(module, key).__doc__ or "")]


def test_references_point_at_what_is_there() -> None:
    wrong = []
    for name, text in EXAMPLES.items():
        for target in re.findall(r":(?:class|func|mod|meth):`~?([\w.]+)`", text):
            try:
                pkgutil.resolve_name(target if target.startswith("lit_ft.") else f"{name}.{target}")
            except (ImportError, AttributeError):
                wrong.append(f"{name}: {target}")
    assert not wrong, wrong
