"""Offsets of heads: what is trained, that they are offsets, and that they fold."""

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

from lit_ft.callbacks import HeadOffsets
from lit_ft.classification.batches import LabelledTextBatch
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import Heads, SavedSelection
from lit_ft.methods import TextClassifier
from lit_ft.sources.batching import shuffled_batches
from lit_ft.sources.loader import make_loader
from lit_ft.sparse.head_offsets import _HeadOffsets, _HeadScales
from lit_ft.testing import assert_resumes, fit_foreign

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
LLAMA = {"model_type": "llama", **SIZES, "num_key_value_heads": 2, "pad_token_id": 0}
BERT = {"model_type": "bert", **SIZES}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40, "pad_token_id": 0}
FRESH = {"llama": ["score.*"], "gpt2": ["score.*"], "bert": ["classifier.*"]}
OUTPUT = {"llama": "self_attn.o_proj", "gpt2": "attn.c_proj", "bert": "attention.output.dense"}


class Words(pl.LightningDataModule):
    """Rows of tokens in an order that resumes exactly; the label is whether the first is small."""

    batch = LabelledTextBatch

    def _loader(self, training: bool) -> Any:
        ids = torch.randint(1, 40, (44, 5), generator=torch.Generator().manual_seed(0))
        rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": (i[0] < 20).long()} for i in ids]
        plan = shuffled_batches(44, 4, seed=5, shuffle=training)
        return make_loader(rows, plan, default_collate, seed=5, training=training)  # type: ignore[arg-type]

    def train_dataloader(self) -> Any:
        return self._loader(True)

    def val_dataloader(self) -> Any:
        return self._loader(False)


def classifier(config: dict[str, Any], lr: float = 0.05) -> TextClassifier:
    pl.seed_everything(0, verbose=False)
    bias = config["model_type"] == "llama"
    network = {"config": config, "attention_bias": bias}
    module = TextClassifier(network, num_classes=2, optimizer=lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=0.1))  # type: ignore[arg-type]
    module.configure_model()
    return module


def logits(module: Any, ids: torch.Tensor) -> torch.Tensor:
    module.eval()
    with torch.no_grad():
        return module(ids, torch.ones_like(ids))


@pytest.mark.parametrize("config", [LLAMA, BERT, GPT2], ids=lambda config: config["model_type"])
def test_only_the_chosen_heads_move_and_they_fold_exactly(config: dict[str, Any], tmp_path: Path) -> None:
    module = classifier(config)
    base, kind = copy.deepcopy(module), config["model_type"]
    callback = HeadOffsets(first_steps=6, density=0.25, dense=FRESH[kind], file="heads.safetensors")
    fit_foreign([callback], module=module, data=Words(), default_root_dir=tmp_path)
    assert len(callback.heads) == 2
    assert callback.report()["numbers"] == 2 * 4
    later = HeadOffsets()  # as in a test after the fit
    later.load_state_dict(callback.state_dict())
    assert later.report() == callback.report()
    values = callback.state_dict()["values"]
    before = dict(base.named_parameters())
    names = {f"network.{name.removesuffix('.weight')}.bias": name for name in values}
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad
        moves = names.get(name) in dict(callback.heads) or any(part.rstrip("*") in name for part in FRESH[kind])
        assert torch.equal(parameter, before[name]) != moves, name
    # by hand: the base with its fresh head, and offsets added to the inputs of the projections
    for name, parameter in module.named_parameters():
        if any(part.rstrip("*") in name for part in FRESH[kind]):
            before[name].data.copy_(parameter.data)
    for name, value in values.items():
        chosen = [head for place, head in callback.heads if place == name]
        hand = value["offsets"].view(4, 4)
        assert not value["scales"].any()
        assert {int(head) for head in hand.any(1).nonzero()} == set(chosen)
        owner = base.network.get_submodule(name.removesuffix(".weight"))  # type: ignore[union-attr]
        owner.register_forward_pre_hook(lambda _, args, v=value["offsets"]: (args[0] + v,))
    ids = torch.randint(1, 40, (6, 5))
    assert torch.allclose(logits(module, ids), logits(base, ids), atol=1e-6)
    assert not torch.allclose(logits(module, ids), logits(classifier(config), ids), atol=1e-2)
    # the file names the same heads
    again = HeadOffsets(selection=SavedSelection(str(tmp_path / "heads.safetensors")))
    fit_foreign([again], module=classifier(config), data=Words(), max_steps=1)
    assert again.heads == callback.heads
    # a plain folder
    module.network.save_pretrained(tmp_path / "plain")  # type: ignore[union-attr, operator]
    loaded = type(module.network).from_pretrained(tmp_path / "plain")  # type: ignore[union-attr]
    loaded.eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, logits(module, ids))


