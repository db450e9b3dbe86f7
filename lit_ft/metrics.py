"""Metrics over predictions."""

from typing import TYPE_CHECKING

from lit_ft.core.lazy import index

if TYPE_CHECKING:
    from lit_ft.connectivity.barrier import Barrier as Barrier
    from lit_ft.inside.continual import ContinualScores as ContinualScores
    from lit_ft.inside.importance import ImportanceLorenz as ImportanceLorenz
    from lit_ft.language.answers import AnswerAccuracy as AnswerAccuracy
    from lit_ft.language.token_perplexity import TokenPerplexity as TokenPerplexity
    from lit_ft.language.tool_call_reward import ToolCallReward as ToolCallReward
    from lit_ft.preference.ches import ChesScore as ChesScore
    from lit_ft.vision.certified_accuracy import CertifiedAccuracy as CertifiedAccuracy
    from lit_ft.vision.group_accuracy import GroupAccuracy as GroupAccuracy

__getattr__, __dir__, __all__ = index(__name__, __file__)
