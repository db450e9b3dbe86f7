"""Real projects with each callback: right, bit by bit, or refused in one line; ``make test-foreign``."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.foreign.projects import PROJECTS, callbacks, outcome, resumed

for name in ("lightning.pytorch", "pytorch_lightning"):
    logging.getLogger(name).setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")

# what is refused, and why; everything else is right
NO_CLASSES = {"FeatureProbe": "class numbers", "KernelRegime": "class numbers"}
NO_LABELS = {"FeatureProbe": "batches with labels", "KernelRegime": "batches with labels"}
REFUSED: dict[str, dict[str, str]] = {
    "TFT": NO_CLASSES,
    "N-BEATS": NO_CLASSES,
    "DeepAR": NO_CLASSES,
    "chemprop": {"KernelRegime": "cut into rows"},
    "PyG": {"KernelRegime": "cut into rows"},
    "scVI, adversarial": {"SAM": "by hand", "EdgeOfStability": "by hand"},
    "GluonTS": NO_LABELS,
    "N-HiTS": NO_LABELS,
    "darts": NO_LABELS,
}
# what a run needs to go on exactly, and no checkpoint of Lightning holds
NOT_SAVED = {
    "GluonTS": "one stream of windows goes through all epochs, and its loader tells no state",
    "MoCo": "the memory bank of its loss is a buffer that is not persistent",
}


@cache
def plain(project: str) -> dict[str, Any]:
    return PROJECTS[project].train()


CELLS = [(name, key) for name, one in PROJECTS.items() for key in callbacks(one)]


@pytest.mark.parametrize(("project", "callback"), CELLS)
def test_a_callback_is_right_or_refused(project: str, callback: str, tmp_path: Path) -> None:
    one = PROJECTS[project]
    said = outcome(plain(project), one.train, callbacks(one)[callback](str(tmp_path)))
    why = REFUSED.get(project, {}).get(callback)
    if why is None:
        assert said == "right"
    else:
        assert said.startswith("refused: ")
        assert why in said


@pytest.mark.parametrize("project", [name for name, one in PROJECTS.items() if one.make is not None])
def test_a_run_that_goes_on_ends_as_one_that_nobody_stopped(project: str, tmp_path: Path) -> None:
    expected = "WRONG: the weights differ" if project in NOT_SAVED else "right"
    assert resumed(PROJECTS[project], str(tmp_path)) == expected
