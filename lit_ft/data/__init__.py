"""Data modules: what is in a batch, and in which order."""

from lit_ft.data.generated import GaussianClusters as GaussianClusters
from lit_ft.data.generated import NoisyLinear as NoisyLinear
from lit_ft.data.images.digits import Digits as Digits
from lit_ft.data.images.image_folder import ImageFolder as ImageFolder
from lit_ft.data.images.mnist import MNIST5k as MNIST5k
from lit_ft.data.images.redundant_digits import RedundantDigits as RedundantDigits
from lit_ft.data.labelled_text import LabelledText as LabelledText
from lit_ft.data.language.answer_options import AnswerOptions as AnswerOptions
from lit_ft.data.language.decomposition import DatasetDecomposition as DatasetDecomposition
from lit_ft.data.language.denoising import MixtureOfDenoisers as MixtureOfDenoisers
from lit_ft.data.language.instructions import Instructions as Instructions
from lit_ft.data.language.joined_text import JoinedText as JoinedText
from lit_ft.data.language.many_shot import ManyShot as ManyShot
from lit_ft.data.language.marked_corpus import MarkedCorpus as MarkedCorpus
from lit_ft.data.language.mixture import Mixture as Mixture
from lit_ft.data.language.permuted_labels import PermutedLabels as PermutedLabels
from lit_ft.data.language.scored_text import ScoredText as ScoredText
from lit_ft.data.language.streamed_instructions import StreamedInstructions as StreamedInstructions
from lit_ft.data.language.tool_conversations import ToolConversations as ToolConversations
from lit_ft.data.language.tool_traces import ToolQuestions as ToolQuestions
from lit_ft.data.language.tool_traces import ToolTraces as ToolTraces
from lit_ft.data.pairs.ches_filter import ChesFilter as ChesFilter
from lit_ft.data.pairs.edited_pairs import EditedPairs as EditedPairs
from lit_ft.data.pairs.preferences import Preferences as Preferences
from lit_ft.data.pairs.text_pairs import TextPairs as TextPairs
from lit_ft.data.pairs.unpaired_preferences import UnpairedPreferences as UnpairedPreferences
