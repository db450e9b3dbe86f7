"""What a study costs beyond its runs: 20 runs of ``lit-ft study``, beside the same runs in processes that never end.

The runs are real ones on handwritten digits, ``--steps`` long, ``--jobs`` at once. The study says how long each took,
from the start of its process to its end; beyond their sum, shared by the jobs, it needs imports, planning, the look at
every arm before the first run, and the verdict. Beside the study, ``--jobs`` processes make the same fits and tests one
after another, with everything imported before the clock starts: what no study can save. Said too, of both: the time of
the training alone, from the first step to the last validation, as the reports have it; where the two differ, the
machine was not the same for both. It should run alone on the machine.

    python benchmarks/sweep.py --steps 4000 --rounds 1 --json sweep.json
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peer import arguments

from lit_ft.running.processes import start

CONFIG = Path(__file__).parents[1] / "configs" / "vision" / "digits.yaml"
STUDY = """claims: [{says: none, expect: [fast.accuracy - slow.accuracy > 0]}]
base: [base.yaml]
arms: {slow: {model: {init_args: {optimizer: {init_args: {lr: 1.0e-4}}}}}, fast: {}}
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
measure: {accuracy: test/accuracy}
"""
RUNS = 20


def make_in_a_row(length: str, folder: str, number: int) -> float:
    """Fits and tests one after another; seconds from the second one on, and the first one is not of the number."""
    from lit_ft.command.preload import quiet
    from lit_ft.command.run import execute

    quiet()
    began = 0.0
    for run in range(number + 1):
        place = f"{folder}/{run}"
        args = ["-c", str(CONFIG), "-c", length, f"--seed_everything={run}", f"--run_dir={place}"]
        if run == 1:
            began = time.perf_counter()
        execute("fit", [*args, *(["--trainer.max_steps=2"] if run == 0 else [])])
        execute("test", [*args, "--ckpt_path=last"])
    return time.perf_counter() - began


def training_seconds(folder: str, reports: str) -> float:
    """Mean wall time of the training of all runs below a folder."""
    own = [json.loads(report.read_text())["wall_seconds"] for report in Path(folder).glob(reports)]
    assert len(own) == RUNS, f"{len(own)} runs"
    return statistics.mean(own)


def measure(steps: int, jobs: int) -> dict[str, float]:
    """One study, and then its runs without it, in a folder of their own; seconds."""
    with tempfile.TemporaryDirectory() as folder:
        length = Path(folder, "length.yaml")
        length.write_text(f"trainer: {{max_steps: {steps}, max_epochs: -1, check_val_every_n_epoch: 20}}\n")
        Path(folder, "sweep.yaml").write_text(STUDY.replace("base.yaml", f"{CONFIG}, length.yaml"))
        begun = time.perf_counter()
        command = [sys.executable, "-m", "lit_ft", "study", "sweep.yaml", "--jobs", str(jobs)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        wall = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
        shares = [RUNS // jobs + (job < RUNS % jobs) for job in range(jobs)]
        rows = [
            start(make_in_a_row, str(length), f"{folder}/{job}", share, stdout=f"{folder}/{job}.log")
            for job, share in enumerate(shares)
        ]
        bare = max(row.result() for row in rows)
        took = [float(seconds) for seconds in re.findall(r"done, ([\d.]+) s", done.stdout)]
        assert len(took) == RUNS, f"{len(took)} runs"
        training = training_seconds(folder, "runs/studies/sweep/[fs]*/seed*/report.json")
        bare_training = training_seconds(folder, "[0-9]*/[1-9]*/report.json")
    return {"wall": wall, "runs": sum(took) / jobs, "bare": bare, "training": training, "bare_training": bare_training}


def main() -> None:
    parser = arguments(__doc__, steps=4000, rounds=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    options = parser.parse_args()
    rounds = [measure(options.steps, options.jobs) for _ in range(options.rounds)]
    for run in rounds:
        trainings = RUNS / options.jobs * run["training"], RUNS / options.jobs * run["bare_training"]
        print(
            f"{RUNS} runs, {options.jobs} at once: {run['wall']:.1f} s,"
            f" {100 * (run['wall'] / run['runs'] - 1):+.1f} % over the runs' own time ({run['runs']:.1f} s),"
            f" {100 * (run['wall'] / run['bare'] - 1):+.1f} % over the same runs in a row ({run['bare']:.1f} s);"
            f" over the training alone {100 * (run['wall'] / trainings[0] - 1):+.1f} % ({trainings[0]:.1f} s),"
            f" in a row {100 * (run['bare'] / trainings[1] - 1):+.1f} % ({trainings[1]:.1f} s)"
        )
    middle = statistics.median(run["wall"] / run["runs"] for run in rounds)
    print(f"median over the runs' own time: {100 * (middle - 1):+.1f} %")
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds}))


if __name__ == "__main__":
    main()
