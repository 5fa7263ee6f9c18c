# SPDX-License-Identifier: Apache-2.0
"""Optimizers built on orthogonalized updates, for JAX.

The names of each floor are in its package: `orthoptax.matrix` (kernels on arrays),
`orthoptax.layout` (which leaves are matrices), `orthoptax.transforms` (links of a
chain), `orthoptax.optimizers` (named chains), `orthoptax.diagnostics`,
`orthoptax.curvature` (estimators of the Hessian's diagonal).
"""

from orthoptax import curvature, diagnostics, layout, matrix, optimizers, transforms
from orthoptax.layout import (
    MatrixView,
    by_layout,
    describe,
    equinox,
    flax,
    haiku,
    maxtext,
    on_matrices,
    rules,
)
from orthoptax.optimizers import *  # noqa: F403 - named once, in that package

__version__ = "0.1.0"

__all__ = [
    "MatrixView",
    "by_layout",
    "curvature",
    "describe",
    "diagnostics",
    "equinox",
    "flax",
    "haiku",
    "layout",
    "matrix",
    "maxtext",
    "on_matrices",
    "optimizers",
    "rules",
    "transforms",
]
__all__ += optimizers.__all__
