import json

import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.embedding.sentence_encoder import sentence_encoder
from lit_ft.models import tokenizer
from lit_ft.tokens.pooling import pool

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "tokenizer": "bytes"}  # fmt: skip
HIDDEN = torch.tensor([[[1.0, -9.0], [3.0, -7.0], [5.0, -5.0]], [[2.0, 2.0], [4.0, 4.0], [6.0, 8.0]]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[2.0, -8.0], [5.0, 6.0]]),
        ("max", [[3.0, -7.0], [6.0, 8.0]]),
        ("cls", [[1.0, -9.0], [4.0, 4.0]]),
        ("last", [[3.0, -7.0], [6.0, 8.0]]),
    ],
)
def test_pooling_by_hand_with_padding_on_either_side(pooling, expected):
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert pool(HIDDEN, mask, pooling).tolist() == expected


def test_a_saved_encoder_is_the_same_again(tmp_path):
    spec = Network(config={**BERT})
    encoder = sentence_encoder(spec, pooling="max", normalize=False).eval()
    encoder.save_pretrained(tmp_path)
    again = sentence_encoder(Network(path=str(tmp_path))).eval()
    assert (again.pooling, again.normalize) == ("max", False)
    batch = tokenizer(spec)(["one", "another text"], padding=True, return_tensors="pt")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    assert torch.equal(encoder(**inputs), again(**inputs))
    with pytest.raises(ConfigError, match="pooling"):
        sentence_encoder(spec, pooling="median")


@pytest.mark.parametrize(
    ("mode", "expected"), [("lasttoken", "last"), (["cls"], "cls"), (["cls", "mean"], None), ("weightedmean", None)]
)
def test_folders_of_sentence_transformers_6(mode, expected, tmp_path):
    """What version 6.2 writes: other module paths, and one pooling by name where there were flags."""
    names = ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling"]
    paths = ["", "1_Pooling"]
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.{names[i]}"} for i in (0, 1)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    settings = {"embedding_dimension": 16, "pooling_mode": mode, "include_prompt": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    spec = Network(config={**BERT})
    sentence_encoder(spec).encoder.save_pretrained(tmp_path)
    if expected is None:
        with pytest.raises(ConfigError, match="pooling"):
            sentence_encoder(Network(path=str(tmp_path)))
        return
    loaded = sentence_encoder(Network(path=str(tmp_path)))
    assert (loaded.pooling, loaded.normalize) == (expected, False)
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="Dense"):
        sentence_encoder(Network(path=str(tmp_path)))


@pytest.mark.real
def test_the_packaged_encoder_knows_what_is_alike():
    spec = Network(path="packaged:all-MiniLM-L6-v2")
    encoder = sentence_encoder(spec).eval()
    assert (encoder.pooling, encoder.normalize) == ("mean", True)
    texts = ["a man plays a guitar", "someone plays an instrument", "the stocks fell today"]
    batch = tokenizer(spec)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        guitar, instrument, stocks = encoder(batch["input_ids"], batch["attention_mask"])
    assert torch.allclose(guitar.norm(), torch.tensor(1.0))
    assert guitar @ instrument > 0.5 > 0.2 > guitar @ stocks
