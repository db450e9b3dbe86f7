"""Selections are written in YAML by their short names, nested."""

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

import lit_ft.callbacks  # noqa: F401  makes the short names known
from lit_ft.core.selection import And, Not, Selection

TEXT = """
selection:
  class_path: And
  init_args:
    selections:
      - {class_path: Names, init_args: {patterns: ["*weight"]}}
      - class_path: Not
        init_args: {selection: {class_path: RandomElements, init_args: {density: 0.5, seed: 3}}}
"""


def test_nested_selections() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--selection", type=Selection)
    parser.add_argument("--c", action="config")
    selection = parser.instantiate_classes(parser.parse_string(TEXT)).selection
    assert isinstance(selection, And)
    assert isinstance(selection.selections[1], Not)
    chosen = selection.select(nn.Linear(6, 4))
    assert isinstance(chosen["weight"], torch.Tensor) or pytest.fail("the pattern must match")
    assert chosen["weight"].sum() == 12
    assert chosen["bias"] is False
