"""Selections of parameters, units or layers."""

from typing import TYPE_CHECKING

from lit_ft.core.lazy import index

if TYPE_CHECKING:
    from lit_ft.core.selection.base import And as And
    from lit_ft.core.selection.base import Not as Not
    from lit_ft.core.selection.base import Or as Or
    from lit_ft.core.selection.base import Selection as Selection
    from lit_ft.core.selection.base import as_mask as as_mask
    from lit_ft.core.selection.base import count as count
    from lit_ft.core.selection.base import overlap as overlap
    from lit_ft.core.selection.names import Heads as Heads
    from lit_ft.core.selection.names import Layers as Layers
    from lit_ft.core.selection.names import Names as Names
    from lit_ft.sparse.file import SavedSelection as SavedSelection
    from lit_ft.sparse.file import save_selection as save_selection
    from lit_ft.sparse.fisher import Fisher as Fisher
    from lit_ft.sparse.random_parts import RandomElements as RandomElements
    from lit_ft.sparse.random_parts import RandomHalf as RandomHalf
    from lit_ft.sparse.regions import shared_parts as shared_parts
    from lit_ft.sparse.scored import LearnedScore as LearnedScore
    from lit_ft.sparse.scored import Scored as Scored
    from lit_ft.sparse.scored import TopChange as TopChange
    from lit_ft.sparse.scored import TopMagnitude as TopMagnitude
    from lit_ft.sparse.scored import TopUnits as TopUnits
    from lit_ft.sparse.unit_importance import UnitImportance as UnitImportance

__getattr__, __dir__, __all__ = index(__name__, __file__)
