"""Second derivatives of a loss without ever forming them: eigenvalues, trace, density, Gauss-Newton and Fisher."""
