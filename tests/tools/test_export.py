"""A fine-tuned encoder as a folder of other libraries: the same vectors, whoever loads it."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lit_ft.cli import command
from lit_ft.data.sources.assets import packaged
from lit_ft.run import load_run

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
