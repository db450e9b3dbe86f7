"""Methods: what is optimised."""

from lit_ft.methods.expert_embedding import ExpertEmbedding as ExpertEmbedding
from lit_ft.methods.images.certified_classifier import CertifiedClassifier as CertifiedClassifier
from lit_ft.methods.images.classifier_pair import ClassifierPair as ClassifierPair
from lit_ft.methods.images.concat_representations import ConcatRepresentations as ConcatRepresentations
from lit_ft.methods.images.distilled_representations import DistilledRepresentations as DistilledRepresentations
from lit_ft.methods.images.distribution_regularized import DistributionRegularized as DistributionRegularized
from lit_ft.methods.images.grouped_classifier import GroupedClassifier as GroupedClassifier
from lit_ft.methods.images.image_classifier import ImageClassifier as ImageClassifier
from lit_ft.methods.images.independent_members import IndependentMembers as IndependentMembers
from lit_ft.methods.images.leave_one_out_neighbours import LeaveOneOutNeighbours as LeaveOneOutNeighbours
from lit_ft.methods.images.mode_connectivity import ModeConnectivity as ModeConnectivity
from lit_ft.methods.language.masked_thought import MaskedThought as MaskedThought
from lit_ft.methods.language.option_scoring import OptionScoring as OptionScoring
from lit_ft.methods.language.preference_pretraining import PreferencePretraining as PreferencePretraining
from lit_ft.methods.language.supervised_fine_tuning import SupervisedFineTuning as SupervisedFineTuning
from lit_ft.methods.language.text_generation import TextGeneration as TextGeneration
from lit_ft.methods.preference.dpo import DPO as DPO
from lit_ft.methods.preference.kto import KTO as KTO
from lit_ft.methods.preference.reference import AdapterOff as AdapterOff
from lit_ft.methods.preference.reference import CachedLogProbs as CachedLogProbs
from lit_ft.methods.preference.reference import FrozenCopy as FrozenCopy
from lit_ft.methods.preference.reward_model import RewardModel as RewardModel
from lit_ft.methods.preference.unpaired_bco import UnpairedBCO as UnpairedBCO
from lit_ft.methods.regression import Regression as Regression
from lit_ft.methods.sentence_embedding import SentenceEmbedding as SentenceEmbedding
from lit_ft.methods.text_classifier import TextClassifier as TextClassifier
