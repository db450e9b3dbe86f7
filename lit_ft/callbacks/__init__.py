"""Callbacks: how any loss is optimised, which weights move, what is measured."""

from lit_ft.callbacks.coba import CoBa as CoBa
from lit_ft.callbacks.flatness.edge_of_stability import EdgeOfStability as EdgeOfStability
from lit_ft.callbacks.flatness.gaussian_noise import GaussianNoise as GaussianNoise
from lit_ft.callbacks.flatness.gradient_grafting import GradientGrafting as GradientGrafting
from lit_ft.callbacks.flatness.micro_batch_regularizer import MicroBatchRegularizer as MicroBatchRegularizer
from lit_ft.callbacks.flatness.perturbation import sam_step as sam_step
from lit_ft.callbacks.flatness.sam import SAM as SAM
from lit_ft.callbacks.flatness.swag import SWAG as SWAG
from lit_ft.callbacks.flatness.variants import GSAM as GSAM
from lit_ft.callbacks.flatness.variants import FriendlySAM as FriendlySAM
from lit_ft.callbacks.flatness.variants import LookSAM as LookSAM
from lit_ft.callbacks.gradient_mask import GradientMask as GradientMask
from lit_ft.callbacks.measuring.editing_scores import EditingScores as EditingScores
from lit_ft.callbacks.measuring.feature_probe import FeatureProbe as FeatureProbe
from lit_ft.callbacks.measuring.forgetting import Forgetting as Forgetting
from lit_ft.callbacks.measuring.kernel_regime import KernelRegime as KernelRegime
from lit_ft.callbacks.measuring.likelihood_displacement import LikelihoodDisplacement as LikelihoodDisplacement
from lit_ft.callbacks.measuring.prefill_cost import PrefillCost as PrefillCost
from lit_ft.callbacks.measuring.sampled_text import SampledText as SampledText
from lit_ft.callbacks.measuring.task_score import TaskScore as TaskScore
from lit_ft.callbacks.measuring.training_flops import TrainingFlops as TrainingFlops
from lit_ft.callbacks.selective.composed_deltas import ComposedDeltas as ComposedDeltas
from lit_ft.callbacks.selective.forward_mask import ForwardMask as ForwardMask
from lit_ft.callbacks.selective.learned_graft import LearnedGraft as LearnedGraft
from lit_ft.callbacks.selective.lottery_ticket import LotteryTicket as LotteryTicket
from lit_ft.callbacks.soft_mask import SoftMask as SoftMask
