"""Sentence embeddings beside sentence-transformers: encoding, and contrastive training, per CPU second.

Each arm is a process of its own, on the same texts and the same weights, in float32, without dropout. First both
encode: the vectors must agree to 1e-5 (cosine) before any speed is printed. Training is with in-batch negatives, the
same rows, batch, optimizer, rate and clipping; afterwards both must have the same loss over all rows, within 3 %.
``steps`` counts from the second step to the last one, ``fit`` the whole call, with reading and tokenising.

sentence-transformers lives in an environment of its own, made at the first run (--peer names another one's Python).

    python benchmarks/embedding.py --steps 12 --threads 1 --json embedding.json
    python benchmarks/embedding.py --model DIR --data FILE.jsonl         (rows of two text columns)
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer import check_losses, in_process, in_turn, medians, our_trainer, peer_arguments, peer_python, their_settings
from sft import make_model as make_llama
from sft import make_rows

ARMS = ["lit_ft", "sentence_transformers"]
REQUIREMENTS = ["sentence-transformers==6.2.0", "transformers==5.23.0", "datasets", "accelerate"]
BATCH, LENGTH, RATE, CLIP, SCALE = 32, 256, 1e-4, 1.0, 20.0
WORK = ("encode", "steps", "fit")


def make_model(folder: Path, rows: Path) -> None:
    """A BERT of 4 layers of width 256 with the tokenizer of ``sft.py``'s Llama, as a sentence-transformers folder."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from lit_ft.embedding.sentence_encoder import SentenceEncoder

    llama = folder.with_name("llama")
    make_llama(llama, rows, 4096)
    words = AutoTokenizer.from_pretrained(llama)
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}
    config = BertConfig(
        vocab_size=len(words), **sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0
    )
    folder.mkdir()
    SentenceEncoder(BertModel(config)).save_pretrained(folder)
    words.model_max_length = LENGTH
    words.save_pretrained(folder)


def read_pairs(path: str) -> list[tuple[str, str]]:
    """The first two text columns of each row."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    names = [name for name, value in rows[0].items() if isinstance(value, str)][:2]
    return [(row[names[0]], row[names[1]]) for row in rows]


def run_lit_ft(options: argparse.Namespace, meter: Callable[[], None]) -> Callable[[list[str]], Any]:
    """Train where steps are wanted; gives what encodes."""
    import torch

    from lit_ft.data import TextPairs
    from lit_ft.embedding.contrastive import InBatchContrastive
    from lit_ft.methods import SentenceEmbedding

    module = SentenceEmbedding(
        {"path": options.model},  # type: ignore[arg-type]
        InBatchContrastive(SCALE),
        optimizer=lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.0),
    )
    module.configure_model()
    if options.steps:
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "pairs.jsonl"
            rows.write_text("\n".join(json.dumps({"anchor": a, "positive": p}) for a, p in read_pairs(options.data)))
            data = TextPairs(str(rows), max_length=LENGTH, batch_size=BATCH, val_fraction=0.0)
            our_trainer(options.steps, CLIP, lambda batch: meter()).fit(module, datamodule=data)
    return lambda texts: module.encode(texts, max_length=LENGTH)


def run_sentence_transformers(options: argparse.Namespace, meter: Callable[[], None]) -> Callable[[list[str]], Any]:
    """The same with the peer's trainer and its defaults."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from transformers import TrainerCallback

    model = SentenceTransformer(options.model, device="cpu")
    model.max_seq_length = LENGTH
    if options.steps:

        class Counter(TrainerCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                meter()

        anchors, positives = zip(*read_pairs(options.data), strict=True)
        with tempfile.TemporaryDirectory() as folder:
            settings = their_settings(options.steps, BATCH, RATE, CLIP)
            arguments = Arguments(folder, **settings, dataloader_drop_last=True)
            rows = Dataset.from_dict({"anchor": list(anchors), "positive": list(positives)})
            loss = losses.MultipleNegativesRankingLoss(model, scale=SCALE)
            SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=loss, callbacks=[Counter()]).train()
        model.eval()
    return lambda texts: model.encode(texts, convert_to_tensor=True, show_progress_bar=False)


