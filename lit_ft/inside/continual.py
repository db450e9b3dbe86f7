"""Metrics over a sequence of tasks, and comparisons that do not reward slow learning."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_ft.core.errors import ConfigError


class ContinualScores(Metric):
    r"""Summary of the scores :math:`R_{i,j}` on task j after training on task i, for tasks learned one after another.

    With T tasks and b the scores of an untrained network (higher is better):

    - ``average`` :math:`\frac1T \sum_j R_{T,j}`
    - ``backward_transfer`` :math:`\frac1{T-1} \sum_{j<T} (R_{T,j} - R_{j,j})`; negative is forgetting
    - ``forgetting`` :math:`\frac1{T-1} \sum_{j<T} (\max_{j \le i < T} R_{i,j} - R_{T,j})`
    - ``forward_transfer`` :math:`\frac1{T-1} \sum_{j>1} (R_{j-1,j} - b_j)`; only with b

    ``update`` adds one row of the matrix. A row may be longer than the number of stages so far (tasks not yet learned).

    Source: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory for Continual Learning", 2017, arXiv 1706.08840;
    A. Chaudhry et al., "Riemannian Walk for Incremental Learning", 2018, arXiv 1801.10112 (``forgetting``).

    Args:
        untrained: Scores of the untrained network on each task, for ``forward_transfer``; None leaves it out.

    See also: :func:`at_matched_loss`, for runs that learn at different speeds.

    Example:
        >>> metric = ContinualScores()
        >>> metric.update([0.9, 0.1])
        >>> metric.update([0.6, 0.8])
        >>> {name: round(value.item(), 2) for name, value in metric.compute().items()}
        {'average': 0.7, 'backward_transfer': -0.3, 'forgetting': 0.3}
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, untrained: list[float] | None = None) -> None:
        super().__init__(sync_on_compute=False)  # all processes get the same scores
        self.untrained = untrained
        self.add_state("rows", default=[], dist_reduce_fx=None)

    def update(self, scores: Sequence[float] | Tensor) -> None:
        """Add a row: the scores on all tasks after one more stage."""
        row = torch.as_tensor(scores, dtype=torch.float64)
        if self.rows and len(row) != len(self.rows[0]):
            raise ConfigError("scores", len(row), f"a score for each of {len(self.rows[0])} tasks")
        self.rows.append(row)

    def compute(self) -> dict[str, Tensor]:
        """The scores over the tasks that have been learned."""
        stages = len(self.rows)
        if not stages or stages > len(self.rows[0]):
            raise ConfigError("scores", f"{stages} rows", "as many rows as tasks that were learned, at least one")
        matrix = torch.stack(self.rows)
        last, learned = matrix[-1], torch.arange(stages)
        result = {"average": last[:stages].mean()}
        if stages < 2:
            return result
        result["backward_transfer"] = (last[: stages - 1] - matrix[learned, learned][:-1]).mean()
        best = torch.stack([matrix[j : stages - 1, j].max() for j in range(stages - 1)])
        result["forgetting"] = (best - last[: stages - 1]).mean()
        if self.untrained is not None:
            before = torch.as_tensor(self.untrained, dtype=torch.float64)
            result["forward_transfer"] = (matrix[learned[:-1], learned[1:]] - before[1:stages]).mean()
        return result


def at_matched_loss(new: Sequence[float], old: Sequence[float], level: float) -> float:
    """The score on an old task when the loss on the new one first falls to ``level``, linearly interpolated.

    Compare runs at a level that both reach, because a run that learns more slowly also forgets less.

    Args:
        new: Loss on the new task at each evaluation.
        old: Score on the old task (loss, accuracy) at the same evaluations.
        level: The level of the loss on the new task.

    Returns:
        The score; NaN if the loss never falls to the level.

    See also: :func:`matched_levels`.

    Example:
        >>> at_matched_loss(new=[2.0, 1.0], old=[0.5, 1.5], level=1.5)
        1.0
    """
    if len(new) != len(old) or not new:
        raise ConfigError("new, old", (len(new), len(old)), "two curves of the same length, at least 1")
    for i, loss in enumerate(new):
        if loss <= level:
            if i == 0:
                return float(old[0])
            share = (new[i - 1] - level) / (new[i - 1] - loss)
            return float(old[i - 1] + share * (old[i] - old[i - 1]))
    return float("nan")


def matched_levels(*runs: Sequence[float], number: int = 5) -> list[float]:
    """Loss levels that all runs reach: evenly spaced from the lowest first loss down to the highest of the best losses.

    Args:
        runs: Loss on the new task at each evaluation, one sequence a run.
        number: Number of levels.

    Example:
        >>> matched_levels([2.0, 1.0], [2.0, 0.5], number=2)
        [1.5, 1.0]
    """
    if not runs or number < 1:
        raise ConfigError("runs", len(runs), "at least one run and one level")
    start, end = min(run[0] for run in runs), max(min(run) for run in runs)
    return [start + (end - start) * (i + 1) / number for i in range(number)]
