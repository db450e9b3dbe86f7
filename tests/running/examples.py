"""The callbacks of this folder in small."""

import torch

from lit_ft.callbacks import NotFinite, WarmStart
from lit_ft.testing import ForeignModule
from tests.example import OfCallback


def warm() -> WarmStart:
    torch.save({"state_dict": ForeignModule(9).state_dict()}, "weights.ckpt")
    return WarmStart("weights.ckpt")


EXAMPLES = {"NotFinite": OfCallback(NotFinite, no_op=NotFinite), "WarmStart": OfCallback(warm)}
