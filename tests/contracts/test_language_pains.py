"""What users of other trainers complain about most, one named test each, as far as training language models goes.

Exact accumulation (clipping, short windows, two processes): ``tests/methods/test_supervised_fine_tuning.py``.
"""

import json
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lit_ft.core.errors import ConfigError
from lit_ft.core.tokens import readout
from lit_ft.core.tokens.chat import encode_chat, message_segments
from lit_ft.core.tokens.losses import shares
from lit_ft.core.tokens.readout import Readout
from lit_ft.data.language.instructions import Instructions
from lit_ft.methods.language.supervised_fine_tuning import SupervisedFineTuning
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.testing import assert_resumes

LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 2, "tokenizer": "bytes"}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> str:
    draw = random.Random(0)
    rows = [{"prompt": "p" * draw.randint(1, 30), "completion": " " + "c" * draw.randint(1, 30)} for _ in range(44)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(tmp_path / "rows.jsonl")


def module() -> SupervisedFineTuning:
    torch.manual_seed(0)
    made = SupervisedFineTuning({"config": LLAMA}, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))  # type: ignore[arg-type]
    made.configure_model()
    return made


def ready(made: Any, data: Any) -> Any:
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    trainer.strategy._lightning_module = made
    data.trainer = trainer
    data.setup("fit")
    return data


@pytest.mark.parametrize("packing", [False, True])
def test_pains_2_and_3_resume_in_the_middle_of_an_epoch(path: str, tmp_path: Path, packing: bool) -> None:
    """Bit-equal weights, optimizer, order of data and logged values, also inside an accumulation window."""

    def data() -> Instructions:
        return Instructions(path, batch_size=6 if not packing else 3, max_length=64, packing=packing, val_fraction=0.0)

    assert_resumes(pl.Callback, tmp_path / "runs", crash_at=5, make_module=module, make_data=data,
                   accumulate_grad_batches=2, max_epochs=1)  # fmt: skip


def test_pain_5_packed_documents_do_not_leak(path: str) -> None:
    """The loss of a document does not depend on what it is packed with; with a cache or a mask of ones it would."""
    made = module().eval()
    data = ready(made, Instructions(path, batch_size=2, max_length=128, packing=True, val_fraction=0.0))
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"input_ids", "position_ids", "weights", "rows"}
    packed, total = made.compute(batch).loss * made.loss_weight(batch), 0.0
    for row in batch["rows"]:
        number = int((data.examples["train"].rows == row).nonzero())
        example = data.examples["train"][number]
        one = {"input_ids": example["input_ids"][None], "weights": example["weights"][None]}
        total += made.compute(one).loss.item() * made.loss_weight(one).item()
    assert packed.item() == pytest.approx(total, rel=1e-5)
    parts = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    apart = made.network(**parts, use_cache=False).logits  # type: ignore[misc]
    leaking = made.network(**parts, use_cache=False, attention_mask=torch.ones_like(batch["input_ids"])).logits  # type: ignore[misc]
    assert (apart - leaking).abs().max() > 1e-3, "the control: a mask of ones makes them leak"


def test_pain_6_the_model_learns_to_stop_where_padding_is_the_end(path: str) -> None:
    made = module()
    made.tokenizer.pad_token = made.tokenizer.eos_token
    data = ready(made, Instructions(path, batch_size=8, val_fraction=0.0))
    batch = next(iter(data.train_dataloader()))
    ends = (batch["input_ids"] == made.tokenizer.eos_token_id) & (batch["weights"] == 1)
    assert ends.sum(1).tolist() == [1] * 8
    assert (batch["weights"][batch["attention_mask"] == 0] == 0).all()


def test_pain_7_what_the_user_says_is_never_learned_silently() -> None:
    """No generation marks are needed; a template that hides the answer is an error, not a loss on everything."""
    tokenizer = byte_tokenizer()
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    example = encode_chat(tokenizer, [message_segments(messages, ["assistant"], 1)])[0]
    learned = tokenizer.decode([t for t, w in zip(example.input_ids, example.weights, strict=True) if w])
    assert learned == "answer</s>"
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}{% endfor %}"
    with pytest.raises(ConfigError, match="row 5"):
        encode_chat(tokenizer, [message_segments(messages, ["assistant"], 5)], numbers=[5])


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_pain_8_logits_are_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing larger than the head itself is made, in training and in evaluation, for loss and log-probabilities."""
    words, width, tokens = 4096, 16, 256
    monkeypatch.setattr(readout, "CHUNK", words * 8)
    states, weight = torch.randn(4, tokens // 4, width, requires_grad=True), torch.randn(words, width).requires_grad_()
    ids, weights = torch.randint(words, (4, tokens // 4)), torch.ones(4, tokens // 4)
    with Largest() as seen:
        Readout(states, weight).loss(ids, shares(weights)[0]).backward()
        Readout(states, weight).log_probs(ids, weights).sum().backward()
        with torch.no_grad():
            Readout(states, weight).loss(ids, shares(weights)[0])
    assert seen.size <= words * width < words * tokens / 8


def test_pain_13_checkpoints_load_with_weights_only(path: str, tmp_path: Path) -> None:
    trainer = pl.Trainer(max_steps=1, logger=False, accelerator="cpu", enable_progress_bar=False,
                         enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    made = module()
    trainer.fit(made, datamodule=Instructions(path, val_fraction=0.0))
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    again = SupervisedFineTuning.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    for a, b in zip(made.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pain_23_rows_are_tokenised_once_and_never_for_another_tokenizer(path: str) -> None:
    made, calls = module(), []

    class Counting(Instructions):
        def encode_rows(self, *arguments: Any) -> Any:
            calls.append(1)
            return super().encode_rows(*arguments)

    first = ready(made, Counting(path, val_fraction=0.0)).examples["train"]
    assert len(calls) == 1
    again = ready(made, Counting(path, val_fraction=0.0)).examples["train"]
    assert len(calls) == 1
    assert torch.equal(first.ids, again.ids)
    ready(made, Counting(path, val_fraction=0.0, max_length=20))
    assert len(calls) == 2, "another setting"
    made.tokenizer.add_tokens(["ppp"])
    other = ready(made, Counting(path, val_fraction=0.0)).examples["train"]
    assert len(calls) == 3, "another tokenizer"
    assert len(other.ids) < len(first.ids)
