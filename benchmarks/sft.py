"""Supervised fine-tuning beside TRL and beside a bare PyTorch loop: tokens per CPU second, and peak memory.

Each arm is a process of its own, on the same rows and the same initial weights, with the same batch size, optimizer,
rate and clipping, in float32 unless it says bf16. What counts are tokens that are not padding, from the first to the
last step, in CPU seconds of the process. Afterwards each arm computes the loss over all rows in the same plain way;
the arms must agree within 3 % (arms that pack among themselves) before any speed is printed.

TRL lives in an environment of its own, which is made at the first run (--peer names another one's Python).

    python benchmarks/sft.py --steps 40 --threads 1 --json sft.json
    python benchmarks/sft.py --vocabulary 32000 --arms lit_ft,trl
    python benchmarks/sft.py --model DIR --data FILE.jsonl
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from peer import (
    Meter,
    check_losses,
    in_process,
    in_turn,
    medians,
    our_trainer,
    peer_arguments,
    peer_python,
    their_settings,
)

REQUIREMENTS = ["trl==1.16.0", "transformers==5.23.0"]
ARMS = ["bare", "lit_ft", "trl", "trl_grouped", "lit_ft_packed", "trl_packed", "lit_ft_bf16"]
BATCH, LENGTH, RATE, CLIP = 8, 512, 1e-3, 1.0


def make_rows(path: Path, n: int = 600) -> None:
    """Prompts and answers of made-up words, with lengths as of instructions: most short, some long."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 8))) for _ in range(6000)]
    shares = [1 / (rank + 1) for rank in range(len(words))]

    def text(mean: float) -> str:
        return " ".join(draw.choices(words, shares, k=int(min(250, max(4, draw.lognormvariate(mean, 0.97))))))

    rows = [{"prompt": text(3.0), "completion": " " + text(3.2)} for _ in range(n)]
    path.write_text("\n".join(json.dumps(row) for row in rows))


