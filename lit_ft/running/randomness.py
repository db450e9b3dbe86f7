"""The state of every global random generator, as plain data that a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch


def randomness_state() -> dict[str, Any]:
    """The states of torch (CPU and all CUDA devices), numpy and ``random``."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],  # type: ignore[union-attr]
        "python": [version, list(internal), gauss],
    }


def restore_randomness(state: dict[str, Any]) -> None:
    """Put every generator back to where ``randomness_state`` found it."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
