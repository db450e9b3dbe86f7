"""Paths between networks, and the loss along them."""

from lit_ft.core.connectivity.dropout_path import dropout_path
from lit_ft.core.connectivity.paths import Path, linear_path
from lit_ft.core.connectivity.profile import losses_along
from lit_ft.core.connectivity.unit_layers import unit_layers

__all__ = ["Path", "dropout_path", "linear_path", "losses_along", "unit_layers"]
