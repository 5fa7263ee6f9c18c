# SPDX-License-Identifier: Apache-2.0
"""Estimators of the diagonal of a curvature matrix, for `with_curvature`."""

from orthoptax.curvature.exact import exact_diagonal
from orthoptax.curvature.gauss_newton import empirical_fisher, gauss_newton_bartlett
from orthoptax.curvature.given import given
from orthoptax.curvature.hutchinson import hutchinson
from orthoptax.curvature.probes import Site, normal, rademacher
from orthoptax.curvature.products import (
    finite_difference,
    forward_over_reverse,
    reverse_over_reverse,
)
from orthoptax.curvature.spatial_average import (
    average_axes,
    average_blocks,
    spatial_average,
)

__all__ = [
    "Site",
    "average_axes",
    "average_blocks",
    "empirical_fisher",
    "exact_diagonal",
    "finite_difference",
    "forward_over_reverse",
    "gauss_newton_bartlett",
    "given",
    "hutchinson",
    "normal",
    "rademacher",
    "reverse_over_reverse",
    "spatial_average",
]
