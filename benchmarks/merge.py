"""Merging three models of some 650 MB each, linear and TIES, beside mergekit.

The models are made here: one base and three copies with noise on it, float32. Each arm is a whole process. The
results must agree before any time is printed: linear to the last bit, TIES to 1e-7, apart from entries of equal size
at the edge of what is kept, of which mergekit takes any. Prints CPU seconds and the peak of memory.

    python benchmarks/merge.py --rounds 3 --threads 1 --json merge.json
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peer import arguments, in_turn, medians, peer_python

SIZES = {"hidden_size": 896, "intermediate_size": 2560, "num_hidden_layers": 12, "vocab_size": 30000}
WEIGHTS = (0.2, 0.3, 0.5)
DENSITY = 0.2
MEASURED = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stderr[-2000:], used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def make_models(folder: Path, sizes: dict[str, int]) -> None:
    """``base``, and ``a``, ``b`` and ``c`` with noise of different sizes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(num_attention_heads=14, num_key_value_heads=2, **sizes))
    network.save_pretrained(folder / "base")
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in "abc":
        with torch.no_grad():
            for key, tensor in network.state_dict().items():
                tensor.copy_(start[key] + 0.01 * torch.randn_like(tensor))
        network.save_pretrained(folder / name)


def recipes(folder: Path) -> None:
    """The same two merges in the words of the peer."""
    models = [
        {"model": str(folder / name), "parameters": {"weight": weight, "density": DENSITY}}
        for name, weight in zip("abc", WEIGHTS, strict=True)
    ]
    linear = {"merge_method": "linear", "models": models, "dtype": "float32", "parameters": {"normalize": True}}
    ties = {**linear, "merge_method": "ties", "base_model": str(folder / "base")}
    for name, recipe in (("linear", linear), ("ties", ties)):
        (folder / f"{name}.json").write_text(json.dumps(recipe))  # which is YAML as well


def run(arm: str, folder: Path, python: str, threads: int) -> dict[str, float]:
    """CPU seconds and peak memory of one merge."""
    who, what = arm.split()
    target = folder / f"{who}-{what}"
    shutil.rmtree(target, ignore_errors=True)
    if who == "lit_ft":
        weights = [str(weight) for weight in WEIGHTS]
        more = ["--base", "base", "--density", str(DENSITY)] if what == "ties" else []
        command = [sys.executable, "-m", "lit_ft", "merge", what, "a", "b", "c", "--weight", *weights, *more]
        command += ["--to", str(target)]
    else:
        command = [python, "-m", "mergekit.scripts.run_yaml", str(folder / f"{what}.json"), str(target)]
        command += ["--no-copy-tokenizer", "--lazy-unpickle"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    status, said, seconds, peak = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{arm} failed:\n{said}")
    return {"cpu_seconds": seconds, "peak_mib": peak}


def compare(folder: Path) -> None:
    """Both ways must give the same network."""
    from lit_ft.merging.expert import expert

    base, inputs = expert(folder / "base"), [expert(folder / name) for name in "abc"]
    for what in ("linear", "ties"):
        ours, theirs = expert(folder / f"lit_ft-{what}"), expert(folder / f"mergekit-{what}")
        for name in theirs.shapes:
            one, other = ours.read(name), theirs.read(name)
            apart = one != other if what == "linear" else (one - other).abs() > 1e-7
            if what == "ties":  # of several entries as large as the smallest kept one, mergekit keeps any
                for tuned in inputs:
                    apart &= ~at_the_threshold(tuned.read(name) - base.read(name))
            if apart.any():
                raise SystemExit(f"{what}: {int(apart.sum())} entries of {name} differ, so times are not compared")


def at_the_threshold(delta: Any) -> Any:
    """A mask of the entries that are as large as the smallest one that TIES keeps."""
    from lit_ft.merging.arithmetic import largest

    return delta.abs() == delta[largest(delta, DENSITY)].abs().min()


def main() -> None:
    parser = arguments(__doc__, steps=1, rounds=3)
    parser.add_argument("--peer", default="", help="Python of the environment with the peer")
    options = parser.parse_args()
    python = options.peer or peer_python("mergekit", ["mergekit==0.1.5"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder, SIZES)
        recipes(folder)
        arms = [f"{who} {what}" for what in ("linear", "ties") for who in ("lit_ft", "mergekit")]
        found = in_turn(arms, options.rounds, lambda arm: run(arm, folder, python, options.threads))
        compare(folder)
    seconds, peak = medians(found, "cpu_seconds"), medians(found, "peak_mib")
    for what in ("linear", "ties"):
        ours, theirs = f"lit_ft {what}", f"mergekit {what}"
        print(
            f"{what}: {seconds[ours]:.1f} against {seconds[theirs]:.1f} CPU s"
            f" ({seconds[ours] / seconds[theirs]:.2f} x), {peak[ours]:,.0f} against {peak[theirs]:,.0f} MiB"
        )
    if options.json:
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
