import lightning.pytorch as pl
import pytest
import torch

from lit_ft.data import RedundantDigits
from lit_ft.methods import GroupedClassifier
from lit_ft.testing import assert_resumes

MLP = {"config": {"model_type": "mlp", "width": 8, "depth": 1}}


def test_test_accuracies_are_those_by_hand(tmp_path):
    torch.manual_seed(0)
    method = GroupedClassifier(MLP, optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
    data = RedundantDigits(rows=300, correlation=0.95, flat=True, batch_size=50)
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(method, data)
    (found,) = trainer.test(method, data, verbose=False)
    right = {group: [] for group in range(4)}
    for image, label, group in data.rows["test"]:
        right[group].append(float(method(image[None]).argmax() == label))
    assert found["test/worst_group"] == pytest.approx(min(sum(r) / len(r) for r in right.values()))
    assert found["test/accuracy"] == pytest.approx(sum(map(sum, right.values())) / 300)
    assert found["test/worst_group"] < found["test/accuracy"]


def test_resumes(tmp_path):
    assert_resumes(
        lambda: pl.Callback(),
        tmp_path,
        make_module=lambda: GroupedClassifier(MLP, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        make_data=lambda: RedundantDigits(rows=80, correlation=0.9, flat=True, batch_size=10),
        crash_at=11,
    )
