import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.data import Digits, GaussianClusters, LabelledText
from lit_ft.methods import ImageClassifier, TextClassifier

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "tokenizer": "bytes", "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0}  # fmt: skip
MLP = {"model_type": "mlp", "width": 32, "depth": 1}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def trainer(tmp_path, **arguments):
    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                      default_root_dir=tmp_path, **arguments)  # fmt: skip


def vowels(tmp_path, n=400):
    """Whether a text has an e: learnable from bytes alone."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(n):
        letters = ["abcdfghi"[k] for k in torch.randint(8, (6 + i % 9,), generator=generator)]
        if i % 2:
            letters[int(torch.randint(len(letters), (), generator=generator))] = "e"
        rows.append({"text": "".join(letters), "label": ["without", "with"][i % 2]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LabelledText(str(tmp_path / "rows.jsonl"), batch_size=32)


def test_a_text_classifier_learns_and_loads_without_data(tmp_path):
    pl.seed_everything(0)
    data = vowels(tmp_path)
    method = TextClassifier({"config": BERT}, optimizer=lambda p: torch.optim.AdamW(p, lr=5e-3))
    run = trainer(tmp_path, max_epochs=12)
    run.fit(method, data)
    (result,) = run.test(method, data, verbose=False)
    assert method.num_classes == 2
    assert result["test/accuracy"] > 0.9, "chance is 0.5"
    again = TextClassifier.load_from_checkpoint(run.checkpoint_callback.best_model_path, weights_only=True)
    assert again.num_classes == 2
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(again.eval().compute(batch).predictions, method.eval().compute(batch).predictions)
    assert again.hparams["num_classes"] == 2


def test_validation_accuracy_and_loss_are_those_of_all_rows(tmp_path):
    data = vowels(tmp_path, 90)
    method = TextClassifier({"config": BERT})
    run = trainer(tmp_path, max_steps=1, enable_checkpointing=False, num_sanity_val_steps=0)
    run.fit(method, data)
    method.eval()
    logits, labels = [], []
    for row in data.rows["val"]:
        logits.append(method(row[0][None], torch.ones_like(row[0])[None]))
        labels.append(row[1])
    logits, labels = torch.cat(logits), torch.tensor(labels)
    (logged,) = run.validate(method, data, verbose=False)
    assert logged["val/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert logged["val/accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())


def test_features_are_the_mean_over_real_tokens(tmp_path):
    method = TextClassifier({"config": BERT}, num_classes=2)
    method.configure_model()
    method.eval()
    ids = torch.tensor([[20, 21, 22, 0, 0]])
    padded = method.features({"input_ids": ids, "attention_mask": (ids != 0).long()})
    alone = method.network.base_model(ids[:, :3], torch.ones(1, 3)).last_hidden_state.mean(1)
    torch.testing.assert_close(padded, alone)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_losses_by_hand(loss):
    method = ImageClassifier({"config": MLP}, num_classes=3, input_shape=[5], loss=loss)
    method.configure_model()
    batch = {"images": torch.randn(4, 5), "labels": torch.tensor([0, 2, 1, 2])}
    output = method.compute(batch)
    total = 0.0
    for scores, label in zip(output.predictions.tolist(), batch["labels"].tolist(), strict=True):
        scores = torch.tensor(scores, dtype=torch.float64)
        if loss == "cross_entropy":
            total += float(scores.exp().sum().log() - scores[label])
        else:
            total += sum(0.5 * (float(s) - (k == label)) ** 2 for k, s in enumerate(scores))
    assert output.loss.item() == pytest.approx(total / 4, rel=1e-5)
    assert method.loss_weight(batch) == 4
    assert method.features(batch).shape == (4, 32)


@pytest.mark.parametrize(("config", "least"), [(MLP, 0.93), ({"model_type": "cnn", "width": 8}, 0.93)])
def test_digits_are_learnt(tmp_path, config, least):
    pl.seed_everything(0)
    data = Digits(batch_size=32)
    method = ImageClassifier({"config": config}, optimizer=lambda p: torch.optim.AdamW(p, lr=5e-3))
    run = trainer(tmp_path, max_epochs=6)
    run.fit(method, data)
    (result,) = run.test(method, data, verbose=False)
    assert result["test/accuracy"] > least
    again = ImageClassifier.load_from_checkpoint(run.checkpoint_callback.best_model_path, weights_only=True)
    images = next(iter(data.test_dataloader()))["images"]
    assert torch.equal(again.eval()(images), method.eval()(images))


def test_full_batch_gradient_descent_is_a_hand_written_loop(tmp_path):
    data = GaussianClusters(rows=50, batch_size=None, val_fraction=0, test_fraction=0)
    method = ImageClassifier({"config": MLP}, loss="squared_error", optimizer=lambda p: torch.optim.SGD(p, lr=0.05),
                             num_classes=4, input_shape=[16])  # fmt: skip
    method.configure_model()
    twin = [p.detach().clone().requires_grad_() for p in method.network.parameters()]
    trainer(tmp_path, max_epochs=5, enable_checkpointing=False).fit(method, data)
    points, labels = zip(*data.rows["train"], strict=True)
    x, y = torch.stack(points), F.one_hot(torch.tensor(labels)).float()
    for _ in range(5):
        w, b, u, c = twin
        loss = 0.5 * (((x @ w.T + b).relu() @ u.T + c - y) ** 2).sum() / len(x)
        for p, gradient in zip(twin, torch.autograd.grad(loss, twin), strict=True):
            p.data -= 0.05 * gradient
    for ours, by_hand in zip(method.network.parameters(), twin, strict=True):
        torch.testing.assert_close(ours, by_hand)


def test_what_cannot_be_known_or_fitted_is_said(tmp_path):
    method = ImageClassifier(Network(config=MLP))
    with pytest.raises(ConfigError, match=r"num_classes|input_shape"):
        method.configure_model()
    with pytest.raises(ConfigError, match="2 or more"):
        TextClassifier({"config": BERT}, num_classes=1)
    with pytest.raises(ConfigError, match="squared_error"):
        ImageClassifier({"config": MLP}, loss="hinge")
    with pytest.raises(ConfigError, match="labelled_text"):
        trainer(tmp_path, max_steps=1).fit(TextClassifier({"config": BERT}), Digits())


def test_a_run_is_tested_and_loaded_without_a_false_alarm(tmp_path, recwarn):
    """The number of classes came from the data: it is no difference between checkpoint and configuration."""
    from lit_ft.command.run import execute, load_run

    config = Path(__file__).parents[2] / "configs" / "vision" / "digits.yaml"
    run = execute("fit", ["-c", str(config), "--trainer.max_steps=2", "--runs", str(tmp_path)])
    execute("test", ["-c", str(config), "--runs", str(tmp_path), "--run", str(run.folder), "--ckpt_path", "last"])
    loaded = load_run(run.folder).model
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), run.module.parameters(), strict=True))
    assert not [warning for warning in recwarn if "differs from the checkpoint" in str(warning.message)]


@pytest.mark.parametrize("peft", [None, {"class_path": "LoraConfig", "init_args": {"target_modules": "all-linear"}}])
def test_a_decoder_reads_the_last_token_also_where_it_is_the_one_that_pads(tmp_path, peft):
    """Texts that end with the token that pads: as alone, so in a batch, and with another head behind each token."""
    config = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 16, "tokenizer": "bytes"}  # fmt: skip
    method = TextClassifier({"config": config, "peft": peft}, num_classes=3)
    method.configure_model()
    method.eval()
    inner = method.network.get_base_model() if peft else method.network
    end = inner.config.pad_token_id
    ids = torch.tensor([[20, 21, end, end], [20, end, 0, 0], [20, 21, 22, 23]])
    ids[1, 2:] = end
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
    found = method(ids, mask)
    for row, length in enumerate(mask.sum(1)):
        hidden = inner.model(ids[row : row + 1, :length]).last_hidden_state[0, -1]
        torch.testing.assert_close(found[row], inner.score(hidden))
    plain = torch.tensor([[20, 21, 22, 23], [20, 21, 22, 24]])
    theirs = method.network(input_ids=plain, attention_mask=torch.ones_like(plain)).logits
    assert torch.equal(method(plain, torch.ones_like(plain)), theirs), "bit by bit where nothing was wrong"
