import numpy as np
import torch

from lit_ft.inside.linear_probe import fit_linear_probe


def test_it_is_the_logistic_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    x = random.normal(size=(200, 6)) * [1, 10, 0.1, 1, 1, 1] + 3
    y = (x[:, 0] + x[:, 1] / 10 + random.normal(size=200) > 6).astype(int) + (x[:, 3] > 3)
    scaler = StandardScaler().fit(x)
    reference = LogisticRegression(C=0.5, max_iter=5000, tol=1e-8).fit(scaler.transform(x), y)
    before = torch.get_rng_state()
    probe = fit_linear_probe(torch.from_numpy(x), torch.from_numpy(y), 3, penalty=2.0)
    assert torch.equal(before, torch.get_rng_state())
    ours = (torch.from_numpy(x) @ probe.weight.T + probe.bias).softmax(-1)
    np.testing.assert_allclose(ours, reference.predict_proba(scaler.transform(x)), atol=1e-4)
    assert probe.accuracy(torch.from_numpy(x), torch.from_numpy(y)) == reference.score(scaler.transform(x), y)


def test_a_feature_that_never_varies_does_no_harm():
    x = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    y = torch.tensor([0, 0, 1, 1])
    assert fit_linear_probe(x.float(), y, 2, penalty=1e-3).accuracy(x, y) == 1.0
