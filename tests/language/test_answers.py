"""What written answers are worth: by hand, by the function they stand on, and through a run."""

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.data import SumChains
from lit_ft.language.answers import AnswerMetric
from lit_ft.language.tool_calls import ToolCall
from lit_ft.language.tool_reward import tool_call_reward
from lit_ft.methods import TextGeneration
from lit_ft.metrics import AnswerAccuracy, ToolCallReward

LLAMA = {
    "model_type": "llama", "tokenizer": "bytes", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "attention_dropout": 0.2,
}  # fmt: skip
TOOLS = {"get": ["a", "b"], "set": ["a"]}


@pytest.mark.parametrize(
    ("after", "answer", "expected", "score"),
    [
        (None, " 3;1 ", "3;1", 1),
        (None, "3;1", "3;2", 0),
        (";", "9;1", "3; 1", 1),
        (";", "1", "3;1", 0),  # without the mark it gives no result
        (";", "3;1;", "3;1", 0),
        (";", "3;11", "3;1", 0),
    ],
)
def test_accuracy_by_hand(after: str | None, answer: str, expected: str, score: float) -> None:
    assert AnswerAccuracy(after).score(answer, expected) == score


def test_the_mean_is_over_all_answers_of_all_batches() -> None:
    metric = AnswerAccuracy()
    metric.update(["a", "b", "c"], ["a", "b", "x"])
    metric.update(["d"], ["x"])
    assert metric.compute().item() == 0.5


def test_rewards_are_those_of_the_function() -> None:
    right = ToolCall("get", {"a": 1, "b": 2})
    calls = [right, ToolCall("get", {"a": 1, "b": 3}), ToolCall("get", {"a": 1}), ToolCall("set", {"a": 1}),
             ToolCall("fly", {})]  # fmt: skip
    answers = [call.text for call in calls] + ["get(1, 2)"]
    metric = ToolCallReward(TOOLS)
    metric.update(answers, [right.text + "\nThe answer is 3."] * 6)
    assert metric.compute().item() == pytest.approx((1 - 0.25 - 0.5 - 1.5 - 2 - 2) / 6)
    assert metric.total.item() == sum(
        tool_call_reward(answer, right, {k: set(v) for k, v in TOOLS.items()}) for answer in answers
    )
    for wrong in ("no call", ToolCall("fly", {}).text):
        with pytest.raises(ConfigError, match="rows that expect a call of get, set"):
            metric.update(["x"], [wrong])


def test_a_run_logs_the_score_of_what_it_writes_and_training_does_not_notice() -> None:
    class Written(AnswerMetric):
        seen: list[tuple[str, str]] = []

        def score(self, answer: str, expected: str) -> float:
            self.seen.append((answer, expected))
            return float(len(answer))

    weights = []
    for answers in ({"length": Written()}, None):
        torch.manual_seed(0)
        method = TextGeneration({"config": dict(LLAMA)}, 6, temperature=1.0, samples=2, answers=answers)  # type: ignore[arg-type]
        trainer = pl.Trainer(
            max_steps=6, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, val_check_interval=1, num_sanity_val_steps=0,
        )  # fmt: skip
        pl.seed_everything(1)
        trainer.fit(method, datamodule=SumChains(chains=16, asked=5, batch_size=4))
        weights.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
        if answers:
            assert len(Written.seen) == 6 * 5 * 2
            last = Written.seen[-10:]
            assert trainer.callback_metrics["val/length"].item() == pytest.approx(sum(len(a) for a, _ in last) / 10)
            assert all(expected.count(";") == 5 for _, expected in last)
            assert [row["expected"] for row in last_rows(method)] == [e for _, e in last[::2]]
    assert torch.equal(*weights)


def last_rows(method: TextGeneration) -> list[dict[str, str]]:
    data = method.trainer.datamodule  # type: ignore[attr-defined]
    return [row for i, batch in enumerate(data.val_dataloader()) for row in method.predict_step(batch, i)]  # type: ignore[misc]


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="after"):
        AnswerAccuracy("")
    with pytest.raises(ConfigError, match="tools"):
        ToolCallReward({})
    with pytest.raises(ConfigError, match="a name other than loss"):
        TextGeneration({"config": dict(LLAMA)}, answers={"loss": AnswerAccuracy()})  # type: ignore[arg-type]
