"""Randomised smoothing of a classifier, with certificates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_ft.core.checks import NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt, checked
from lit_ft.core.passes.evaluating import evaluating

ABSTAINS = -1


@dataclass
class Certificate:
    """The certificate of one input.

    Args:
        label: The class of the smoothed classifier, or -1 if it abstains.
        radius: No input within this L2 distance has another class; 0 if it abstains.

    See also: :class:`SmoothedClassifier`.

    Example:
        >>> Certificate(label=2, radius=0.5)  # class 2 within a distance of 0.5
        Certificate(label=2, radius=0.5)
    """

    label: int
    radius: float


class SmoothedClassifier(nn.Module):
    r"""The class that a base classifier predicts most under noise: :math:`g(x) = \arg\max_c P(f(x + \epsilon) = c)`.

    ``certify`` guesses the class from ``n0`` noisy copies, bounds its probability from below by p with confidence
    :math:`1 - \alpha` from ``n`` others (Clopper and Pearson), and certifies the radius
    :math:`\sigma\,\Phi^{-1}(p)`; it abstains when p is below one half. ``predict`` abstains unless a two-sided
    binomial test separates the two most frequent classes at level :math:`\alpha`. ``forward`` gives the shares of the
    classes.

    Cost: one forward pass of the base classifier per noisy copy, ``batch_size`` at a time. Runs in evaluation mode.

    Source: J. Cohen, E. Rosenfeld, J. Z. Kolter, "Certified Adversarial Robustness via Randomized Smoothing", 2019,
    arXiv 1902.02918 (code locuslab/smoothing).

    Args:
        base: Maps (rows, ...) to logits (rows, classes), trained with noise of the same sigma.
        sigma: Standard deviation of the noise in the units of the input, above 0.
        n0: Noisy copies for the guess, at least 1 (paper: 100).
        n: Noisy copies for the bound, at least 1 (paper: 100,000).
        alpha: Probability that a certificate is wrong, in (0, 1) (paper: 0.001).
        batch_size: Noisy copies that run together.
        seed: Seed of the noise: each input gets the same noise, independent of its batch.

    See also: :class:`~lit_ft.metrics.CertifiedAccuracy`.

    Example:
        >>> base = nn.Linear(1, 2, bias=False)
        >>> base.weight.data = torch.tensor([[-1.0], [1.0]])  # the class is the sign
        >>> smoothed = SmoothedClassifier(base, sigma=0.25)
        >>> certificate, doubtful = smoothed.certify(torch.tensor([[2.0], [0.0]]))
        >>> certificate.label, round(certificate.radius, 3), doubtful
        (1, 0.616, Certificate(label=-1, radius=0.0))
    """

    def __init__(
        self,
        base: nn.Module,
        sigma: PositiveFloat = 0.25,
        n0: PositiveInt = 100,
        n: PositiveInt = 1000,
        alpha: OpenUnitInterval = 0.001,
        batch_size: PositiveInt = 1000,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        checked(locals())
        self.base, self.sigma, self.n0, self.n, self.alpha = base, sigma, n0, n, alpha
        self.batch_size, self.seed = batch_size, seed

    @torch.no_grad()
    def counts(self, x: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        """How often each class is predicted for noisy copies of one input, shape (classes,)."""
        found: Tensor | None = None
        with evaluating(self.base):
            while copies > 0:
                rows = min(copies, self.batch_size)
                noise = torch.randn((rows, *x.shape), generator=generator).to(x)
                logits = self.base(x + self.sigma * noise)
                given = torch.bincount(logits.argmax(-1), minlength=logits.shape[-1])
                found, copies = given if found is None else found + given, copies - rows
        assert found is not None
        return found

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def certify(self, x: Tensor) -> list[Certificate]:
        """A certificate for each row of x."""
        from statistics import NormalDist

        certificates = []
        for row in x:
            generator = self._generator()
            label = int(self.counts(row, self.n0, generator).argmax())
            hits = int(self.counts(row, self.n, generator)[label])
            share = lower_confidence_bound(hits, self.n, self.alpha)
            certain = share > 0.5
            radius = self.sigma * NormalDist().inv_cdf(share) if certain else 0.0
            certificates.append(Certificate(label if certain else ABSTAINS, radius))
        return certificates

    def predict(self, x: Tensor) -> Tensor:
        """The class of each row, or -1, shape (rows,)."""
        from scipy.stats import binomtest

        labels = []
        for row in x:
            most = self.counts(row, self.n, self._generator()).topk(2)
            first, second = (int(count) for count in most.values)
            sure = binomtest(first, first + second, 0.5).pvalue <= self.alpha
            labels.append(int(most.indices[0]) if sure else ABSTAINS)
        return torch.tensor(labels)

    def forward(self, x: Tensor) -> Tensor:
        """Shares of the classes among noisy copies, shape (rows, classes)."""
        return torch.stack([self.counts(row, self.n, self._generator()) / self.n for row in x])


def lower_confidence_bound(hits: int, trials: int, alpha: float) -> float:
    """Clopper and Pearson's lower bound of a probability, at confidence ``1 - alpha`` (one-sided).

    Example:
        >>> round(lower_confidence_bound(hits=100, trials=100, alpha=0.001), 4)  # 0.001 ** (1 / 100)
        0.9333
    """
    from scipy.stats import beta

    return 0.0 if hits == 0 else float(beta.ppf(alpha, hits, trials - hits + 1))
