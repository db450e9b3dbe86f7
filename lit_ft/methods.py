"""Methods: what is optimised."""

from typing import TYPE_CHECKING

from lit_ft.core.lazy import index

if TYPE_CHECKING:
    from lit_ft.classification.regression import Regression as Regression
    from lit_ft.classification.text_classifier import TextClassifier as TextClassifier
    from lit_ft.connectivity.classifier_pair import ClassifierPair as ClassifierPair
    from lit_ft.connectivity.mode_connectivity import ModeConnectivity as ModeConnectivity
    from lit_ft.embedding.expert_embedding import ExpertEmbedding as ExpertEmbedding
    from lit_ft.embedding.sentence_embedding import SentenceEmbedding as SentenceEmbedding
    from lit_ft.language.masked_thought import MaskedThought as MaskedThought
    from lit_ft.language.option_scoring import OptionScoring as OptionScoring
    from lit_ft.language.preference_pretraining import PreferencePretraining as PreferencePretraining
    from lit_ft.language.supervised_fine_tuning import SupervisedFineTuning as SupervisedFineTuning
    from lit_ft.language.text_generation import TextGeneration as TextGeneration
    from lit_ft.preference.dpo import DPO as DPO
    from lit_ft.preference.kto import KTO as KTO
    from lit_ft.preference.reference import AdapterOff as AdapterOff
    from lit_ft.preference.reference import CachedLogProbs as CachedLogProbs
    from lit_ft.preference.reference import FrozenCopy as FrozenCopy
    from lit_ft.preference.reward_model import RewardModel as RewardModel
    from lit_ft.preference.unpaired_bco import UnpairedBCO as UnpairedBCO
    from lit_ft.vision.certified_classifier import CertifiedClassifier as CertifiedClassifier
    from lit_ft.vision.concat_representations import ConcatRepresentations as ConcatRepresentations
    from lit_ft.vision.distilled_representations import DistilledRepresentations as DistilledRepresentations
    from lit_ft.vision.distribution_regularized import DistributionRegularized as DistributionRegularized
    from lit_ft.vision.grouped_classifier import GroupedClassifier as GroupedClassifier
    from lit_ft.vision.image_classifier import ImageClassifier as ImageClassifier
    from lit_ft.vision.independent_members import IndependentMembers as IndependentMembers
    from lit_ft.vision.leave_one_out_neighbours import LeaveOneOutNeighbours as LeaveOneOutNeighbours

__getattr__, __dir__, __all__ = index(__name__, __file__)