def contrastive_loss(vectors: Any, columns: int = 2) -> float:
    """Mean loss over all rows in batches, by the vectors, written out."""
    import torch

    unit = torch.nn.functional.normalize(vectors, dim=1).unflatten(0, (columns, -1))
    found = [
        torch.nn.functional.cross_entropy(SCALE * a @ p.T, torch.arange(len(a)))
        for a, p in zip(unit[0].split(BATCH), unit[1].split(BATCH), strict=True)
        if len(a) == BATCH
    ]
    return float(torch.stack(found).mean())


def run_arm(options: argparse.Namespace) -> dict[str, float]:
    """One arm, in this process: encode with the weights given, then train, then encode again for the loss."""
    import torch

    torch.set_num_threads(options.threads)
    run = run_lit_ft if options.arm == "lit_ft" else run_sentence_transformers
    steps, options.steps = options.steps, 0
    encode, pairs = run(options, lambda: None), read_pairs(options.data)
    texts = [pair[column] for column in (0, 1) for pair in pairs]
    encode(texts[:64])
    start = time.process_time()
    vectors = encode(texts)
    result = {"encode": len(texts) / (time.process_time() - start)}
    torch.save(torch.nn.functional.normalize(vectors.clone(), dim=1), options.vectors)
    ends: list[float] = []
    options.steps, start = steps, time.process_time()
    encode = run(options, lambda: ends.append(time.process_time()))
    result["fit"] = steps * BATCH / (time.process_time() - start)
    result["steps"] = (len(ends) - 1) * BATCH / (ends[-1] - ends[0])
    return {**result, "loss_before": contrastive_loss(vectors.clone()), "loss": contrastive_loss(encode(texts).clone())}


def check_equal(folder: Path, results: dict[str, list[dict[str, float]]]) -> None:
    """Both must give the same vectors and have learned the same."""
    import torch

    ours, theirs = (torch.load(folder / arm, weights_only=True) for arm in ARMS)
    apart = float((1 - (ours * theirs).sum(1)).abs().max())
    if apart > 1e-5:
        raise SystemExit(f"the vectors differ by up to {apart:.1e}, so speeds are not compared")
    check_losses(results)
    print(f"largest cosine distance of two vectors {apart:.1e}; losses after training {medians(results, 'loss')}")


def main() -> None:
    data = "JSONL with two columns of text"
    parser = peer_arguments(__doc__, steps=12, rounds=3, model="a sentence encoder", data=data)
    parser.add_argument("--vectors", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps < 2:
        raise SystemExit("--steps: at least 2, as the first one pays for warming up")
    if options.arm:
        options.json.write_text(json.dumps(run_arm(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not options.data:
            options.data = str(folder / "rows.jsonl")
            make_rows(Path(options.data), 4 * BATCH)  # whole epochs: both arms see the same rows
        if not options.model:
            options.model = str(folder / "model")
            make_model(Path(options.model), Path(options.data))

        def run(arm: str) -> dict[str, float]:
            ours = arm == "lit_ft"
            python = sys.executable if ours else options.peer or peer_python("sentence_transformers", REQUIREMENTS)
            shared = {name: getattr(options, name) for name in ("model", "data", "steps", "threads")}
            return in_process(__file__, python, {"arm": arm, **shared, "vectors": folder / arm})

        results = in_turn(ARMS, options.rounds, run)
        check_equal(folder, results)
    ratios: dict[str, float] = {}
    for work in WORK:
        each = medians(results, work)
        ratios[work] = each["lit_ft"] / each["sentence_transformers"]
        unit = "texts" if work == "encode" else "pairs"
        print(
            f"{work:7s} {each['lit_ft']:7.1f} {unit} per CPU second, sentence-transformers"
            f" {each['sentence_transformers']:7.1f}: {ratios[work]:.2f} x"
        )
    if options.json:
        options.json.write_text(json.dumps({"arms": results, "ratio": ratios}))


if __name__ == "__main__":
    main()
