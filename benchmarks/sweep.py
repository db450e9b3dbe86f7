"""What a study costs beyond its runs: wall time of 20 runs side by side, over the time that their training took.

The runs are real ones of ``lit-ft study`` on handwritten digits, ``--steps`` long, ``--jobs`` at once. Their own time
is ``wall_seconds`` of their reports, from the first step to the last evaluation. What is beyond it: planning, the look
at every arm before the first run, processes, building, checkpoints, tests and reports. It should run alone on the
machine.

    python benchmarks/sweep.py --steps 4000 --rounds 1 --json sweep.json
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peer import arguments

CONFIG = Path(__file__).parents[1] / "configs" / "vision" / "digits.yaml"
STUDY = """claim: none
base: [base.yaml]
arms: {slow: {model: {init_args: {optimizer: {init_args: {lr: 1.0e-4}}}}}, fast: {}}
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
measure: {accuracy: test/accuracy}
expect: [fast.accuracy - slow.accuracy > 0]
"""


def measure(steps: int, jobs: int) -> dict[str, float]:
    """One study, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        length = f"trainer: {{max_steps: {steps}, max_epochs: -1, check_val_every_n_epoch: 20}}\n"
        Path(folder, "length.yaml").write_text(length)
        Path(folder, "sweep.yaml").write_text(STUDY.replace("base.yaml", f"{CONFIG}, length.yaml"))
        start = time.perf_counter()
        command = [sys.executable, "-m", "lit_ft", "study", "sweep.yaml", "--jobs", str(jobs)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        wall = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
        reports = sorted(Path(folder).glob("runs/studies/sweep/[fs]*/seed*/report.json"))
        own = [json.loads(report.read_text())["wall_seconds"] for report in reports]
        assert len(own) == 20, f"{len(own)} runs"
    return {"wall": wall, "own": sum(own), "each": statistics.mean(own), "overhead": wall * jobs / sum(own) - 1}


def main() -> None:
    parser = arguments(__doc__, steps=4000, rounds=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    options = parser.parse_args()
    rounds = [measure(options.steps, options.jobs) for _ in range(options.rounds)]
    for run in rounds:
        print(
            f"20 runs of {run['each']:.1f} s, {options.jobs} at once: {run['wall']:.1f} s,"
            f" {100 * run['overhead']:+.1f} % over their own time"
        )
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds}))


if __name__ == "__main__":
    main()
