"""Short names: what a request names is found and imported, and configurations name classes by the doors."""

import subprocess
import sys
from pathlib import Path

from lit_ft.command.catalogue import config_folder
from lit_ft.command.names import known, public
from lit_ft.command.run import resolve


def class_paths(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["class_path"]] if "class_path" in node else []
        return own + [path for value in node.values() for path in class_paths(value)]
    return [path for value in node for path in class_paths(value)] if isinstance(node, list) else []


def test_a_resolved_configuration_names_classes_by_the_doors() -> None:
    """Else run folders would name files, which may move."""
    found = class_paths(resolve(["-c", str(config_folder() / "sparse" / "half_finetuning.yaml")]))
    ours = {path for path in found if path.startswith("lit_ft.")}
    assert {"lit_ft.callbacks.GradientMask", "lit_ft.core.selection.RandomHalf", "lit_ft.data.Instructions"} <= ours
    assert all(path.startswith(known()[path.rpartition(".")[2]][0]) for path in ours if "schedules" not in path)


def test_other_paths_stay_as_they_are() -> None:
    written = {
        "class_path": "mine.SAM",
        "init_args": {"inner": [{"class_path": "SAM"}, {"class_path": "torch.nn.ReLU"}]},
    }
    assert public(written) == written
    assert public({"class_path": "lit_ft.flatness.sam.SAM"}) == {"class_path": "lit_ft.callbacks.SAM"}


def test_a_file_that_a_file_names_counts_and_other_families_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sam.yaml").write_text("class_path: SAM\n")
    (tmp_path / "run.yaml").write_text(
        "model: {class_path: Regression, init_args: {network: {config: {model_type: mlp}}}}\n"
        "data: {class_path: NoisyLinear}\ntrainer: {callbacks: [sam.yaml]}\n"
    )
    code = (
        "import sys; from lit_ft.command.names import import_named; from lit_ft.command.request import Request;"
        "import_named(Request.of(['-c', 'run.yaml']));"
        "print([name in sys.modules for name in ('lit_ft.flatness.sam', 'lit_ft.classification.regression',"
        " 'lit_ft.preference.dpo', 'lit_ft.flatness.edge_of_stability')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, True, False, False]"
