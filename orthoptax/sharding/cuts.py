# SPDX-License-Identifier: Apache-2.0
"""How an array is cut over mesh axes: its PartitionSpec in a form to compute with."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec

from orthoptax._check import message
from orthoptax.layout.links import Leaf

Cuts = tuple[tuple[str, ...], ...]
"""For each axis of an array the mesh axes that cut it, outermost first."""


def cuts_of(
    spec: Any, shape: Sequence[int], sizes: Mapping[str, int], name: str
) -> Cuts:
    """The cuts that a PartitionSpec (or NamedSharding, or None) means for a leaf.

    Args:
      spec: of the leaf called `name`; None means not cut.
      shape: of the whole leaf.
      sizes: of every mesh axis, {name: devices}.
      name: for error messages.
    Returns: one tuple of axis names an array axis; axes of one device are left out.
    Raises: ValueError for an axis the mesh does not have or that is used twice, for
      more entries than the leaf has axes, for a size that does not divide.
    """
    if isinstance(spec, NamedSharding):
        spec = spec.spec
    spec = PartitionSpec() if spec is None else spec

    def wrong(what: str, expected: str, remedy: str) -> ValueError:
        where = f"{name!r} of shape {tuple(shape)} with {said(spec)}"
        return ValueError(message("sharding", f"{where}: {what}", expected, remedy))

    if len(spec) > len(shape):
        raise wrong(
            f"{len(spec)} entries for {len(shape)} axes",
            "at most one entry an axis",
            "Specs are those of the parameter, not of its matrix",
        )
    used: list[str] = []
    cuts = []
    for axis, size in enumerate(shape):
        entry = spec[axis] if axis < len(spec) else None
        if entry is PartitionSpec.UNCONSTRAINED:
            raise wrong(
                f"axis {axis} is unconstrained", "mesh axes or None", "Name the axes"
            )
        names = () if entry is None else (entry,) if isinstance(entry, str) else entry
        for axis_name in names:
            if axis_name not in sizes:
                raise wrong(
                    f"there is no mesh axis {axis_name!r}",
                    f"some of {', '.join(map(repr, sizes))}",
                    "Correct the spec, or the mesh",
                )
            if axis_name in used:
                raise wrong(
                    f"mesh axis {axis_name!r} cuts it twice",
                    "each mesh axis once in a spec",
                    "Leave one out",
                )
            used.append(axis_name)
        names = tuple(n for n in names if sizes[n] > 1)
        parts = math.prod(sizes[n] for n in names)
        if size % parts:
            raise wrong(
                f"axis {axis} of {size} cannot be cut into {parts} equal parts",
                "a size that divides",
                "Cut another axis, use fewer devices, or pad the parameter",
            )
        cuts.append(names)
    return tuple(cuts)


def spec_of(cuts: Cuts) -> PartitionSpec:
    """The PartitionSpec of cuts."""
    entries: list[Any] = [c[0] if len(c) == 1 else (c or None) for c in cuts]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def said(spec: Any) -> str:
    """A PartitionSpec in words, the same in every version of jax."""
    return f"P({', '.join(map(repr, spec or ()))})"


def parts_of(cut: Sequence[str], sizes: Mapping[str, int]) -> int:
    """Into how many parts mesh axes cut."""
    return math.prod(sizes[name] for name in cut)


def local_shape(
    shape: Sequence[int], cuts: Cuts, sizes: Mapping[str, int]
) -> tuple[int, ...]:
    """The shape of one device's part."""
    return tuple(n // parts_of(c, sizes) for n, c in zip(shape, cuts, strict=True))


def state_cuts(
    shape: Sequence[int],
    matrix: Sequence[int],
    leaf: Leaf,
    cuts: Cuts,
    sizes: Mapping[str, int],
    basis: bool = False,
) -> Cuts:
    """How the state of one matrix is cut: like the parameter, where that is possible.

    Batch axes are cut as the parameter's. An axis as long as the matrix's rows (or
    columns) is cut as they are, if its size divides and rows merged from several
    parameter axes lie in one piece; else it is whole.

    Args:
      shape: of the state, which begins with the batch axes.
      matrix: shape (*batch, rows, cols) of its matrix.
      leaf: the parameter and its view.
      cuts: of the parameter.
      sizes: of every mesh axis.
      basis: a basis of the short side, (*batch, its size, rank): cut as that side is,
        and along the rank as the other.
    """
    batch, rows, cols = leaf.view.axes(leaf.shape)
    lead = len(batch)
    if tuple(shape[:lead]) != tuple(matrix[:lead]):
        return tuple(() for _ in shape)
    result = [cuts[a] for a in batch]
    sides = (_merged(rows, leaf, cuts), _merged(cols, leaf, cuts))
    if basis and len(shape) == lead + 2:
        side = -1 if shape[-2] == matrix[-1] else -2
        for size, names in zip(
            shape[-2:], (sides[side], sides[-3 - side]), strict=True
        ):
            result.append(names if names and not size % parts_of(names, sizes) else ())
        return tuple(result)
    for axis in range(lead, len(shape)):
        # Of (rows, 1), (1, cols), (rows, cols), (rows, rows), ... the same rule.
        side = -1 if axis == len(shape) - 1 and len(shape) - lead > 1 else -2
        here = sides[side]
        fits = shape[axis] == matrix[side] and here is not None
        if fits and shape[axis] % parts_of(here or (), sizes) == 0:
            result.append(here or ())
        else:
            result.append(())
    return tuple(result)


def _merged(axes: Sequence[int], leaf: Leaf, cuts: Cuts) -> tuple[str, ...] | None:
    """The cut of merged axes, None where the parts are not in one piece."""
    first, *others = axes
    pieces = any(cuts[a] for a in others)
    return None if pieces and leaf.shape[first] > 1 else cuts[first]
