"""Pre-training on scored texts: limits in which all objectives agree, scores by character, marks, sampling, resume."""

import json
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.callbacks import SampledText
from lit_ft.core.errors import ConfigError
from lit_ft.core.measurement import MeasuredRun
from lit_ft.data import MarkedCorpus, ScoredText
from lit_ft.language.preference_pretraining import unlikelihood
from lit_ft.language.sampled_text import matched_share
from lit_ft.methods import PreferencePretraining

NETWORK: Any = {
    "config": {
        "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2,
    }
}  # fmt: skip
ROWS = [{"texts": ["ab ", "cXd "], "scores": [0.0, 0.5]}, {"text": "efgh", "score": 0.1}] * 6


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def method(**arguments: Any) -> PreferencePretraining:
    torch.manual_seed(0)
    made = PreferencePretraining(NETWORK, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **arguments)
    made.configure_model()
    return made.train()


def table(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / "scored.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def prepared(folder: Path, rows: list[dict[str, Any]] = ROWS, **arguments: Any) -> ScoredText:
    data = ScoredText(table(folder, rows), batch_size=12, **{"val_fraction": 0.0, **arguments})
    data.trainer = type("T", (), {"lightning_module": method()})()
    data.setup("fit")
    return data


def texts(data: ScoredText, batch: dict[str, torch.Tensor], where: torch.Tensor) -> list[str]:
    return [data.tokenizer.decode(ids[chosen]) for ids, chosen in zip(batch["input_ids"], where, strict=True)]


def grads(made: PreferencePretraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    made.compute(batch).loss.backward()
    return torch.cat([p.grad.flatten() for p in made.network.parameters()])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "same",
    [
        {"objective": "reward_weighted", "beta": 1e9},
        {"objective": "advantage_weighted", "beta": 1e9, "alpha": 1.0},
        {"objective": "unlikelihood", "threshold": 0.5},
    ],
)
def test_limits_are_the_likelihood(same: dict[str, Any], tmp_path: Path) -> None:
    """Infinite temperature; a threshold that nothing is above."""
    batch = next(iter(prepared(tmp_path).train_dataloader()))
    torch.testing.assert_close(grads(method(**same), batch), grads(method(), batch), rtol=1e-5, atol=1e-7)


def test_advantages_are_none_where_the_value_is_the_reward(tmp_path: Path) -> None:
    batch = next(iter(prepared(tmp_path, [{"text": "abc", "score": 0.3}] * 4).train_dataloader()))
    batch["weights"] = batch["weights"] * (batch["scores"] > 0)  # without the end of text, which scores 0
    made = method(objective="advantage_weighted", alpha=0.5, beta=0.1)
    torch.nn.init.constant_(made.value.bias, -0.3)
    torch.testing.assert_close(grads(made, batch), 0.5 * grads(method(), batch), rtol=1e-5, atol=1e-7)
    torch.nn.init.constant_(made.value.bias, 0.0)
    lost = made.compute(batch).loss - 0.5 * torch.exp(torch.tensor(-3.0)) * method().compute(batch).loss
    assert lost.item() == pytest.approx(0.5 * 0.3**2, rel=1e-4)


def test_a_value_is_read_one_place_before_its_token(tmp_path: Path) -> None:
    batch = next(iter(prepared(tmp_path).train_dataloader()))
    made, seen = method(objective="advantage_weighted", alpha=1.0, beta=0.1), []
    made.value.weight.data.normal_()
    made.value.register_forward_hook(lambda module, inputs, output: seen.append(output[:, :, 0].detach()))
    found = made._terms(torch.zeros_like(batch["scores"]), batch["scores"], torch.randn(*batch["scores"].shape, 16))
    assert torch.equal(found, torch.zeros_like(found))  # alpha is 1, and log p is 0
    made.alpha = 0.0
    found = made._terms(torch.zeros_like(batch["scores"]), batch["scores"], torch.randn(*batch["scores"].shape, 16))
    torch.testing.assert_close(found[:, 1:], (-batch["scores"][:, 1:] - seen[1][:, :-1]).square())


def test_unlikelihood_by_hand() -> None:
    p, scores = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.0, 0.4, 1.0])
    up, down = -p.log(), -(1 - p).log()
    mixed = unlikelihood(p.log(), scores, 2.0, None)
    torch.testing.assert_close(mixed, (1 - scores) * up + 2 * scores * down)
    at_zero = unlikelihood(p.log(), scores, 2.0, 0.0)  # a threshold, not the absence of one
    torch.testing.assert_close(at_zero, torch.stack([up[0], 2 * down[1], 2 * down[2]]))


def test_scores_belong_to_the_characters_of_their_part(tmp_path: Path) -> None:
    data = prepared(tmp_path, threshold=0.2, good="+", bad="-", drop_marks=0.0)
    batch = next(iter(data.train_dataloader()))
    assert set(texts(data, batch, batch["weights"] > 0)) == {"+ab -cXd </s>", "+efgh</s>"}
    assert set(texts(data, batch, batch["scores"] == 0.5)) == {"-cXd ", ""}
    assert set(texts(data, batch, batch["scores"].sub(0.1).abs() < 1e-6)) == {"+efgh", ""}


