"""A fine-tuned encoder as a folder of other libraries: the same vectors, whoever loads it."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lit_ft.command.cli import command
from lit_ft.command.run import load_run
from lit_ft.command.run_folders import find_checkpoint
from lit_ft.sources.assets import packaged

TEXTS = ["a man plays a guitar", "stocks fell", "someone plays an instrument, loudly, in the middle of the night"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """MiniLM after one step, exported, and its vectors of TEXTS."""
    folder = tmp_path_factory.mktemp("export")
    rows = [{"anchor": f"what is {word}", "positive": f"{word} is a thing"} for word in "abcdefgh"]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = {
        "model": {
            "class_path": "SentenceEmbedding",
            "init_args": {
                "network": {"path": "packaged:all-MiniLM-L6-v2"},
                "optimizer": {"class_path": "AdamW", "init_args": {"lr": 1e-3}},
            },
        },
        "data": {"class_path": "TextPairs", "init_args": {"path": str(folder / "pairs.jsonl"), "val_fraction": 0.0}},
        "trainer": {"max_steps": 1},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    run = folder / "run"
    assert command(["fit", "-c", str(folder / "config.yaml"), f"--run_dir={run}", "--debug"]) == 0
    assert command(["export", str(run), "--to", str(folder / "encoder"), "--debug"]) == 0
    return folder / "encoder", load_run(run).model.encode(TEXTS)


def test_head_offsets_are_a_bias_that_transformers_loads(tmp_path: Path) -> None:
    """By hand: the projections without their bias, and the offsets of the checkpoint added to what goes into them."""
    from transformers import AutoModelForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    spec = {"config": {"model_type": "llama", "tokenizer": "bytes", **sizes}, "attention_bias": True}
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.05}}
    offsets = {"class_path": "HeadOffsets", "init_args": {"first_steps": 4, "density": 0.25}}
    config = {
        "model": {"class_path": "SupervisedFineTuning", "init_args": {"network": spec, "optimizer": adam}},
        "data": {"class_path": "KnownFacts", "init_args": {"facts": 20}},
        "trainer": {"max_steps": 12, "max_epochs": -1, "limit_val_batches": 0, "callbacks": [offsets]},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    run, folder = tmp_path / "run", tmp_path / "llama"
    assert command(["fit", "-c", str(tmp_path / "config.yaml"), f"--run_dir={run}", "--debug"]) == 0
    assert command(["export", str(run), "--to", str(folder), "--debug"]) == 0
    ids = torch.arange(24).view(2, 12)
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert network.config.attention_bias
    trained = load_run(run).model.network.eval()
    state = torch.load(find_checkpoint("last", run), weights_only=True)["callbacks"]
    (values,) = [value["values"] for key, value in state.items() if key.startswith("HeadOffsets")]
    with torch.no_grad():
        found = network(ids).logits
        torch.testing.assert_close(found, trained(ids).logits, rtol=0, atol=1e-6)
        moved = 0
        for name, value in values.items():
            projection = network.get_submodule(name.removesuffix(".weight"))
            projection.bias.zero_()
            projection.register_forward_pre_hook(lambda _, args, v=value["offsets"]: (args[0] + v,))
            moved += int(value["offsets"].view(4, 4).any(1).sum())
        assert moved == 2
        torch.testing.assert_close(found, network(ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("template", ["echo", None])
def test_that_a_template_does_not_go_along_is_said(
    template: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        "\n".join(json.dumps({"anchor": f"{i}?", "positive": str(i)}) for i in range(4))
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = {"config": {"model_type": "llama", "tokenizer": "bytes", **sizes}}
    data = {"path": str(tmp_path / "pairs.jsonl"), "template": template, "val_fraction": 0.0, "max_length": 8}
    config = {
        "model": {"class_path": "SentenceEmbedding", "init_args": {"network": network}},
        "data": {"class_path": "TextPairs", "init_args": data},
        "trainer": {"max_steps": 1},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert command(["fit", "-c", str(tmp_path / "config.yaml"), f"--run_dir={tmp_path / 'run'}", "--debug"]) == 0
    assert command(["export", str(tmp_path / "run"), "--to", str(tmp_path / "encoder"), "--debug"]) == 0
    assert ("within a template" in capsys.readouterr().out) == (template is not None)


@pytest.mark.real
def test_transformers_alone_loads_it(exported: tuple[Path, torch.Tensor]) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder, vectors = exported
    words, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = words(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = encoder(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    torch.testing.assert_close(F.normalize((hidden * mask).sum(1) / mask.sum(1)), vectors, rtol=0, atol=2e-6)
    start = AutoModel.from_pretrained(packaged("all-MiniLM-L6-v2"))
    assert not torch.equal(encoder.embeddings.LayerNorm.bias, start.embeddings.LayerNorm.bias)


@pytest.mark.real
def test_sentence_transformers_loads_it(exported: tuple[Path, torch.Tensor]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder, vectors = exported
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    found = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
    torch.testing.assert_close(found.clone(), vectors, rtol=0, atol=2e-6)
