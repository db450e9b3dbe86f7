"""The prefill of prompts of mixed lengths, packed beside padded: tokens processed, and CPU seconds.

Both ways fill the same cache from the same prompts in one process, in turn; the logits after each prompt must agree to
1e-3 before any speed is printed. Every batch has 32 prompts, in the order of the data.

    python benchmarks/prefill.py --steps 4 --threads 1 --json prefill.json
    python benchmarks/prefill.py --model DIR --data FILE.jsonl          (rows with a text column ``prompt``)
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from peer import model_arguments
from sft import LENGTH, make_model, make_rows

BATCH = 32


def read_prompts(path: str, words: Any, steps: int) -> list[list[list[int]]]:
    """Batches of token ids; the rows are gone through again where there are fewer."""
    texts = [json.loads(line)["prompt"] for line in Path(path).read_text().splitlines()]
    rows = [ids[:LENGTH] for ids in words(texts, add_special_tokens=False)["input_ids"] if ids]
    return [[rows[i % len(rows)] for i in range(step * BATCH, (step + 1) * BATCH)] for step in range(steps)]


def measure(network: Any, batches: list[list[list[int]]]) -> dict[str, dict[str, float]]:
    """Tokens and CPU seconds of each way over all batches."""
    from lit_ft.language.prepack import padded_prefill, prepacked_prefill

    ways = {"padded": padded_prefill, "packed": prepacked_prefill}
    found = {name: {"tokens": 0.0, "seconds": 0.0} for name in ways}
    for batch in batches:
        logits = {}
        for name, way in ways.items():
            start = time.process_time()
            done = way(network, batch)
            found[name]["seconds"] += time.process_time() - start
            found[name]["tokens"] += done.processed
            logits[name] = done.logits
        apart = float((logits["padded"] - logits["packed"]).abs().max())
        if apart > 1e-3:
            raise SystemExit(f"the logits differ by up to {apart:.1e}, so speeds are not compared")
    return found


def main() -> None:
    parser = model_arguments(__doc__, steps=4, rounds=5, model="a model folder", data="JSONL with prompts")
    options = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if not options.data:
            options.data = str(Path(folder) / "rows.jsonl")
            make_rows(Path(options.data))
        if not options.model:
            options.model = str(Path(folder) / "model")
            make_model(Path(options.model), Path(options.data), 4096)
        network = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
        batches = read_prompts(options.data, AutoTokenizer.from_pretrained(options.model), options.steps)
    measure(network, batches[:1])
    rounds = [measure(network, batches) for _ in range(options.rounds)]
    ratio = {
        key: statistics.median(run["padded"][key] / run["packed"][key] for run in rounds)
        for key in ("tokens", "seconds")
    }
    print(f"{ratio['tokens']:.2f} x fewer tokens, {ratio['seconds']:.2f} x less time")
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, "ratio": ratio}))


if __name__ == "__main__":
    main()
