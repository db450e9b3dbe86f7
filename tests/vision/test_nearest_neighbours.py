import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.vision.nearest_neighbours import NearestNeighbours


def test_the_neighbours_of_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    torch.manual_seed(0)
    rows, labels, new = torch.randn(60, 1, 2, 3), torch.randint(3, (60,)), torch.randn(20, 1, 2, 3)
    theirs = KNeighborsClassifier(4).fit(rows.flatten(1).numpy(), labels.numpy())
    shares = torch.from_numpy(theirs.predict_proba(new.flatten(1).numpy()))
    assert torch.equal(NearestNeighbours(rows, labels, 4)(new), (4 * shares).round().long())
    with pytest.raises(ConfigError, match="1 to the number of rows, 60"):
        NearestNeighbours(rows, labels, 61)
