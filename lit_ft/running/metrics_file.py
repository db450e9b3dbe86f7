"""The logged values of a run as one CSV file."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from lit_ft.running.files import write_text

History = dict[str, tuple[list[int], list[float]]]


class MetricsFile(Logger):
    """Writes ``metrics.csv``: a row for each call of the trainer; columns ``step``, ``epoch``, then keys.

    Rows are appended; keys get columns as they appear, and a new one rewrites the file once with the longer header. A
    resumed run cuts the file back to the rows that its checkpoint knew, so that an interrupted run ends with the file
    of an uninterrupted one.

    Args:
        folder: The run folder. It is made with the first row.

    See also: :func:`read_history`.

    Example:
        >>> logger = MetricsFile("run")
        >>> logger.log_metrics({"train/loss": 2.5, "epoch": 0}, step=1)
        >>> logger.log_metrics({"val/loss": 2.25, "epoch": 0}, step=1)  # a new column
        >>> logger.finalize("success")
        >>> print(logger.path.read_text(), end="")
        step,epoch,train/loss,val/loss
        1,0,2.5,
        1,0,,2.25
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.columns = ["step", "epoch"]
        self.rows = 0
        self._file: TextIO | None = None

    @property
    def path(self) -> Path:
        """The CSV file."""
        return self.folder / "metrics.csv"

    @property
    def name(self) -> str:
        """Empty: the run folder is ``folder`` itself."""
        return ""

    @property
    def version(self) -> str:
        """Empty: the run folder is ``folder`` itself."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append one row."""
        if self._file is None and not self.rows and self.path.exists():  # what another run of this folder has written
            before = self.read()
            self.rows, self.columns = len(before), list(before[0]) if before else self.columns
        row = {k: float(v) if isinstance(v, Tensor) else v for k, v in metrics.items()}
        row["step"] = step
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        new = [key for key in row if key not in self.columns]
        if new:
            rows = self.read()
            self.columns += sorted(new)
            self._rewrite(rows)
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = not self.path.exists()
            self._file = self.path.open("a", newline="", encoding="utf-8", buffering=1)
            if fresh:
                csv.writer(self._file).writerow(self.columns)
        csv.writer(self._file).writerow([row.get(key, "") for key in self.columns])
        self.rows += 1

    def read(self) -> list[dict[str, str]]:
        """All rows as written."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def cut(self, rows: int) -> None:
        """Keep the first ``rows`` rows; later rows are appended to them."""
        kept = self.read()[:rows]
        # columns that no kept row fills would not be there had the run not been interrupted
        used = {key for row in kept for key, value in row.items() if value not in ("", None)}
        header = list(kept[0]) if kept else ["step", "epoch"]
        self.columns = [key for key in header if key in used or key in ("step", "epoch")]
        self.rows = len(kept)
        self._rewrite(kept)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        self.finalize("")
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file; a later row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_history(path: Path) -> History:
    r"""The curves in a ``metrics.csv``: ``{key: (steps, values)}``.

    Example:
        >>> _ = Path("metrics.csv").write_text("step,epoch,train/loss,val/loss\n1,0,2.5,\n2,0,2.0,\n2,0,,2.25\n")
        >>> read_history(Path("metrics.csv"))
        {'train/loss': ([1, 2], [2.5, 2.0]), 'val/loss': ([2], [2.25])}
    """
    history: History = {}
    if not path.exists():
        return history
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if key not in ("step", "epoch") and value:
                    steps, values = history.setdefault(key, ([], []))
                    steps.append(int(row["step"]))
                    values.append(float(value))
    return history
