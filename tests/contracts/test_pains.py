"""What users of other trainers complain about most, one named test each, as far as training goes.

Each holds the defect of the complaint against the code, as small as it gets; the tests of the part go further.
"""

import json
import random
from pathlib import Path
from typing import Any
from weakref import WeakSet

import lightning.pytorch as pl
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lit_ft.callbacks import SAM, RunCheckpoint
from lit_ft.command.cli import command
from lit_ft.core.errors import ConfigError
from lit_ft.curvature.eigenvalues import hessian_eigenvalues
from lit_ft.data import Instructions, Preferences, StreamedInstructions, TextPairs
from lit_ft.embedding.contrastive import InBatchContrastive, Vectors
from lit_ft.methods import DPO, RewardModel, SentenceEmbedding, SupervisedFineTuning
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.preference.reference import AdapterOff, CachedLogProbs
from lit_ft.preference.reward_model import rewards
from lit_ft.running.run_checkpoint import newest_whole
from lit_ft.testing import assert_resumes
from lit_ft.tokens import readout
from lit_ft.tokens.chat import encode_chat, message_segments

LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 2, "tokenizer": "bytes"}  # fmt: skip
LORA = {"class_path": "peft.LoraConfig", "init_args": {"r": 2, "target_modules": "all-linear"}}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> str:
    draw = random.Random(0)
    rows = [{"prompt": "p" * draw.randint(1, 30), "completion": " " + "c" * draw.randint(1, 30)} for _ in range(44)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(tmp_path / "rows.jsonl")


def module(kind: Any = SupervisedFineTuning, network: Any = None, **arguments: Any) -> Any:
    torch.manual_seed(0)
    made = kind(network or {"config": LLAMA}, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), **arguments)
    made.configure_model()
    return made


def fit(made: Any, data: Any, *callbacks: pl.Callback, **arguments: Any) -> None:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    pl.Trainer(accelerator="cpu", callbacks=list(callbacks), **{**quiet, **arguments}).fit(made, data)


def flat(made: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in made.parameters()])


def ready(made: Any, data: Any) -> Any:
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    trainer.strategy._lightning_module = made
    data.trainer = trainer
    data.setup("fit")
    return data


