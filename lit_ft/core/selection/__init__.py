"""Selections: which parameters, units or layers are meant."""

from lit_ft.core.selection.base import And as And
from lit_ft.core.selection.base import Not as Not
from lit_ft.core.selection.base import Or as Or
from lit_ft.core.selection.base import Selection as Selection
from lit_ft.core.selection.base import as_mask as as_mask
from lit_ft.core.selection.base import count as count
from lit_ft.core.selection.base import overlap as overlap
from lit_ft.core.selection.file import SavedSelection as SavedSelection
from lit_ft.core.selection.file import save_selection as save_selection
from lit_ft.core.selection.fisher import Fisher as Fisher
from lit_ft.core.selection.names import Heads as Heads
from lit_ft.core.selection.names import Layers as Layers
from lit_ft.core.selection.names import Names as Names
from lit_ft.core.selection.random_parts import RandomElements as RandomElements
from lit_ft.core.selection.random_parts import RandomHalf as RandomHalf
from lit_ft.core.selection.regions import shared_parts as shared_parts
from lit_ft.core.selection.scored import LearnedScore as LearnedScore
from lit_ft.core.selection.scored import Scored as Scored
from lit_ft.core.selection.scored import TopChange as TopChange
from lit_ft.core.selection.scored import TopMagnitude as TopMagnitude
from lit_ft.core.selection.scored import TopUnits as TopUnits
from lit_ft.core.selection.unit_importance import UnitImportance as UnitImportance
