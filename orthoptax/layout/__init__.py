# SPDX-License-Identifier: Apache-2.0
"""How a parameter is a matrix: said once, used by all."""

from orthoptax.layout.describe import describe
from orthoptax.layout.dimension_numbers import from_optax, to_optax
from orthoptax.layout.equinox import equinox
from orthoptax.layout.full import on_full_params
from orthoptax.layout.haiku import haiku
from orthoptax.layout.links import here
from orthoptax.layout.maxtext import maxtext
from orthoptax.layout.rules import Rule, rules
from orthoptax.layout.stacks import map_stacks
from orthoptax.layout.tables import flax
from orthoptax.layout.view import MatrixView
from orthoptax.layout.wrap import by_layout, on_matrices

__all__ = [
    "MatrixView",
    "Rule",
    "by_layout",
    "describe",
    "equinox",
    "flax",
    "from_optax",
    "haiku",
    "here",
    "map_stacks",
    "maxtext",
    "on_full_params",
    "on_matrices",
    "rules",
    "to_optax",
]
