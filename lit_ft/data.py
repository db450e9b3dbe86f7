"""Data modules: what is in a batch, and in which order."""

from typing import TYPE_CHECKING

from lit_ft.core.lazy import index

if TYPE_CHECKING:
    from lit_ft.classification.labelled_text import LabelledText as LabelledText
    from lit_ft.classification.numbers import GaussianClusters as GaussianClusters
    from lit_ft.classification.numbers import NoisyLinear as NoisyLinear
    from lit_ft.embedding.label_triplets import LabelTriplets as LabelTriplets
    from lit_ft.embedding.text_pairs import TextPairs as TextPairs
    from lit_ft.language.answer_options import AnswerOptions as AnswerOptions
    from lit_ft.language.decomposition import DatasetDecomposition as DatasetDecomposition
    from lit_ft.language.denoising import MixtureOfDenoisers as MixtureOfDenoisers
    from lit_ft.language.instructions import Instructions as Instructions
    from lit_ft.language.joined_text import JoinedText as JoinedText
    from lit_ft.language.many_shot import ManyShot as ManyShot
    from lit_ft.language.mixture import Mixture as Mixture
    from lit_ft.language.model_edits import ModelEdits as ModelEdits
    from lit_ft.language.scored_text import ScoredText as ScoredText
    from lit_ft.language.streamed_instructions import StreamedInstructions as StreamedInstructions
    from lit_ft.language.tool_conversations import ToolConversations as ToolConversations
    from lit_ft.preference.ches_filter import ChesFilter as ChesFilter
    from lit_ft.preference.edited_pairs import EditedPairs as EditedPairs
    from lit_ft.preference.preferences import Preferences as Preferences
    from lit_ft.preference.unpaired_preferences import UnpairedPreferences as UnpairedPreferences
    from lit_ft.vision.digits import Digits as Digits
    from lit_ft.vision.image_folder import ImageFolder as ImageFolder
    from lit_ft.vision.labelled_images import LabelledImages as LabelledImages
    from lit_ft.vision.mnist import MNIST5k as MNIST5k
    from lit_ft.vision.redundant_digits import RedundantDigits as RedundantDigits
    from lit_ft.vision.side_by_side import SideBySide as SideBySide
    from lit_ft.worlds.invented_facts import FactEdits as FactEdits
    from lit_ft.worlds.invented_facts import KnownFacts as KnownFacts
    from lit_ft.worlds.marked_corpus import MarkedCorpus as MarkedCorpus
    from lit_ft.worlds.permuted_labels import PermutedLabels as PermutedLabels
    from lit_ft.worlds.permuted_labels import PermutedQuestions as PermutedQuestions
    from lit_ft.worlds.sum_chains import SumChains as SumChains
    from lit_ft.worlds.tool_traces import ToolQuestions as ToolQuestions
    from lit_ft.worlds.tool_traces import ToolTraces as ToolTraces

__getattr__, __dir__, __all__ = index(__name__, __file__)
