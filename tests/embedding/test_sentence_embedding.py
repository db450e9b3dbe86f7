"""Embeddings: chunks equal the whole batch, the echo sees the whole text, encode equals one by one."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.embedding.contrastive import InBatchContrastive, Vectors
from lit_ft.embedding.sentence_embedding import SentenceEmbedding
from lit_ft.embedding.text_pairs import ECHO, TextPairs, checked_template, encode_texts
from lit_ft.models.byte_tokenizer import byte_tokenizer

LLAMA = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
ROWS = [{"anchor": "a" * (1 + i), "positive": "b" * (9 - i), "negative": "c" * (2 + i % 3)} for i in range(8)]


def method(**arguments: Any) -> SentenceEmbedding:
    torch.manual_seed(0)
    made = SentenceEmbedding({"config": dict(LLAMA)}, pooling="mean", **arguments)
    made.configure_model()
    return made


def data(folder: Path, owner: SentenceEmbedding, **arguments: Any) -> TextPairs:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    made = TextPairs(str(path), negatives=["negative"], batch_size=8, val_fraction=0.0, **arguments)
    made.trainer = type("T", (), {"lightning_module": owner})()
    made.setup("fit")
    return made


def test_chunks_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    gradients = []
    for size in (None, 3):
        owner = method(chunk_size=size)
        batch = next(iter(data(tmp_path, owner, template="echo").train_dataloader()))
        output = owner.compute(batch)
        output.loss.backward()
        gradients.append([output.loss.detach(), *(p.grad for p in owner.parameters())])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-7)


def test_similarities_are_exact_under_autocast(tmp_path: Path) -> None:
    owner = method(loss=InBatchContrastive(scale=50.0))
    batch = next(iter(data(tmp_path, owner).train_dataloader()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = owner.compute(batch).loss
        texts = owner._all(batch).float()
    vectors = Vectors(texts[:8], texts[8:16], texts[16:].unsqueeze(1), batch["keys"])
    assert torch.equal(found, owner.loss(vectors).mean())


def test_texts_go_through_by_length_and_come_back_in_their_order(tmp_path: Path) -> None:
    owner = method().eval()
    batch = next(iter(data(tmp_path, owner).train_dataloader()))
    found = owner.predict_step(batch, 0).transpose(0, 1).flatten(0, 1)
    alone = torch.cat([owner.embed(batch, slice(i, i + 1)) for i in range(len(batch["input_ids"]))])
    assert len(alone) == 24  # three parts of eight
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


def test_the_echo_sees_the_end_of_the_text_and_the_first_time_does_not() -> None:
    owner = method().eval()
    texts = ["same start, end one", "same start, end two"]
    first = [*ECHO[:1], ECHO[1].__class__("{text}", embed=True), *ECHO[2:3], ECHO[3].__class__("{text}")]
    for template, alike in ((first, True), (list(ECHO), False)):
        encoded = encode_texts(owner.tokenizer, texts, template, 64)
        hidden = [
            owner.network.encoder(torch.tensor([e.input_ids])).last_hidden_state[0, e.embed.index(True)]  # type: ignore[union-attr]
            for e in encoded
        ]
        assert torch.equal(*hidden) is alike


def test_both_copies_are_cut_alike() -> None:
    encoded = encode_texts(method().tokenizer, ["abcdefgh"], list(ECHO), 3)[0]
    text = method().tokenizer.decode(encoded.input_ids)
    assert text == "Rewrite the sentence: abc, rewritten sentence: abc"
    assert sum(encoded.embed) == 3


def test_encode_equals_one_by_one() -> None:
    owner = method()
    texts = ["a", "some longer text", "mid one", "x" * 40]
    found = owner.encode(texts, list(ECHO), tokens_per_batch=150)
    single = torch.cat([owner.encode([text], list(ECHO)) for text in texts])
    torch.testing.assert_close(found, single, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    assert owner.encode([]).shape == (0, 16)
    assert torch.equal(owner.encode(texts, "echo", tokens_per_batch=150), found)
    with pytest.raises(ConfigError, match="template: given 'ecko'"):
        owner.encode(texts, "ecko")
    for none in ([""], ["a", ""]):  # no token at all, beside others or not
        with pytest.raises(ConfigError, match=f"number {len(none)}"):
            owner.encode(none)


def test_vectors_of_products_in_half_precision_are_near() -> None:
    owner, texts = method(), ["a", "some longer text", "mid one", "x" * 40]
    exact = owner.encode(texts)
    for dtype in ("bfloat16", torch.bfloat16):
        found = owner.encode(texts, dtype=dtype)
        assert found.dtype == torch.float32
        assert not torch.equal(found, exact)
        assert torch.nn.functional.cosine_similarity(found, exact).min() > 0.9999
    assert torch.equal(owner.encode(texts[0], dtype="bfloat16"), owner.encode(texts[:1], dtype="bfloat16")[0])
    for wrong in ("bf16", torch.int8):
        with pytest.raises(ConfigError, match=r"dtype: given .*bfloat16, float16, or None"):
            owner.encode(texts, dtype=wrong)


def test_learns_to_find_the_positive(tmp_path: Path) -> None:
    owner = method(loss=InBatchContrastive(scale=20))
    owner.optimizer = lambda params: torch.optim.AdamW(params, lr=1e-2)
    path = tmp_path / "pairs.jsonl"
    rows = [{"anchor": f"{c}{c}{c}", "positive": f"{c.upper()} {c.upper()}"} for c in "abcdefghijklmnop"]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    trainer = pl.Trainer(
        max_steps=60, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(owner, datamodule=TextPairs(str(path), batch_size=16, val_fraction=0.0))
    assert trainer.callback_metrics["train/accuracy"] >= 0.9


def test_wrong_templates_and_empty_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="echo"):
        checked_template("ecco")
    with pytest.raises(ConfigError, match="embed"):
        checked_template([{"text": "{text}"}])
    path = tmp_path / "pairs.jsonl"
    for place in range(3):
        rows = [{"anchor": "a", "positive": "" if i == place else "b"} for i in range(3)]
        path.write_text("\n".join(map(json.dumps, rows)))
        made = TextPairs(str(path), template="echo", val_fraction=0.0)
        made.trainer = type("T", (), {"lightning_module": method()})()
        with pytest.raises(ConfigError, match=f"positive of train row {place + 1}"):
            made.setup("fit")


@pytest.mark.parametrize("column", ["anchor", "positive", "negative", "label"])
@pytest.mark.parametrize("wrong", [["a", "b"], {"text": "a"}, []])
def test_a_list_is_no_text_and_a_number_is_one(column: str, wrong: Any, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    for value in (wrong, 3):
        rows = [{"anchor": "a", "positive": "b", "negative": "c", "label": "d"} for _ in range(4)]
        rows[2][column] = value
        path.write_text("\n".join(map(json.dumps, rows)))
        made = TextPairs(str(path), negatives=["negative"], label="label", val_fraction=0.0)
        made.trainer = type("T", (), {"lightning_module": method()})()
        if value == 3:
            made.setup("fit")
        else:
            with pytest.raises(ConfigError, match=f"a text in '{column}', not a list or an object; see row 3 of"):
                made.setup("fit")


def test_one_text_is_one_vector() -> None:
    model = method()
    vector = model.encode("hello world")
    assert vector.shape == (16,)
    torch.testing.assert_close(vector, model.encode(["hello world"])[0])
    assert model.encode(iter(["a", "b"])).shape == model.encode(("a", "b")).shape == (2, 16)  # type: ignore[arg-type]
    for wrong in (["a", None], [1], [["a", "b"]], [b"a"]):
        with pytest.raises(ConfigError, match="a text, or a list of texts"):
            model.encode(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("template", [None, "echo"])
def test_texts_that_are_cut_are_counted(template: str | None, tmp_path: Path) -> None:
    rows = [{"anchor": "a" * 6, "positive": "b" * 30}, {"anchor": "c" * 10, "positive": "d" * 3}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = TextPairs(str(tmp_path / "rows.jsonl"), max_length=10, template=template, val_fraction=0.0, batch_size=2)
    data.tokenizer = byte_tokenizer()
    with pytest.warns(
        UserWarning, match="1 of 4 train texts are longer than max_length = 10 .* loses 41 % of all tokens"
    ):
        data.setup("fit")
