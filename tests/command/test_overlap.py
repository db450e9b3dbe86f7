"""The table of overlaps, from two runs of the command."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_ft.command.cli import command
from lit_ft.command.overlap import labels, overlap_command
from lit_ft.command.run import load_run
from lit_ft.core.errors import ConfigError
from lit_ft.core.selection import SavedSelection, as_mask

CONFIG = """
model:
  class_path: ImageClassifier
  init_args:
    network: {config: {model_type: mlp, width: 8, depth: 1}}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
data: {class_path: Digits, init_args: {flat: true, classes: CLASSES}}
trainer:
  max_steps: 10
  limit_val_batches: 0
  callbacks:
    class_path: LearnedGraft
    init_args: {density: 0.2, lr: 0.0, selection: graft.safetensors}
"""


def test_two_tasks_side_by_side(tmp_path: Path) -> None:
    for task, classes in (("low", "[[0], [1]]"), ("high", "[[8], [9]]")):
        (tmp_path / f"{task}.yaml").write_text("# a task" + CONFIG.replace("CLASSES", classes))
        arguments = ["-c", str(tmp_path / f"{task}.yaml"), f"--run_dir={tmp_path / task}", "--seed_everything=0"]
        assert command(["fit", *arguments, "--debug"]) == 0
    files = [tmp_path / task / "graft.safetensors" for task in ("low", "high")]
    asked = "from lit_ft.command.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", asked, "overlap", *map(str, files)], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    shown = [line.split() for line in ran.stdout.splitlines()]
    module = load_run(tmp_path / "low").model
    masks = []
    for file in files:
        chosen = SavedSelection(str(file)).select(module)
        masks.append(torch.cat([as_mask(chosen[name], p).flatten() for name, p in module.network.named_parameters()]))
    shared, sizes = (
        sum(a and b for a, b in zip(*(m.tolist() for m in masks), strict=True)),
        [int(m.sum()) for m in masks],
    )
    assert 0 < shared < min(sizes)
    assert shown[1][:4] == ["low", "1.0000", f"{shared / sizes[0]:.4f}", str(sizes[0])]
    assert shown[2][:4] == ["high", f"{shared / sizes[1]:.4f}", "1.0000", str(sizes[1])]
    with pytest.raises(ConfigError, match="at least two"):
        overlap_command([str(files[0])])


def test_labels_are_as_short_as_can_be() -> None:
    assert labels([Path("a/x/m"), Path("b/x/m")]) == ["a", "b"]
    assert labels([Path("a/x/m"), Path("b/x/n")]) == ["m", "n"]
    assert labels([Path("a/m"), Path("b/m"), Path("b/n")]) == ["a/m", "b/m", "b/n"]
    assert labels([Path("a/m.st"), Path("a/n.st")]) == ["m", "n"]
    assert labels([Path("m"), Path("m")]) == ["m", "m"]
