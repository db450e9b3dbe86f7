"""The one place that knows that Lightning comes as two packages, ``lightning.pytorch`` and ``pytorch_lightning``.

Their classes have the same names and do the same, but neither inherits from the other.
"""

import sys
from typing import Any, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden

T = TypeVar("T")

_TWINS = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}


def either(*kinds: type[T]) -> tuple[type[T], ...]:
    """Classes of ``lightning.pytorch``, and those of the same names in ``pytorch_lightning`` if that is imported.

    Every ``isinstance`` and ``except`` that concerns a class of Lightning goes through this function, so that projects
    on either package are treated alike. It imports nothing: without the module there is no object of the class.

    Example:
        >>> [kind.__name__ for kind in dict.fromkeys(kind for kind in either(pl.LightningModule))][:1]
        ['LightningModule']
        >>> isinstance(pl.Trainer(barebones=True).strategy, either(pl.strategies.SingleDeviceStrategy))
        True
    """
    found = list(kinds)
    for kind in kinds:
        for package, twin in _TWINS.items():
            if kind.__module__ == package or kind.__module__.startswith(f"{package}."):
                module = sys.modules.get(twin + kind.__module__[len(package) :])
                other = getattr(module, kind.__name__, None)
                found += [other] if isinstance(other, type) else []
    return tuple(found)


def overridden(name: str, owner: Any) -> bool:
    """Whether a module, a data module or a callback of either package defines a hook of Lightning itself.

    Example:
        >>> from lit_ft.testing import ForeignModule
        >>> overridden("validation_step", ForeignModule()), overridden("on_after_backward", ForeignModule())
        (True, False)
    """
    kinds = either(pl.LightningModule, pl.LightningDataModule, pl.Callback)
    base = next((kind for kind in kinds if isinstance(owner, kind)), None)
    return callable(getattr(owner, name, None)) if base is None else is_overridden(name, owner, parent=base)