def test_zero_offsets_are_the_same_network() -> None:
    module, ids = classifier(LLAMA, lr=0.0), torch.randint(1, 40, (3, 5))
    before = logits(module, ids)
    fit_foreign([HeadOffsets(selection=Heads({0: [1]}))], module=module, data=Words(), max_steps=3)
    assert torch.equal(logits(module, ids), before)


def test_scales_multiply_what_a_head_gives_and_offsets_are_added() -> None:
    inputs, layer = torch.randn(5, 8), nn.Linear(8, 3)
    scales, offsets = _HeadScales(layer.weight, 1), _HeadOffsets(layer.weight, 1)
    nn.init.normal_(scales.scales)
    nn.init.normal_(offsets.offsets)
    offsets.on, offsets.chosen = True, torch.arange(8) // 4 == 1
    out = nn.functional.linear(inputs, scales(layer.weight), layer.bias)
    assert torch.allclose(out, layer(inputs * (1 + scales.scales)), atol=1e-6)
    moved = nn.functional.linear(inputs, layer.weight, offsets(layer.bias))
    assert torch.allclose(moved, layer(inputs + offsets.offsets * offsets.chosen), atol=1e-6)


@pytest.mark.filterwarnings("ignore:HeadOffsets. the run ended in its first phase:UserWarning")
def test_the_penalty_reaches_the_scales() -> None:
    sums = []
    for penalty in (0.0, 10.0):
        callback = HeadOffsets(first_steps=20, penalty=penalty)
        module = classifier(BERT)
        module.optimizer = lambda p: torch.optim.SGD(p, lr=1e-3)  # type: ignore[assignment, return-value]
        fit_foreign([callback], module=module, data=Words(), max_steps=20)
        sums.append(sum(float(v["scales"].abs().sum()) for v in callback.state_dict()["values"].values()))
    assert sums[1] > 10 * sums[0]  # around 0 the sign pushes each scale over by lr * penalty


@pytest.mark.parametrize("crash_at", [4, 13])  # in either phase
def test_resume(tmp_path: Path, crash_at: int) -> None:
    def make() -> HeadOffsets:
        return HeadOffsets(first_steps=8, density=0.25, dense=FRESH["llama"])

    assert_resumes(make, tmp_path, crash_at, make_module=lambda: classifier(LLAMA), make_data=Words)


def test_accumulation_clipping_and_bf16() -> None:
    for trainer in ({"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}):
        module = classifier(BERT)
        start = {name: p.clone() for name, p in module.named_parameters()}
        callback = HeadOffsets(first_steps=2, density=0.25)
        fit_foreign([callback], module=module, data=Words(), **trainer)  # type: ignore[arg-type]
        moved = {name for name, p in module.named_parameters() if not torch.equal(p, start[name])}
        assert moved == {f"network.{name.removesuffix('.weight')}.bias" for name, _ in callback.heads}


def test_bad_input() -> None:
    for arguments in ({"density": 0.0}, {"penalty": -1.0}, {"first_steps": 0}):
        with pytest.raises(ConfigError):
            HeadOffsets(**arguments)
    with pytest.raises(ConfigError, match="number of heads"):
        fit_foreign([HeadOffsets()], max_steps=1)
    bare = TextClassifier({"config": LLAMA}, num_classes=2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="attention_bias: true"):
        fit_foreign([HeadOffsets()], module=bare, data=Words(), max_steps=1)
    with pytest.raises(ConfigError, match="attention_bias"):
        TextClassifier({"config": BERT, "attention_bias": True}, num_classes=2).configure_model()  # type: ignore[arg-type]
