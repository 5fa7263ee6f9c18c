# SPDX-License-Identifier: Apache-2.0
"""The routing table of a model: which leaf is which matrices, and how many."""

import dataclasses
import math
from typing import Any, NamedTuple

from orthoptax._check import is_callable
from orthoptax._types import Layout
from orthoptax.layout.leaves import parameters
from orthoptax.layout.tables import flax
from orthoptax.layout.view import MatrixView
from orthoptax.layout.wrap import not_empty

HEADINGS = ("name", "shape", "role", "matrices", "parameters")


class Row(NamedTuple):
    """One leaf of the routing table.

    name: as the rules see it.
    shape: of the leaf.
    role: the layout's word for it.
    view: its `MatrixView`, or None.
    matrices: the shape (*batch, rows, cols) of each stack of matrices; () if none.
    count: number of parameters.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    view: MatrixView | None
    matrices: tuple[tuple[int, ...], ...]
    count: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text, one entry a column."""
        stacks = [
            (f"{math.prod(s[:-2])} x " if s[:-2] else "") + str(s[-2:])
            for s in self.matrices
        ]
        return (
            self.name,
            str(self.shape),
            self.role,
            ", ".join(stacks) or "-",
            f"{self.count:,}",
        )


@dataclasses.dataclass(frozen=True)
class RoutingTable:
    """What a layout makes of a tree; its text is a table.

    Args:
      rows: one `Row` a leaf, in the tree's order.
    """

    rows: tuple[Row, ...]

    @property
    def matrices(self) -> int:
        """Number of matrices, each of a stack counted."""
        return sum(math.prod(s[:-2]) for row in self.rows for s in row.matrices)

    @property
    def matrix_leaves(self) -> int:
        """Number of leaves that are matrices."""
        return sum(row.view is not None for row in self.rows)

    @property
    def matrix_params(self) -> int:
        """Number of parameters in matrices."""
        return sum(row.count for row in self.rows if row.view is not None)

    @property
    def rest_leaves(self) -> int:
        """Number of leaves that are not matrices."""
        return len(self.rows) - self.matrix_leaves

    @property
    def rest_params(self) -> int:
        """Number of parameters outside the matrices."""
        return sum(row.count for row in self.rows if row.view is None)

    def __str__(self) -> str:
        """The table in aligned columns, then the totals."""
        lines = [HEADINGS, *(row.cells for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        body = [
            "  ".join(
                cell.rjust(width) if last else cell.ljust(width)
                for cell, width, last in zip(
                    line, widths, (False, False, False, False, True), strict=True
                )
            )
            for line in lines
        ]
        leaves, params = len(self.rows), self.matrix_params + self.rest_params
        body.append(
            f"matrices: {self.matrices:,} in {self.matrix_leaves:,} of {leaves:,} "
            f"leaves, {self.matrix_params:,} of {params:,} parameters; rest: "
            f"{self.rest_leaves:,} of {leaves:,} leaves, {self.rest_params:,} of "
            f"{params:,} parameters"
        )
        return "\n".join(body)


def describe(params: Any, layout: Layout | None = None) -> RoutingTable:
    r"""The routing table of a model: each leaf, its role and its matrices.

    To be read before the first long run: a leaf in the wrong group trains, only worse.

    Args:
      params: the parameters, or their shapes (`jax.eval_shape`), in any pytree.
      layout: which leaves are which matrices; None: `flax()`.
    Returns: a `RoutingTable`; its text is the table, its fields the rows and totals.
    Raises: ValueError for an empty tree or a leaf the layout cannot decide; TypeError
      for leaves that are no arrays or hold integers.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> table = describe(params)
      >>> print(str(table).rpartition("\n")[0])
      name          shape   role          matrices  parameters
      dense/bias    (8,)    gain or bias  -                  8
      dense/kernel  (4, 8)  dense         (8, 4)            32
      >>> table.matrices, table.matrix_params, table.rest_params
      (1, 32, 8)
    """
    layout = flax() if layout is None else layout
    is_callable("describe", "layout", layout, "flax()")
    not_empty("describe", params)
    rows = []
    for name, leaf in parameters(params, "describe").items():
        view, shape = layout(name, leaf), tuple(leaf.shape)
        word = "rest" if view is None else "matrix"
        role = getattr(layout, "role", lambda *_, word=word: word)(name, leaf)
        stacks = () if view is None else tuple(view.shapes(shape, name))
        rows.append(Row(name, shape, role, view, stacks, math.prod(shape)))
    return RoutingTable(tuple(rows))
