"""Callbacks: how any loss is optimised, which weights move, what is measured.

A trainer takes them as usual: ``pl.Trainer(callbacks=[SAM(rho=0.05)])``. Most of their examples train the small module
of :func:`lit_ft.testing.fit_foreign`.
"""

from typing import TYPE_CHECKING

from lit_ft.core.lazy import index

if TYPE_CHECKING:
    from lit_ft.flatness.edge_of_stability import EdgeOfStability as EdgeOfStability
    from lit_ft.flatness.gaussian_noise import GaussianNoise as GaussianNoise
    from lit_ft.flatness.gradient_grafting import GradientGrafting as GradientGrafting
    from lit_ft.flatness.micro_batch_regularizer import MicroBatchRegularizer as MicroBatchRegularizer
    from lit_ft.flatness.perturbation import sam_step as sam_step
    from lit_ft.flatness.sam import SAM as SAM
    from lit_ft.flatness.swag import SWAG as SWAG
    from lit_ft.flatness.variants import GSAM as GSAM
    from lit_ft.flatness.variants import FriendlySAM as FriendlySAM
    from lit_ft.flatness.variants import LookSAM as LookSAM
    from lit_ft.inside.calibration import Calibration as Calibration
    from lit_ft.inside.feature_probe import FeatureProbe as FeatureProbe
    from lit_ft.inside.forgetting import Forgetting as Forgetting
    from lit_ft.inside.kernel_regime import KernelRegime as KernelRegime
    from lit_ft.inside.layer_similarity import LayerSimilarity as LayerSimilarity
    from lit_ft.language.coba import CoBa as CoBa
    from lit_ft.language.editing_scores import EditingScores as EditingScores
    from lit_ft.language.prefill_cost import PrefillCost as PrefillCost
    from lit_ft.language.sampled_text import SampledText as SampledText
    from lit_ft.language.stop_below_loss import StopBelowLoss as StopBelowLoss
    from lit_ft.language.task_score import TaskScore as TaskScore
    from lit_ft.preference.likelihood_displacement import LikelihoodDisplacement as LikelihoodDisplacement
    from lit_ft.running.not_finite import NotFinite as NotFinite
    from lit_ft.running.run_checkpoint import RunCheckpoint as RunCheckpoint
    from lit_ft.running.run_report import RunReport as RunReport
    from lit_ft.running.warm_start import WarmStart as WarmStart
    from lit_ft.sparse.composed_deltas import ComposedDeltas as ComposedDeltas
    from lit_ft.sparse.forward_mask import ForwardMask as ForwardMask
    from lit_ft.sparse.gradient_mask import GradientMask as GradientMask
    from lit_ft.sparse.head_offsets import HeadOffsets as HeadOffsets
    from lit_ft.sparse.learned_graft import LearnedGraft as LearnedGraft
    from lit_ft.sparse.lottery_ticket import LotteryTicket as LotteryTicket
    from lit_ft.sparse.soft_mask import SoftMask as SoftMask
    from lit_ft.sparse.task_regions import TaskRegions as TaskRegions
    from lit_ft.sparse.training_flops import TrainingFlops as TrainingFlops

__getattr__, __dir__, __all__ = index(__name__, __file__)
