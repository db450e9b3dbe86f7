import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Output
from lit_ft.data import Digits, GaussianClusters, RedundantDigits, SideBySide
from lit_ft.methods import GroupedClassifier
from lit_ft.testing import fit_foreign

MLP = {"config": {"model_type": "mlp", "width": 8, "depth": 1}}


def test_who_looks_at_the_easy_image_alone_has_no_right_row_in_the_worst_group(tmp_path):
    """In closed form: all rows right where the two agree, none where they do not, half of all."""
    method = GroupedClassifier(MLP)

    def easy(batch):
        attributes = batch["groups"] % 2
        logits = torch.nn.functional.one_hot(attributes, 2).float()
        return Output(logits.sum() * 0, logits, torch.stack([batch["labels"], batch["groups"]], 1))

    method.compute = easy
    data = SideBySide(Digits(), Digits(), [[0], [1]], [[2, 4], [3, 5]], rows=300, correlation=0.95, batch_size=70)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    (found,) = trainer.test(method, data, verbose=False)
    agree = [group in (0, 3) for _, _, group in data.rows["test"]]
    assert found["test/worst_group"] == 0
    assert found["test/accuracy"] == pytest.approx(sum(agree) / 300)


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


def test_data_without_groups_are_refused() -> None:
    method = GroupedClassifier(MLP)
    with pytest.raises(ConfigError, match="batches with groups"):
        fit_foreign([], module=method, data=GaussianClusters(rows=40, classes=2), max_steps=1)
