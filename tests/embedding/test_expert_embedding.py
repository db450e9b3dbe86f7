"""Experts by domain: the dense network before training, one network a domain afterwards."""

import json
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.data import TextPairs
from lit_ft.embedding.sentence_encoder import sentence_encoder
from lit_ft.methods import ExpertEmbedding, SentenceEmbedding
from lit_ft.running.processes import run_ranks
from lit_ft.sources.batching import homogeneous_batches

BERT = {
    "model_type": "bert", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
LLAMA = {k: v for k, v in BERT.items() if "dropout" not in k} | {"model_type": "llama"}
ROWS = [{"anchor": "a" * (1 + i), "positive": "b" * (9 - i % 9), "domain": "xy"[i % 2]} for i in range(12)]


def method(config: Any = BERT, kind: Any = ExpertEmbedding, **arguments: Any) -> Any:
    torch.manual_seed(0)
    made = kind({"config": dict(config)}, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), **arguments)
    torch.manual_seed(0)
    made.configure_model()
    return made


def data(folder: Path, owner: Any = None, **arguments: Any) -> TextPairs:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    made = TextPairs(str(path), **{"label": "domain", "batch_size": 4, "val_fraction": 0.0, **arguments})
    if owner is not None:
        made.trainer = type("T", (), {"lightning_module": owner})()
        made.setup("fit")
    return made


def fit(owner: Any, source: TextPairs, steps: int) -> None:
    pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    ).fit(owner, datamodule=source)  # fmt: skip


@pytest.mark.parametrize(("config", "copied"), [(BERT, 2144), (LLAMA, 3072)], ids=["bert", "llama"])
def test_untrained_experts_are_the_dense_network(tmp_path: Path, config: Any, copied: int) -> None:
    experts, dense = method(config), method(config, SentenceEmbedding)
    batch = next(iter(data(tmp_path, experts).train_dataloader()))
    assert set(batch["labels"].tolist()) == {0, 1}
    torch.testing.assert_close(experts.predict_step(batch, 0), dense.predict_step(batch, 0))
    extra = sum(p.numel() for p in experts.parameters()) - sum(p.numel() for p in dense.parameters())
    assert extra == copied  # the feed-forward weights of both layers, once more


