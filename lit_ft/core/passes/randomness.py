"""The state of every global random generator, kept for a second pass or for a checkpoint."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _of_cuda() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


@dataclass(frozen=True, eq=False)
class Randomness:
    """A snapshot of the global random generators, cheap enough for every step: ``Randomness()`` takes it.

    Args:
        torch: State of the CPU generator of torch.
        cuda: State of the generator of each CUDA device; empty where CUDA is not in use.
        numpy: State of numpy's global generator.
        python: State of ``random``.

    Example:
        >>> randomness = Randomness()
        >>> first = torch.rand(3)
        >>> randomness.restore()
        >>> torch.equal(first, torch.rand(3))
        True
    """

    torch: Tensor = field(default_factory=torch.get_rng_state)
    cuda: list[Tensor] = field(default_factory=_of_cuda)
    numpy: Any = field(default_factory=np.random.get_state)
    python: Any = field(default_factory=random.getstate)

    def restore(self) -> None:
        """Put the generators back to where they were; those of CUDA only where there are as many devices."""
        torch.set_rng_state(self.torch)
        if self.cuda and len(self.cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self.cuda)
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    def plain(self) -> dict[str, Any]:
        """The snapshot as plain data, which a checkpoint may hold."""
        name, keys, *numpy = self.numpy
        version, internal, gauss = self.python
        return {
            "torch": self.torch,
            "cuda": self.cuda,
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *numpy],
            "python": [version, list(internal), gauss],
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Randomness":
        """The snapshot that ``plain`` was made of."""
        name, keys, *numpy = plain["numpy"]
        version, internal, gauss = plain["python"]
        return cls(
            plain["torch"].cpu(),
            [state.cpu() for state in plain["cuda"]],
            (name, keys.numpy().astype(np.uint32), *numpy),
            (version, tuple(internal), gauss),
        )
