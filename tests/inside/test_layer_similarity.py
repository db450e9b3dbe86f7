"""What changes in which layer, on a small BERT whose lower blocks are frozen."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from lit_ft.callbacks import GradientMask, LayerSimilarity
from lit_ft.classification.batches import LabelledTextBatch
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Layers
from lit_ft.inside.similarity import linear_cka
from lit_ft.methods import TextClassifier
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.testing import fit_foreign

BERT = {"model_type": "bert", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
BERT |= {"num_attention_heads": 4, "vocab_size": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Words(pl.LightningDataModule):
    """Ragged rows of tokens; the label is whether the first is small."""

    batch = LabelledTextBatch

    def _rows(self, count: int, seed: int) -> DataLoader[Any]:
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(1, 40, (count, 6), generator=draw)
        mask = (torch.arange(6) < torch.randint(2, 7, (count, 1), generator=draw)).long()
        rows = [
            {"input_ids": i, "attention_mask": m, "labels": (i[0] < 20).long()} for i, m in zip(ids, mask, strict=True)
        ]
        return DataLoader(rows, batch_size=8)  # type: ignore[arg-type]

    def train_dataloader(self) -> Any:
        return self._rows(64, 0)

    def val_dataloader(self) -> Any:
        return self._rows(40, 1)


def classifier() -> TextClassifier:
    return TextClassifier({"config": BERT}, num_classes=2, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))  # type: ignore[arg-type]


def test_frozen_layers_stay_and_the_others_change() -> None:
    similarity = LayerSimilarity(num_rows=30)
    module = classifier()
    mask = GradientMask(Layers(start=2, head=True))
    _, trainer = fit_foreign([mask, similarity], module=module, data=Words(), max_epochs=2)
    found = similarity.report()
    assert set(found) == {"cka", "rsa", "probe_before", "probe_after"}
    for key in ("cka", "rsa"):
        assert [found[key][layer] for layer in "01"] == pytest.approx([1.0, 1.0], abs=1e-9)
        assert found[key]["2"] < 0.999
    assert [found["probe_before"][layer] == found["probe_after"][layer] for layer in "01"] == [True, True]
    logged = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("layer_")}
    assert logged == pytest.approx({f"layer_similarity/{layer}": value for layer, value in found["cka"].items()})
    figure = similarity.plots({})["layers before and after"]
    assert len(figure.axes[0].lines) == 4


def test_the_features_are_hidden_states_without_padding() -> None:
    """Against the network's own hidden states, before the first step and after the last."""
    similarity, module = LayerSimilarity(num_rows=20), classifier()
    batches = list(Words().val_dataloader())

    def hidden() -> torch.Tensor:
        parts = []
        with torch.no_grad():
            for batch in batches:
                states = module.network(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)  # type: ignore[misc]
                weights = batch["attention_mask"][..., None]
                parts.append((states.hidden_states[2] * weights).sum(1) / weights.sum(1))
        return torch.cat(parts)[:20]

    module.configure_model()
    module.eval()
    before = hidden()
    fit_foreign([similarity], module=module, data=Words(), max_epochs=1)
    module.eval()
    assert similarity.report()["cka"]["1"] == pytest.approx(linear_cka(before, hidden()), abs=1e-5)
    assert similarity.report()["cka"]["1"] < 0.999


def test_the_end_is_in_the_last_checkpoint(tmp_path: Path) -> None:
    """Also where there is no validation; a checkpoint and the report are written before later callbacks' turn."""
    similarity = LayerSimilarity(["model.0", "model.4"], num_rows=8)
    fit_foreign([similarity], tmp_path, limit_val_batches=0, max_epochs=1)
    last, _ = newest_whole(tmp_path / "checkpoints")
    assert last is not None
    saved = torch.load(last, weights_only=True)["callbacks"]["LayerSimilarity"]["found"]
    assert saved["cka"] == similarity.report()["cka"]
    assert saved["cka"]["model.0"] < 1


def test_bad_input() -> None:
    for arguments in ({"modules": []}, {"num_rows": 2}):
        with pytest.raises(ConfigError):
            LayerSimilarity(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no blocks"):
        fit_foreign([LayerSimilarity()], max_steps=1)
