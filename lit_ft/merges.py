"""Merges: how several networks become one; ``lit-ft merge`` and recipes name them, tensor functions use them."""

from typing import TYPE_CHECKING

from lit_ft.core.lazy import index

if TYPE_CHECKING:
    from lit_ft.merging.by_depth import SLERP as SLERP
    from lit_ft.merging.by_depth import LayerSchedule as LayerSchedule
    from lit_ft.merging.by_depth import LayerSwap as LayerSwap
    from lit_ft.merging.by_entry import DARE as DARE
    from lit_ft.merging.by_entry import TIES as TIES
    from lit_ft.merging.by_entry import Breadcrumbs as Breadcrumbs
    from lit_ft.merging.by_entry import ModelStock as ModelStock
    from lit_ft.merging.graft import Graft as Graft
    from lit_ft.merging.merge import LinearMerge as LinearMerge
    from lit_ft.merging.merge import TaskArithmetic as TaskArithmetic

__getattr__, __dir__, __all__ = index(__name__, __file__)
