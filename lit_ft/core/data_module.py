"""The base of the data modules of this package."""

from typing import Any, Self

import lightning.pytorch as pl

from lit_ft.core.trust import reading


class LitData(pl.LightningDataModule):
    """A LightningDataModule that makes nothing foreign of what a checkpoint stores.

    Example:
        >>> from lit_ft.data import GaussianClusters
        >>> issubclass(GaussianClusters, LitData)
        True
    """

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """As in Lightning; what is stored names classes that have been imported, see ``lit_ft.core.trust``."""
        with reading(stored=True, imported=True):
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
