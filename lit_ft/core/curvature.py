"""Second derivatives of a loss without ever forming them: eigenvalues, trace, density, Gauss-Newton and Fisher."""

from typing import TYPE_CHECKING

from lit_ft.core.lazy import index

if TYPE_CHECKING:
    from lit_ft.core.passes.double_backward import differentiable_twice as differentiable_twice
    from lit_ft.core.passes.double_backward import double_backward_wanted as double_backward_wanted
    from lit_ft.curvature.eigensolver import Eigenpairs as Eigenpairs
    from lit_ft.curvature.eigensolver import leading_eigenpairs as leading_eigenpairs
    from lit_ft.curvature.eigenvalues import NonFiniteLoss as NonFiniteLoss
    from lit_ft.curvature.eigenvalues import group_eigenvalues as group_eigenvalues
    from lit_ft.curvature.eigenvalues import hessian_eigenvalues as hessian_eigenvalues
    from lit_ft.curvature.eigenvalues import measure as measure
    from lit_ft.curvature.gauss_newton import OutputCurvature as OutputCurvature
    from lit_ft.curvature.objective import Objective as Objective
    from lit_ft.curvature.operators import FiniteDifferenceHessian as FiniteDifferenceHessian
    from lit_ft.curvature.operators import Hessian as Hessian
    from lit_ft.curvature.operators import NoDoubleBackward as NoDoubleBackward
    from lit_ft.curvature.operators import Scaled as Scaled
    from lit_ft.curvature.spectrum import SpectralDensity as SpectralDensity
    from lit_ft.curvature.spectrum import hutch_plus_plus as hutch_plus_plus
    from lit_ft.curvature.spectrum import spectral_density as spectral_density
    from lit_ft.curvature.warm_subspace import WarmSubspace as WarmSubspace

__getattr__, __dir__, __all__ = index(__name__, __file__)
