"""Direct preference optimisation beside TRL: tokens per CPU second, with the reference computed in each step or once.

Each arm is a process of its own, on the same pairs and the same initial weights, with the same batch size, optimizer,
rate and clipping, in float32. What counts are tokens of both answers that are not padding, from the first to the last
step, in CPU seconds of the process; ``fit`` is the CPU time of everything, the reference over all pairs included.
Afterwards each arm computes the DPO loss over the pairs in the same plain way; all must agree within 3 % before any
speed is printed.

TRL lives in an environment of its own, which is made at the first run (--peer names another one's Python).

    python benchmarks/dpo.py --steps 20 --threads 1 --json dpo.json
    python benchmarks/dpo.py --model DIR --data FILE.jsonl          (rows of prompt, chosen and rejected)
"""

import argparse
import json
import random
import sys
import tempfile
from itertools import pairwise
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
from sft import LENGTH, REQUIREMENTS, make_model, make_rows

ARMS = ["lit_ft", "trl", "lit_ft_cached", "trl_precomputed"]
BATCH, RATE, CLIP, BETA = 8, 2e-5, 1.0, 0.1


def make_pairs(path: Path, n: int) -> None:
    """Prompts of made-up words, each with the answers to two of them."""
    make_rows(path, n + 1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    random.Random(1).shuffle(rows)
    pairs = [{"prompt": a["prompt"], "chosen": a["completion"], "rejected": b["completion"]} for a, b in pairwise(rows)]
    path.write_text("\n".join(json.dumps(pair) for pair in pairs))


def final_loss(network: Any, model: str, data: str) -> float:
    """Mean DPO loss over the first hundred pairs, one answer at a time, written out."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(model)
    before = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    network.eval()

    def log_prob(policy: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *answer]])[:, :LENGTH]
        logits = policy(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        return logits.gather(-1, ids[0, len(prompt) :, None]).sum()

    losses = []
    with torch.no_grad():
        for line in Path(data).read_text().splitlines()[:100]:
            row = json.loads(line)
            prompt = words(row["prompt"], add_special_tokens=False)["input_ids"]
            ratios = []
            for side in ("chosen", "rejected"):
                answer = [*words(row[side], add_special_tokens=False)["input_ids"], words.eos_token_id]
                ratios.append(log_prob(network, prompt, answer) - log_prob(before, prompt, answer))
            losses.append(-torch.nn.functional.logsigmoid(BETA * (ratios[0] - ratios[1])))
    return float(torch.stack(losses).mean())


def run_lit_ft(options: argparse.Namespace, cached: bool) -> tuple[Any, dict[str, float]]:
    """Train with the trainer of Lightning, the reference as a copy or on disk."""
    import torch

    from lit_ft.data import Preferences
    from lit_ft.methods import DPO, CachedLogProbs, FrozenCopy

    with tempfile.TemporaryDirectory() as folder:
        module = DPO(
            {"path": options.model},  # type: ignore[arg-type]
            beta=BETA,
            reference=CachedLogProbs(f"{folder}/reference.pt") if cached else FrozenCopy(),
            optimizer=lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.0),
        )
        meter = Meter()
        trainer = our_trainer(options.steps, CLIP, lambda batch: meter.step(int(batch["attention_mask"].sum())))
        data = Preferences(options.data, max_length=LENGTH, batch_size=BATCH, val_fraction=0.0)
        trainer.fit(module, datamodule=data)
        return module.network, meter.result()


def run_trl(options: argparse.Namespace, precomputed: bool) -> tuple[Any, dict[str, float]]:
    """The same with the peer's trainer and its defaults."""
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    network, before = (AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32) for _ in range(2))
    seen = [0]

    class Counter(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.step(seen[0])
            seen[0] = 0

    class Counting(DPOTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen[0] += int(inputs["attention_mask"].sum())
            return super().training_step(model, inputs, *args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            folder,
            **their_settings(options.steps, BATCH, RATE, CLIP),
            beta=BETA,
            max_length=LENGTH,
            precompute_ref_log_probs=precomputed,
            bf16=False,
            fp16=False,
            gradient_checkpointing=False,
        )
        meter = Meter()
        rows = load_dataset("json", data_files=options.data, split="train", cache_dir=folder)
        words = AutoTokenizer.from_pretrained(options.model)
        trainer = Counting(
            network, before, args=config, train_dataset=rows, processing_class=words, callbacks=[Counter()]
        )
        trainer.train()
        return network, meter.result()


def run_arm(options: argparse.Namespace) -> dict[str, float]:
    """One arm, in this process."""
    import torch

    torch.set_num_threads(options.threads)
    if options.arm.startswith("trl"):
        network, result = run_trl(options, options.arm == "trl_precomputed")
    else:
        network, result = run_lit_ft(options, options.arm == "lit_ft_cached")
    return {**result, "loss": final_loss(network, options.model, options.data)}


def main() -> None:
    """Run the arms in turn and compare them."""
    parser = peer_arguments(__doc__, steps=20, rounds=1, model="a model folder", data="JSONL of pairs")
    parser.add_argument("--vocabulary", type=int, default=4096, help="of the tiny Llama")
    parser.add_argument("--arms", default=",".join(ARMS))
    options = parser.parse_args()
    if options.steps < 2:
        raise SystemExit("--steps: at least 2, as the first one pays for warming up")
    if options.arm:
        options.json.write_text(json.dumps(run_arm(options)))
        return

    def run(arm: str) -> dict[str, float]:
        python = (options.peer or peer_python("trl", REQUIREMENTS)) if arm.startswith("trl") else sys.executable
        names = ("model", "data", "steps", "threads")
        return in_process(__file__, python, {"arm": arm, **{name: getattr(options, name) for name in names}})

    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            options.data = str(Path(folder) / "pairs.jsonl")
            make_pairs(Path(options.data), options.steps * BATCH)  # whole epochs: all arms see the same pairs
        if not options.model:
            options.model = str(Path(folder) / "model")
            make_model(Path(options.model), Path(options.data), options.vocabulary)
        results = in_turn(options.arms.split(","), options.rounds, run)
    check_losses(results)
    speed, fit = medians(results, "tokens_per_cpu_second"), medians(results, "fit_cpu_seconds")
    peer = {arm: speed.get("trl_precomputed" if arm.endswith(("cached", "precomputed")) else "trl") for arm in speed}
    ratio = {arm: speed[arm] / theirs for arm, theirs in peer.items() if theirs is not None}
    for arm in speed:
        last = results[arm][-1]
        print(
            f"{arm:15s} {speed[arm]:7.0f} tokens per CPU second  {ratio.get(arm, float('nan')):5.2f} x its peer  "
            f" fit {fit[arm]:6.1f} s   peak {last['peak_mib']:5.0f} MiB   loss {last['loss']:.4f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"arms": results, "ratio": ratio}))


if __name__ == "__main__":
    main()
