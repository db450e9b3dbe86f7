"""The callbacks of this family in small."""

from lit_ft.callbacks import SAM, SWAG, EdgeOfStability, GaussianNoise, GradientGrafting, MicroBatchRegularizer
from lit_ft.flatness.variants import FriendlySAM, LookSAM
from tests.example import OfCallback

EXAMPLES = {
    "EdgeOfStability": OfCallback(
        lambda: EdgeOfStability(3, save_vectors=True), no_op=lambda: EdgeOfStability(every_n_steps=3)
    ),
    "GaussianNoise": OfCallback(lambda: GaussianNoise(0.1, key=0), no_op=lambda: GaussianNoise(0.0, key=0)),
    "GradientGrafting": OfCallback(GradientGrafting),
    "MicroBatchRegularizer": OfCallback(
        lambda: MicroBatchRegularizer(weight=0.1), no_op=lambda: MicroBatchRegularizer(weight=0.0)
    ),
    "MicroBatchRegularizer, Fisher trace by double backward": OfCallback(
        lambda: MicroBatchRegularizer("fisher_trace", 0.05, "double_backward", head="model.4")
    ),
    "MicroBatchRegularizer, Fisher trace by finite difference": OfCallback(
        lambda: MicroBatchRegularizer("fisher_trace", 0.05, "finite_difference", head="model.4")
    ),
    "SAM": OfCallback(lambda: SAM(rho=0.1), no_op=lambda: SAM(rho=0.0)),
    "SAM, FriendlySAM": OfCallback(lambda: SAM(rho=0.1, every_n_steps=2, variant=FriendlySAM())),
    "SAM, LookSAM": OfCallback(lambda: SAM(rho=0.1, every_n_steps=2, variant=LookSAM())),
    "SWAG": OfCallback(
        lambda: SWAG(start=0.5, every_n_steps=2, rank=3),
        no_op=lambda: SWAG(start=3, every_n_steps=2, rank=4),
        lasting=lambda: SWAG(start=4, every_n_steps=2, rank=3),
    ),
}