def test_a_threshold_of_zero_marks_and_evaluation_does_not_count_marks(tmp_path: Path) -> None:
    data = prepared(tmp_path, threshold=0.0, good="+", bad="-", drop_marks=1.0, val_fraction=0.5)
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert set(texts(data, train, train["weights"] > 0)) <= {"ab cXd </s>", "efgh</s>"}  # all marks dropped
    assert set(texts(data, val, val["attention_mask"] > 0)) <= {"<s>+ab -cXd </s>", "<s>-efgh</s>"}
    assert set(texts(data, val, val["weights"] > 0)) <= {"ab cXd </s>", "efgh</s>"}


def test_filtering_leaves_documents_out(tmp_path: Path) -> None:
    data = prepared(tmp_path, keep_below=0.1)
    batch = next(iter(data.train_dataloader()))
    assert texts(data, batch, batch["weights"] > 0) == ["efgh</s>"] * 6
    with pytest.raises(ConfigError, match="keep_below"):
        prepared(tmp_path, keep_below=0.05)


@pytest.mark.parametrize("row", [{"texts": ["a", "b"], "scores": [1]}, {"text": "a"}, {"text": 3, "score": 1}])
def test_bad_rows_are_named(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train row"):
        prepared(tmp_path, [*ROWS, row])


def test_the_corpus_is_scored_by_its_letters() -> None:
    rows = MarkedCorpus(documents=300)._scored_rows()
    assert all(not any(row["scores"]) for row in rows["val"])
    bad = [s for row in rows["train"] for s in row["scores"]]
    assert 0.09 < sum(bad) / len(bad) < 0.16
    row = next(row for row in rows["train"] if any(row["scores"]))
    assert row["scores"] == [text.count("X") / 6 for text in row["texts"]]


def test_share_of_a_pattern() -> None:
    assert matched_share(re.compile("X+"), ["aXXb", "", "XabX"]) == 0.5
    assert matched_share(re.compile("X"), [""]) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "advantage_weighted"}, "beta: given None; allowed: a temperature for advantage_weighted"),
        (
            {"objective": "reward_weighted", "beta": 1.0, "alpha": 0.5},
            "alpha: given 0.5; allowed: null: reward_weighted",
        ),
        ({"objective": "likelihood", "threshold": 0.0}, "threshold: given 0.0; allowed: null: likelihood reads none"),
        ({"objective": "unlikelihood", "beta": 1.0}, "unlikelihood reads alpha and threshold"),
    ],
)
def test_numbers_that_an_objective_does_not_read_are_refused(arguments: dict[str, Any], message: str) -> None:
    """With alpha 1 as a common default, advantages were weighted without learning their baseline."""
    with pytest.raises(ConfigError, match=message):
        method(**arguments)
    assert method(objective="advantage_weighted", beta=1.0).alpha == 0.5
    assert method(objective="unlikelihood").alpha == 1.0


@pytest.mark.parametrize("objective", ["advantage_weighted", "unlikelihood"])
def test_trains_in_bf16(tmp_path: Path, objective: Any) -> None:
    made = method(objective=objective, alpha=0.5, beta=10.0 if objective == "advantage_weighted" else None)
    start = made.network.lm_head.weight.clone()  # type: ignore[union-attr]
    pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, precision="bf16-true",
    ).fit(made, datamodule=ScoredText(table(tmp_path), val_fraction=0.25))  # fmt: skip
    weight = made.network.lm_head.weight  # type: ignore[union-attr]
    assert weight.dtype == torch.bfloat16
    assert weight.isfinite().all()
    assert not torch.equal(weight, start.bfloat16())
    assert made.loss_weight({"weights": torch.ones(257, dtype=torch.bfloat16)}) == 257  # bf16 would say 256


def test_sampling_needs_something_to_start_from() -> None:
    made = method()
    made.tokenizer.bos_token = None
    made.tokenizer.add_bos_token = False
    with pytest.raises(ConfigError, match="marks a beginning"):
        SampledText("X").measure(
            MeasuredRun(pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), made)
        )


def test_sampling_follows_the_network_and_leaves_no_trace(tmp_path: Path) -> None:
    """The head is made to write X alone, then X is forbidden; weights are those of a run without sampling."""
    weights, shares = [], []
    for callbacks in ([], [SampledText("X", samples=4, max_new_tokens=8)],
                      [SampledText("X", samples=4, max_new_tokens=8, forbidden="X")]):  # fmt: skip
        made = method()
        head = made.network.lm_head.weight  # type: ignore[union-attr]
        place = made.tokenizer("X", add_special_tokens=False)["input_ids"][0]
        with torch.no_grad():
            made.network.model.norm.weight.fill_(1.0)  # type: ignore[union-attr]
        original = made.network.forward  # type: ignore[union-attr]

        def forward(*args: Any, original: Any = original, place: int = place, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            output.logits[..., place] += 50.0
            return output

        made.network.forward = forward  # type: ignore[union-attr, method-assign]
        pl.Trainer(
            max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=callbacks, limit_val_batches=1, num_sanity_val_steps=0,
        ).fit(made, datamodule=MarkedCorpus(documents=64))  # fmt: skip
        weights.append(head.detach().clone())
        shares += [callback.report()["share"] for callback in callbacks]
    assert torch.equal(weights[0], weights[1])
    assert shares == [1.0, 0.0]
