"""Every notebook runs from the first cell to the last, and is kept without outputs."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from lit_ft.running.processes import start

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are cleared in git"
    return notebook


def run(path: str) -> None:
    """Its cells in the shell of a kernel, in this process: what they import is there already."""
    from IPython.core.interactiveshell import InteractiveShell

    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as in a kernel
    shell = InteractiveShell.instance()
    for cell in cells(Path(path)).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source, store_history=True).raise_error()


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start(run, str(path), stdout=tmp_path / "printed").result(300)


def test_one_runs_in_a_kernel(tmp_path: Path) -> None:
    NotebookClient(cells(NOTEBOOKS[0]), timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