def test_each_row_uses_the_expert_of_its_domain(tmp_path: Path) -> None:
    owner = method()
    with torch.no_grad():
        for name, parameter in owner.named_parameters():
            if "experts.1" in name:
                parameter.mul_(1.5)
    batch = next(iter(data(tmp_path, owner).train_dataloader()))
    found = owner.predict_step(batch, 0)
    for domain in (0, 1):
        alone = SentenceEmbedding(owner.network.dense(domain))
        alone.configure_model()
        rows = batch["labels"] == domain
        torch.testing.assert_close(found[rows], alone.predict_step(batch, 0)[rows], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found[~rows], alone.predict_step(batch, 0)[~rows], atol=1e-3)
    chunked = method(chunk_size=3)
    chunked.load_state_dict(owner.state_dict())
    for made in (owner, chunked):
        made.compute(batch).loss.backward()
    for (name, p), q in zip(owner.named_parameters(), chunked.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def test_a_step_moves_the_experts_of_its_batch_alone(tmp_path: Path) -> None:
    owner = method()
    fit(owner, data(tmp_path, homogeneous=True, batch_size=6), 1)
    moved = [
        not torch.equal(p, q) for (n, p), q in zip(owner.named_parameters(), method().parameters(), strict=True)
        if "experts.0" in n
    ]  # fmt: skip
    other = [
        not torch.equal(p, q) for (n, p), q in zip(owner.named_parameters(), method().parameters(), strict=True)
        if "experts.1" in n
    ]  # fmt: skip
    assert {all(moved), any(other)} == {True, False} or {any(moved), all(other)} == {True, False}


def test_exported_experts_load_as_dense_encoders(tmp_path: Path) -> None:
    owner = method()
    fit(owner, data(tmp_path), 3)
    owner.network.save_pretrained(tmp_path / "out")
    texts, vectors = ["abc", "b"], []
    for domain in (0, 1):
        folder = tmp_path / "out" / f"expert_{domain}"
        loaded = SentenceEmbedding(sentence_encoder(Network(path=str(folder))))  # type: ignore[arg-type]
        loaded._tokenizer = owner.tokenizer
        vectors.append(loaded.encode(texts))
        torch.testing.assert_close(vectors[-1], owner.encode_domain(texts, domain), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(*vectors, atol=1e-3)


def test_homogeneous_batches(tmp_path: Path) -> None:
    groups = [0, 1, 1, 2, 0, 1, 1, 1, 2, 0, 1]
    plan = homogeneous_batches(groups, 2)
    for epoch in range(3):
        batches = plan(epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(11))
        assert all(len({groups[row] for row in batch}) == 1 for batch in batches)
        assert batches == plan(epoch)
    assert plan(0) != plan(1)
    assert sum(map(len, homogeneous_batches(groups, 2, drop_last=True)(0))) == 10
    with pytest.raises(ConfigError, match="homogeneous"):
        TextPairs("x", homogeneous=True)
    made = data(tmp_path, homogeneous=True, batch_size=2, val_fraction=0.5)
    made.tokenizer = method().tokenizer
    made.setup("fit")
    validated = [batch["labels"].tolist() for batch in made.val_dataloader()]
    assert {len(set(labels)) for labels in validated} == {1}, "an expert is judged on its own domain"
    assert sum(map(len, validated)) == len(made.rows["val"])
    made = data(tmp_path, homogeneous=True, batch_size=500)
    made.tokenizer = method().tokenizer
    made.setup("fit")
    with pytest.warns(UserWarning, match=r"batches have \d+ rows in place of batch_size = 500: as many as domain = "):
        made.train_dataloader()


def test_what_has_no_expert_is_refused(tmp_path: Path) -> None:
    owner = method()
    batch = next(iter(data(tmp_path, owner, label=None).train_dataloader()))
    with pytest.raises(ConfigError, match="domain"):
        owner.compute(batch)
    with pytest.raises(ConfigError, match="2 or more"):
        ExpertEmbedding({"config": BERT}, experts=1)
    with pytest.raises(ConfigError, match="at least 3"):
        owner._all({**batch, "labels": torch.tensor([0, 1, 2, 0])})
    with pytest.raises(ConfigError, match="an expert for each row"):
        owner.network.encoder(batch["input_ids"])


def test_one_domain_is_encoded_where_the_experts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    owner, places = method(), []
    owner.to("meta")
    monkeypatch.setattr(SentenceEmbedding, "encode", lambda self, *_, **__: places.append(self.device))
    owner.encode_domain(["a"], 1)
    assert [place.type for place in places] == ["meta"]


def test_a_text_without_a_domain_is_refused() -> None:
    with pytest.raises(ConfigError, match="encode_domain"):
        method().encode(["a"])


UNUSED = "ddp_find_unused_parameters_true"


def on_a_rank(folder: str, strategy: str) -> dict[str, list[float]] | str:
    """Weights after homogeneous batches; the two ranks use different experts in some steps."""
    owner = method()
    trainer = pl.Trainer(
        max_steps=4, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False, strategy=strategy,
        enable_model_summary=False, enable_checkpointing=False, devices=2,
    )  # fmt: skip
    try:
        trainer.fit(owner, datamodule=data(Path(folder), homogeneous=True, batch_size=2))
    except ConfigError as error:
        return str(error)
    return {name: p.tolist() for name, p in owner.named_parameters()}


def both_strategies(folder: str) -> list[Any]:
    Path(folder, os.environ["RANK"]).mkdir()
    return [on_a_rank(f"{folder}/{os.environ['RANK']}", strategy) for strategy in ("ddp", UNUSED)]


def test_ranks_may_use_other_experts(tmp_path: Path) -> None:
    (refused, first), (_, second) = run_ranks(both_strategies, 2, str(tmp_path))
    assert UNUSED in refused, "plain DDP fails at the second step, or waits forever"
    assert first == second
    moved = {name for name, p in method().named_parameters() if p.tolist() != first[name]}
    assert {name for name in first if ".experts." in name and "weight" in name} <= moved
