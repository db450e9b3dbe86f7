"""Numbers over predictions."""

from lit_ft.metrics.answers import AnswerAccuracy as AnswerAccuracy
from lit_ft.metrics.barrier import Barrier as Barrier
from lit_ft.metrics.certified_accuracy import CertifiedAccuracy as CertifiedAccuracy
from lit_ft.metrics.ches import ChesScore as ChesScore
from lit_ft.metrics.continual import ContinualScores as ContinualScores
from lit_ft.metrics.group_accuracy import GroupAccuracy as GroupAccuracy
from lit_ft.metrics.importance import ImportanceLorenz as ImportanceLorenz
from lit_ft.metrics.token_perplexity import TokenPerplexity as TokenPerplexity
from lit_ft.metrics.tool_call_reward import ToolCallReward as ToolCallReward
