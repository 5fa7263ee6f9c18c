# SPDX-License-Identifier: Apache-2.0
"""Layouts to and from the dimension numbers of optax's own Muon."""

from typing import Any

import jax
from optax.contrib import MuonDimensionNumbers

from orthoptax._check import is_callable, message
from orthoptax._types import Layout
from orthoptax.layout.leaves import parameters
from orthoptax.layout.names import leaf_name, map_named
from orthoptax.layout.tables import flax
from orthoptax.layout.view import MatrixView


def to_optax(params: Any, layout: Layout | None = None) -> Any:
    """A layout as the tree that `optax.contrib.muon` takes.

    Its `reduction_axis` are our columns, its `output_axis` our rows.

    Args:
      params: the parameters, or their shapes. Trees without leaves come back as they
        are, since optax also asks about trees that it has masked.
      layout: which leaves are which matrices; None: `flax()`.
    Returns: a tree like `params` of `MuonDimensionNumbers`, None where no matrix is.
    Raises: ValueError for a view with blocks, which optax cannot say, or a leaf the
      layout cannot decide; TypeError for leaves that are no arrays or hold integers.
    Example:
      >>> import jax.numpy as jnp
      >>> to_optax({"dense": {"kernel": jnp.ones((4, 8))}})["dense"]["kernel"]
      MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))
    """
    layout = flax() if layout is None else layout
    is_callable("to_optax", "layout", layout, "flax()")
    numbers = {
        name: _numbers(layout(name, leaf), name, tuple(leaf.shape))
        for name, leaf in parameters(params, "to_optax").items()
    }
    return map_named(lambda name, _: numbers[name], params)


def from_optax(numbers: Any) -> Layout:
    """The dimension numbers of `optax.contrib.muon` as a layout.

    Args:
      numbers: what one passes to optax as `muon_weight_dimension_numbers`: a tree of
        `MuonDimensionNumbers` and None, which may be a prefix of the parameters; one
        for all leaves; or None for optax's default, every 2-D leaf as (in, out).
    Returns: a layout.
    Raises: TypeError for other leaves; when called, ValueError for a leaf that the tree
      does not hold.
    Example:
      >>> import jax.numpy as jnp
      >>> from optax.contrib import MuonDimensionNumbers
      >>> layout = from_optax({"w": MuonDimensionNumbers(0, 1), "b": None})
      >>> layout("w", jnp.ones((4, 8)))
      MatrixView(rows=(1,), cols=(0,), blocks=(), groups=1)
    """
    if numbers is None:
        kernel = MatrixView((1,), (0,))
        return lambda name, leaf: kernel if len(leaf.shape) == 2 else None
    flat = jax.tree_util.tree_flatten_with_path(numbers, is_leaf=_is_numbers)[0]
    views = {leaf_name(path): _view(leaf_name(path), leaf) for path, leaf in flat}

    def layout(name: str, leaf: Any) -> MatrixView | None:
        steps = name.split("/")
        for n in range(len(steps), -1, -1):  # a tree of numbers may be a prefix
            prefix = "/".join(steps[:n])
            if prefix in views:
                return views[prefix]
        raise ValueError(
            message(
                "from_optax",
                f"parameter {name!r} of shape {tuple(leaf.shape)} has no dimension "
                "numbers",
                "an entry for every parameter",
                f"Add one for {name!r}: MuonDimensionNumbers(inputs, outputs), or None",
            )
        )

    return layout


def _is_numbers(x: Any) -> bool:
    """Whether this is a leaf of a tree of dimension numbers."""
    return x is None or isinstance(x, MuonDimensionNumbers)


def _numbers(
    view: MatrixView | None, name: str, shape: tuple[int, ...]
) -> MuonDimensionNumbers | None:
    """A view as dimension numbers."""
    if view is None:
        return None
    _, rows, cols = view.axes(shape, name)
    if view.blocks:
        raise ValueError(
            message(
                "to_optax",
                f"parameter {name!r} of shape {shape} is fused, of blocks "
                f"{view.blocks}",
                "views without blocks, since optax has no word for them",
                "Store its parts as parameters of their own, or use "
                "orthoptax.optimizers.muon",
            )
        )
    return MuonDimensionNumbers(reduction_axis=cols, output_axis=rows)


def _view(name: str, numbers: Any) -> MatrixView | None:
    """Dimension numbers as a view."""
    if numbers is None:
        return None
    if not isinstance(numbers, MuonDimensionNumbers):
        raise TypeError(
            message(
                "from_optax",
                f"entry {numbers!r} at {name!r} is no dimension numbers",
                "MuonDimensionNumbers or None",
                "Write MuonDimensionNumbers(inputs, outputs)",
            )
        )
    cols, rows = (
        (axis,) if isinstance(axis, int) else tuple(axis)
        for axis in (numbers.reduction_axis, numbers.output_axis)
    )
    return MatrixView(rows, cols)
