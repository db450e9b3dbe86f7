"""Second derivatives of a loss without ever forming them: eigenvalues, trace, density, Gauss-Newton and Fisher."""

from lit_ft.core.curvature.eigensolver import Eigenpairs, leading_eigenpairs
from lit_ft.core.curvature.eigenvalues import NonFiniteLoss, group_eigenvalues, hessian_eigenvalues, measure
from lit_ft.core.curvature.gauss_newton import OutputCurvature
from lit_ft.core.curvature.objective import Objective
from lit_ft.core.curvature.operators import FiniteDifferenceHessian, Hessian, NoDoubleBackward, Scaled
from lit_ft.core.curvature.spectrum import SpectralDensity, hutch_plus_plus, spectral_density
from lit_ft.core.curvature.warm_subspace import WarmSubspace
from lit_ft.core.passes.double_backward import differentiable_twice, double_backward_wanted

__all__ = [
    "Eigenpairs",
    "FiniteDifferenceHessian",
    "Hessian",
    "NoDoubleBackward",
    "NonFiniteLoss",
    "Objective",
    "OutputCurvature",
    "Scaled",
    "SpectralDensity",
    "WarmSubspace",
    "differentiable_twice",
    "double_backward_wanted",
    "group_eigenvalues",
    "hessian_eigenvalues",
    "hutch_plus_plus",
    "leading_eigenpairs",
    "measure",
    "spectral_density",
]
