"""The overlap of the regions of several tasks in one network."""

from collections.abc import Mapping

from torch import nn

from lit_ft.core.selection.base import Choice, both, count


def shared_parts(regions: Mapping[str, Mapping[str, Choice]], module: nn.Module) -> dict[str, dict[str, float]]:
    r"""For each pair of regions :math:`|a \cap b| / |a|`: the share of a (outer key) that is in b (inner key).

    Between unrelated regions the expected share is the density of b, :math:`|b| / N`, as for a random a. ``overlap``
    gives the symmetric :math:`|a \cap b| / |a \cup b|`. An empty region shares 0.

    Args:
        regions: Choices by task name: from ``Selection.select``, or ``SavedSelection(path).select`` for a file.
        module: The network that they select from.

    Source: A. Panigrahi et al., "Task-Specific Skill Localization in Fine-tuned Language Models", 2023, arXiv
    2302.06600 (overlap of grafting regions).

    See also: :func:`~lit_ft.core.selection.overlap`.

    Example:
        >>> regions = {"a": {"weight": True}, "b": {"weight": True, "bias": True}}
        >>> shared_parts(regions, nn.Linear(4, 2))
        {'a': {'a': 1.0, 'b': 1.0}, 'b': {'a': 0.8, 'b': 1.0}}
    """
    parts: dict[str, dict[str, float]] = {}
    for a, region in regions.items():
        size, _ = count(region, module)
        parts[a] = {}
        for b, other in regions.items():
            shared, _ = count({name: both(choice, other.get(name, False)) for name, choice in region.items()}, module)
            parts[a][b] = shared / size if size else 0.0
    return parts
