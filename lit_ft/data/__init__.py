"""Data modules: what is in a batch, and in which order."""

from lit_ft.data.answer_options import AnswerOptions as AnswerOptions
from lit_ft.data.ches_filter import ChesFilter as ChesFilter
from lit_ft.data.decomposition import DatasetDecomposition as DatasetDecomposition
from lit_ft.data.denoising import MixtureOfDenoisers as MixtureOfDenoisers
from lit_ft.data.digits import Digits as Digits
from lit_ft.data.edited_pairs import EditedPairs as EditedPairs
from lit_ft.data.generated import GaussianClusters as GaussianClusters
from lit_ft.data.generated import NoisyLinear as NoisyLinear
from lit_ft.data.image_folder import ImageFolder as ImageFolder
from lit_ft.data.instructions import Instructions as Instructions
from lit_ft.data.joined_text import JoinedText as JoinedText
from lit_ft.data.labelled_text import LabelledText as LabelledText
from lit_ft.data.many_shot import ManyShot as ManyShot
from lit_ft.data.marked_corpus import MarkedCorpus as MarkedCorpus
from lit_ft.data.mixture import Mixture as Mixture
from lit_ft.data.mnist import MNIST5k as MNIST5k
from lit_ft.data.permuted_labels import PermutedLabels as PermutedLabels
from lit_ft.data.preferences import Preferences as Preferences
from lit_ft.data.redundant_digits import RedundantDigits as RedundantDigits
from lit_ft.data.scored_text import ScoredText as ScoredText
from lit_ft.data.text_pairs import TextPairs as TextPairs
from lit_ft.data.unpaired_preferences import UnpairedPreferences as UnpairedPreferences
