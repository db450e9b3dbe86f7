import pytest
from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.models.small import MLP
from lit_ft.vision.linear_head import linear_head


def test_a_linear_head_over_features_or_a_refusal() -> None:
    network = MLP((4,), 3)
    assert linear_head(network) is network.head
    network.head = nn.Identity()
    headless = nn.Sequential(nn.Linear(4, 3))
    featureless = nn.Module()
    featureless.head = nn.Linear(4, 3)
    for bad in (network, headless, featureless):
        with pytest.raises(ConfigError, match="network"):
            linear_head(bad)