def make_model(folder: Path, rows: Path, vocabulary: int) -> None:
    """A Llama of 4 layers of width 256, and a tokenizer trained on the rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(rows.read_text().split("\n"), trainer)
    words = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8}
    config = LlamaConfig(
        vocab_size=vocabulary, **sizes, max_position_embeddings=LENGTH, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)


def final_loss(network: Any, model: str, data: str) -> float:
    """Mean loss over the answers of all rows, one row at a time, written out."""
    import torch
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(model)
    network.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for line in Path(data).read_text().splitlines()[:200]:
            row = json.loads(line)
            prompt = words(row["prompt"], add_special_tokens=False)["input_ids"]
            answer = [*words(row["completion"], add_special_tokens=False)["input_ids"], words.eos_token_id]
            ids = torch.tensor([[*prompt, *answer][:LENGTH]])
            logits = network(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
            total += torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item()
            count += len(logits)
    return total / count


def our_data(options: argparse.Namespace, module: Any, packed: bool) -> Any:
    from lit_ft.language.instructions import Instructions

    data = Instructions(options.data, batch_size=BATCH, max_length=LENGTH, val_fraction=0.0, packing=packed)
    data._tokenizer = lambda: module.tokenizer  # type: ignore[method-assign]
    return data


def run_lit_ft(options: argparse.Namespace, packed: bool, precision: str) -> tuple[Any, Meter]:
    import torch

    from lit_ft.methods import SupervisedFineTuning
    from lit_ft.running.metrics_file import MetricsFile
    from lit_ft.running.run_checkpoint import RunCheckpoint
    from lit_ft.running.run_report import RunReport

    module = SupervisedFineTuning(
        {"path": options.model},  # type: ignore[arg-type]
        optimizer=lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.0),
    )
    module.configure_model()
    meter = Meter()

    def count(batch: Any) -> None:
        meter.step(int(batch["attention_mask"].sum()) if "attention_mask" in batch else packed_tokens(batch))

    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(
            options.steps,
            CLIP,
            count,
            precision=precision,
            callbacks=[RunCheckpoint(every_n_steps=None), RunReport(folder)],
            logger=[MetricsFile(folder)],
            log_every_n_steps=10,
        )
        trainer.fit(module, datamodule=our_data(options, module, packed))
    return module.network, meter


def packed_tokens(batch: Any) -> int:
    positions = batch["position_ids"]
    padding = (positions == 0) & (positions.roll(-1, 1) == 0)
    return positions.numel() - int(padding.sum())


def run_bare(options: argparse.Namespace) -> tuple[Any, Meter]:
    """The same batches and the same loss, in a loop of ten lines."""
    import torch

    from lit_ft.methods import SupervisedFineTuning
    from lit_ft.tokens.losses import shares
    from lit_ft.tokens.network import readout

    module = SupervisedFineTuning({"path": options.model})  # type: ignore[arg-type]
    module.configure_model()
    network: Any = module.network
    data = our_data(options, module, packed=False)
    data.setup("fit")
    loader = data.train_dataloader()
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    steps = torch.optim.AdamW([{"params": matrices}, {"params": vectors}], lr=RATE, weight_decay=0.0, fused=True)
    meter, done, epoch = Meter(), 0, 0
    while done < options.steps:
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            steps.zero_grad()
            readout(network, batch).loss(batch["input_ids"], shares(batch["weights"])[0]).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            steps.step()
            meter.step(int(batch["attention_mask"].sum()))
            done += 1
            if done == options.steps:
                break
        epoch += 1
    return network, meter


def run_trl(options: argparse.Namespace, grouped: bool, packed: bool) -> tuple[Any, Meter]:
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    network = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    meter, seen = Meter(), [0]

    class Counter(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.step(seen[0])
            seen[0] = 0

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen[0] += (
                int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
            )
            return super().training_step(model, inputs, *args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            folder,
            **their_settings(options.steps, BATCH, RATE, CLIP),
            max_length=LENGTH,
            bf16=False,
            fp16=False,
            gradient_checkpointing=False,
            packing=packed,
            logging_steps=10,
            **({"train_sampling_strategy": "group_by_length"} if grouped else {}),
        )
        rows = load_dataset("json", data_files=options.data, split="train", cache_dir=folder)
        words = AutoTokenizer.from_pretrained(options.model)
        trainer = Counting(network, config, train_dataset=rows, processing_class=words, callbacks=[Counter()])
        trainer.train()
    return network, meter


def run_arm(options: argparse.Namespace) -> dict[str, float]:
    """One arm, in this process."""
    import torch

    torch.set_num_threads(options.threads)
    arm = options.arm
    if arm.startswith("trl"):
        network, meter = run_trl(options, arm == "trl_grouped", arm == "trl_packed")
    elif arm == "bare":
        network, meter = run_bare(options)
    else:
        precision = "bf16-mixed" if arm.endswith("bf16") else "32-true"
        network, meter = run_lit_ft(options, arm == "lit_ft_packed", precision)
    result = meter.result()  # before the loss, which may take more memory
    return {**result, "loss": final_loss(network, options.model, options.data)}


def main() -> None:
    data = "JSONL of prompt and completion"
    parser = peer_arguments(__doc__, steps=40, rounds=1, model="a model folder", data=data)
    parser.add_argument("--vocabulary", type=int, default=4096, help="of the tiny Llama")
    parser.add_argument("--arms", default=",".join(ARMS))
    options = parser.parse_args()
    if options.arm:
        options.json.write_text(json.dumps(run_arm(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            options.data = str(Path(folder) / "rows.jsonl")
            make_rows(Path(options.data))
        if not options.model:
            options.model = str(Path(folder) / "model")
            make_model(Path(options.model), Path(options.data), options.vocabulary)

        def run(arm: str) -> dict[str, float]:
            python = (options.peer or peer_python("trl", REQUIREMENTS)) if arm.startswith("trl") else sys.executable
            shared = {name: getattr(options, name) for name in ("model", "data", "steps", "threads")}
            return in_process(__file__, python, {"arm": arm, **shared})

        results = in_turn(options.arms.split(","), options.rounds, run)
    for packed in (False, True):  # packed arms take other batches, so they are compared among themselves
        check_losses({arm: runs for arm, runs in results.items() if arm.endswith("packed") == packed})
    median = medians(results, "tokens_per_cpu_second")
    first = next(iter(median))
    reference = "trl" if "trl" in median else first
    for arm, speed in median.items():
        last = results[arm][-1]
        print(
            f"{arm:14s} {speed:7.0f} tokens per CPU second  {speed / median[reference]:5.2f} x {reference}   peak"
            f" {last['peak_mib']:5.0f} MiB ({last['above_start_mib']:5.0f} above start)   loss {last['loss']:.3f}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"arms": results, "ratio": {a: s / median[reference] for a, s in median.items()}})
        )


if __name__ == "__main__":
    main()
