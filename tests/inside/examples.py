"""The callbacks and metrics of this family in small."""

from typing import Any

import torch

from lit_ft.callbacks import Calibration, FeatureProbe, Forgetting, KernelRegime, LayerSimilarity
from lit_ft.metrics import ContinualScores, ImportanceLorenz
from lit_ft.testing import ForeignData
from tests.example import OfCallback, OfMetric, drawn


class Ragged(ForeignData):
    """Old rows in batches of unequal size."""

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(20, 6, generator=generator), torch.arange(20) % 3

    def val_dataloader(self) -> Any:
        x, y = self.rows()
        return [(x[:3], y[:3]), (x[3:17], y[3:17]), (x[17:], y[17:])]


def forgetting(steps: int) -> Forgetting:
    return Forgetting({"old": Ragged(), "new": ForeignData(12)}, every_n_steps=steps)


def measuring(make: Any, **more: Any) -> OfCallback:
    """A callback that measures: as it is used, a run is as without it."""
    return OfCallback(make, no_op=make, **more)


EXAMPLES = {
    "Calibration": measuring(lambda: Calibration("model")),
    "ContinualScores": OfMetric(
        lambda: ContinualScores([0.1] * 6), lambda n: (drawn(n)(6).tolist(),), of_nothing=False, shared=False
    ),
    "FeatureProbe": measuring(lambda: FeatureProbe("model.2", at_validation=True)),
    "Forgetting": measuring(lambda: forgetting(3), lasting=lambda: forgetting(7)),
    "ImportanceLorenz": OfMetric(ImportanceLorenz, lambda n: (drawn(n)(6, 3), drawn(n)(6, below=3))),
    "KernelRegime": measuring(lambda: KernelRegime("model", every_n_steps=3)),
    "LayerSimilarity": measuring(lambda: LayerSimilarity(["model.0", "model.2"], num_rows=20), one_process=True),
}
