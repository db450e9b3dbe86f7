"""Real projects with each callback: right, bit by bit, or refused in one line; ``make test-foreign``."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.foreign.projects import PROJECTS, callbacks, outcome

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


@cache
def plain(project: str) -> dict[str, Any]:
    return PROJECTS[project].train()


@pytest.mark.parametrize("callback", callbacks("enc"))
@pytest.mark.parametrize("project", PROJECTS)
def test_a_callback_is_right_or_refused(project: str, callback: str, tmp_path: Path) -> None:
    one = PROJECTS[project]
    said = outcome(one, callbacks(one.place)[callback](str(tmp_path)), plain(project))
    why = REFUSED.get(project, {}).get(callback)
    if why is None:
        assert said == "right"
    else:
        assert said.startswith("refused: ")
        assert why in said
