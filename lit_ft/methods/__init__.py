"""Methods: what is optimised."""

from lit_ft.methods.classifier_pair import ClassifierPair as ClassifierPair
from lit_ft.methods.concat_representations import ConcatRepresentations as ConcatRepresentations
from lit_ft.methods.distribution_regularized import DistributionRegularized as DistributionRegularized
from lit_ft.methods.dpo import DPO as DPO
from lit_ft.methods.expert_embedding import ExpertEmbedding as ExpertEmbedding
from lit_ft.methods.grouped_classifier import GroupedClassifier as GroupedClassifier
from lit_ft.methods.image_classifier import ImageClassifier as ImageClassifier
from lit_ft.methods.independent_members import IndependentMembers as IndependentMembers
from lit_ft.methods.kto import KTO as KTO
from lit_ft.methods.leave_one_out_neighbours import LeaveOneOutNeighbours as LeaveOneOutNeighbours
from lit_ft.methods.masked_thought import MaskedThought as MaskedThought
from lit_ft.methods.mode_connectivity import ModeConnectivity as ModeConnectivity
from lit_ft.methods.option_scoring import OptionScoring as OptionScoring
from lit_ft.methods.preference_pretraining import PreferencePretraining as PreferencePretraining
from lit_ft.methods.reference import AdapterOff as AdapterOff
from lit_ft.methods.reference import CachedLogProbs as CachedLogProbs
from lit_ft.methods.reference import FrozenCopy as FrozenCopy
from lit_ft.methods.regression import Regression as Regression
from lit_ft.methods.reward_model import RewardModel as RewardModel
from lit_ft.methods.sentence_embedding import SentenceEmbedding as SentenceEmbedding
from lit_ft.methods.supervised_fine_tuning import SupervisedFineTuning as SupervisedFineTuning
from lit_ft.methods.text_classifier import TextClassifier as TextClassifier
from lit_ft.methods.text_generation import TextGeneration as TextGeneration