def test_pain_1_accumulation_does_not_change_the_gradient(path: str) -> None:
    """Answers of different lengths in four parts or in one batch; a mean of means, the control, is another one."""

    class MeanOfMeans(SupervisedFineTuning):
        def loss_weight(self, batch: Any) -> float:
            return 1.0

    def after_a_step(kind: Any, size: int, parts: int) -> Tensor:
        made = module(kind)
        made.optimizer = lambda p: torch.optim.SGD(p, lr=1.0)
        data = Instructions(path, batch_size=size, max_rows=8, val_fraction=0.0)
        fit(made, data, max_steps=1, accumulate_grad_batches=parts)
        return flat(made)

    whole = after_a_step(SupervisedFineTuning, 8, 1)
    torch.testing.assert_close(after_a_step(SupervisedFineTuning, 2, 4), whole, rtol=1e-5, atol=1e-6)
    assert (after_a_step(MeanOfMeans, 2, 4) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("packing", [False, True])
def test_pains_2_and_3_resume_in_the_middle_of_an_epoch(path: str, tmp_path: Path, packing: bool) -> None:
    """Bit-equal weights, optimizer, order of data and logged values, also inside an accumulation window."""

    def data() -> Instructions:
        return Instructions(path, batch_size=6 if not packing else 3, max_length=64, packing=packing, val_fraction=0.0)

    assert_resumes(pl.Callback, tmp_path / "runs", crash_at=5, make_module=module, make_data=data,
                   accumulate_grad_batches=2, max_epochs=1)  # fmt: skip


def test_pain_4_going_on_in_a_stream_tokenises_nothing_that_was_seen(path: str) -> None:
    encoded = []

    class Counting(StreamedInstructions):
        def encode_rows(self, rows: Any, *arguments: Any) -> Any:
            encoded.append(len(rows))
            return super().encode_rows(rows, *arguments)

    data = [ready(module(), Counting(path, epoch_batches=4, batch_size=2, buffer=4)) for _ in range(2)]
    through = [data[0].stream.batch(number) for number in range(21)]
    assert sum(encoded) > 40
    encoded.clear()
    resumed = data[1].stream.batch(20)
    assert encoded == [4], "one block"
    for a, b in zip(resumed, through[20], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


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
    """In training, validation and prediction nothing is made that is larger than the head of the network."""
    words, tokens = 4096, 256
    made = module(network={"config": {**LLAMA, "vocab_size": words}})
    ids = torch.randint(words, (4, tokens // 4))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "weights": torch.ones(ids.shape)}
    made.compute(batch)  # whether the head can be taken apart is found out once
    monkeypatch.setattr(readout, "CHUNK", words * 8)
    with Largest() as seen:
        made.compute(batch).loss.backward()
        with torch.no_grad():
            made.compute(batch)
            made.predict_step(batch, 0)
    assert seen.size <= words * LLAMA["hidden_size"] < words * tokens / 8  # type: ignore[operator]
    with Largest() as seen:
        made.network(ids)
    assert seen.size >= words * tokens, "the control"


def test_pain_12_a_checkpoint_is_whole_or_absent(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full while the third is written; then the second turns out to be cut short."""
    saves, save = [], pl.Trainer.save_checkpoint

    def full_at_last(trainer: pl.Trainer, file: Any, *rest: Any, **named: Any) -> None:
        saves.append(file)
        if len(saves) == 3:
            Path(file).write_bytes(b"half")
            raise OSError("no space left")
        save(trainer, file, *rest, **named)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full_at_last)
    keeper = RunCheckpoint(every_n_steps=1, folder=str(tmp_path))
    with pytest.raises(OSError, match="no space left"):
        fit(module(), Instructions(path, val_fraction=0.0), keeper, max_steps=5)
    newest, damaged = newest_whole(tmp_path)
    assert newest is not None
    assert (newest.name, damaged) == ("step=00000002.ckpt", [])
    newest.write_bytes(newest.read_bytes()[:-100])
    before, damaged = newest_whole(tmp_path)
    assert before is not None
    assert (before.name, damaged) == ("step=00000001.ckpt", [newest])


def test_pain_13_checkpoints_load_with_weights_only(path: str, tmp_path: Path) -> None:
    made = module()
    fit(made, Instructions(path, val_fraction=0.0), max_steps=1)
    made.trainer.save_checkpoint(tmp_path / "m.ckpt")
    again = SupervisedFineTuning.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    for a, b in zip(made.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:the configuration differs:UserWarning")
def test_pain_14_the_saved_config_serves_every_command(path: str, tmp_path: Path) -> None:
    """With classes named by class_path, an adapter, a schedule and a callback; a resumed run may differ from it."""
    rate = {"class_path": "AdamW", "init_args": {"lr": 0.01}}
    config = {
        "model": {"class_path": "SupervisedFineTuning", "init_args": {
            "network": {"config": LLAMA, "peft": LORA}, "optimizer": rate, "schedule": {"class_path": "Cosine"}}},
        "data": {"class_path": "Instructions", "init_args": {"path": path, "test_fraction": 0.1}},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "callbacks": [{"class_path": "SAM"}]},
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    assert command(["fit", "-c", str(tmp_path / "c.yaml"), f"--run_dir={run}"]) == 0
    saved, end = str(run / "config.yaml"), str(newest_whole(run / "checkpoints")[0])
    for name in ("validate", "test", "predict"):
        assert command([name, "-c", saved, "--ckpt_path", end, f"--run_dir={tmp_path / name}"]) == 0
    more = ["--trainer.max_steps=3", "--model.optimizer.lr=0.5", f"--run_dir={tmp_path / 'more'}"]
    assert command(["fit", "-c", saved, "--ckpt_path", end, *more]) == 0
    last = torch.load(newest_whole(tmp_path / "more" / "checkpoints")[0], weights_only=True)  # type: ignore[arg-type]
    assert last["global_step"] == 3
    again = yaml.safe_load((tmp_path / "more" / "config.yaml").read_text())["model"]["init_args"]
    assert again["optimizer"]["init_args"]["lr"] == 0.5, "the command line, not the checkpoint"


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("bf16-mixed", 2e-2)])
@pytest.mark.parametrize("parts", [1, 2])
def test_pain_15_sam_with_accumulation_clipping_and_autocast(precision: str, tolerance: float, parts: int) -> None:
    """In a module that knows nothing of it: for L = w A w / 2 the gradient is that at w + rho g / |g|; clipped."""
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    matrix, rho, clip = root @ root.T, 0.3, 2.0

    class Quadratic(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.arange(1.0, 5.0))

        def training_step(self, batch: Any) -> Tensor:
            return batch.mean() * (self.w @ matrix @ self.w) / 2

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    made, scales = Quadratic(), torch.tensor([[0.5], [1.5]])
    loader = torch.utils.data.DataLoader(scales, batch_size=2 // parts)
    fit(made, loader, SAM(rho=rho), max_steps=1, accumulate_grad_batches=parts, gradient_clip_val=clip,
        precision=precision)  # fmt: skip
    start = torch.arange(1.0, 5.0)
    gradient = matrix @ start
    sharp = matrix @ (start + rho * gradient / gradient.norm())
    torch.testing.assert_close(start - made.w.detach(), clip * sharp / sharp.norm(), rtol=tolerance, atol=tolerance)
    assert sharp.norm() > clip


class Token:
    """Lives as long as the node of a graph that holds it."""

    alive: WeakSet = WeakSet()


class Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        ctx.token = Token()
        Token.alive.add(ctx.token)
        return states.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()


def test_pain_16_hessian_products_hold_the_graph_of_one_batch_at_a_time() -> None:
    """What is in memory does not grow with the batches, and nothing is left behind."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    batches, most = [(torch.randn(4, 3), torch.randint(2, (4,))) for _ in range(6)], []

    def loss(network: Any, batch: Any) -> Tensor:
        value = nn.functional.cross_entropy(Node.apply(network(batch[0])), batch[1])
        most.append(len(Token.alive))
        return value

    hessian_eigenvalues(network, batches, 1, 1e-2, loss)
    assert len(most) > 12
    assert max(most) <= 2, "that of the batch before goes when this one has come"
    assert not Token.alive


def test_pain_19_an_adapter_on_tied_embeddings_merges_into_the_same_network(path: str, tmp_path: Path) -> None:
    """And a vocabulary is never resized behind one's back, which would leave the adapter with another base."""
    import peft
    import transformers

    base = module(network={"config": {**LLAMA, "tie_word_embeddings": True}})
    base.network.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    made = module(network={"path": str(tmp_path / "base"), "peft": LORA})
    fit(made, Instructions(path, val_fraction=0.0), max_steps=3)
    made.network.save_pretrained(tmp_path / "adapter")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    merged = peft.PeftModel.from_pretrained(again, tmp_path / "adapter").merge_and_unload()
    ids = torch.arange(10, 40)[None]
    torch.testing.assert_close(merged(ids).logits, made.eval().network(ids).logits, rtol=1e-4, atol=1e-5)
    assert (merged(ids).logits - base.eval().network(ids).logits).abs().max() > 1e-2
    assert merged.lm_head.weight is merged.get_input_embeddings().weight
    assert torch.equal(merged.lm_head.weight, base.network.lm_head.weight)
    words = byte_tokenizer()
    words.add_tokens(["<new>"])
    words.save_pretrained(tmp_path / "base")
    grown = SupervisedFineTuning({"path": str(tmp_path / "base"), "peft": LORA})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most 263 tokens"):
        fit(grown, Instructions(path, val_fraction=0.0), max_steps=1)


def test_pain_20_the_reference_costs_no_second_network_and_no_second_pass(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": "y" * (1 + i), "rejected": "n" * (2 + i)} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    def passes(reference: Any, network: Any = None) -> int:
        made, calls = module(DPO, network, reference=reference), []
        assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in made.network.parameters())
        made.network.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
        fit(made, Preferences(str(tmp_path / "pairs.jsonl"), batch_size=4, val_fraction=0.0), max_steps=2)
        return len(calls)

    file = str(tmp_path / "reference.pt")
    once = passes(CachedLogProbs(file))
    again = passes(CachedLogProbs(file))
    assert once > again, "kept on disk"
    assert again < passes(AdapterOff(), {"config": LLAMA, "peft": LORA}), "one pass a step, not two"


def test_pain_21_the_reward_is_read_at_the_last_token_where_it_pads_too() -> None:
    """The answer ends with the token that pads, and what stands behind it changes nothing."""
    network: Any = module(RewardModel).eval().network
    network.config.pad_token_id = 2
    answer = torch.tensor([[5, 6, 7, 2]])
    alone = rewards(network, {"input_ids": answer, "attention_mask": torch.ones_like(answer)})
    padded = torch.cat([answer, torch.full((1, 3), 2)], 1)
    mask = (torch.arange(7) < 4).long()[None]
    torch.testing.assert_close(rewards(network, {"input_ids": padded, "attention_mask": mask}), alone)
    cut = rewards(network, {"input_ids": answer[:, :3], "attention_mask": mask[:, :3]})
    assert (cut - alone).abs() > 1e-4, "the control: one token earlier"


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


def test_pain_24_copies_are_no_negatives_and_chunks_keep_all_of_them(tmp_path: Path) -> None:
    """A batch in chunks has the gradient of the whole; accumulation, the control, has fewer negatives."""
    vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    same = Vectors(vectors, vectors, keys=torch.tensor([[1, 9], [2, 9]]))
    assert InBatchContrastive()(same).abs().max() == 0, "the only other positive is a copy"
    assert InBatchContrastive(mask_duplicates=False)(same).min() > 0
    rows = [{"anchor": "abcdefgh"[i:], "positive": "ijklmnop"[: 8 - i]} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    def a_step(size: int, parts: int, chunk: int | None) -> Tensor:
        network = {"config": {**LLAMA, "initializer_range": 0.5}}
        made = module(SentenceEmbedding, network, chunk_size=chunk, pooling="mean")
        start = flat(made)
        made.optimizer = lambda p: torch.optim.SGD(p, lr=1.0)
        data = TextPairs(str(tmp_path / "pairs.jsonl"), batch_size=size, val_fraction=0.0)
        fit(made, data, max_steps=1, accumulate_grad_batches=parts)
        return flat(made) - start

    whole = a_step(8, 1, None)
    assert (a_step(8, 1, 3) - whole).norm() < 1e-3 * whole.norm()
    assert (a_step(2, 4, None) - whole).norm() > 0.1 * whole.norm()
