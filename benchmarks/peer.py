"""Environments with the libraries that the benchmarks compare with, each made once."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "build" / "peers"


def peer_python(name: str, requirements: Sequence[str]) -> str:
    """The Python of an environment that has some packages, beside the torch of this one.

    Args:
        name: Of the environment.
        requirements: What is installed in it, as for pip.
    """
    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        print(f"making an environment for {name} ...", file=sys.stderr)
        import torch

        subprocess.run([sys.executable, "-m", "venv", str(FOLDER / name)], check=True)
        for wanted in ([f"torch=={torch.__version__.split('+')[0]}"], requirements):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
    return str(python)
