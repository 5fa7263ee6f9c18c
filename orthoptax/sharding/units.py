# SPDX-License-Identifier: Apache-2.0
"""What travels with one matrix, and which matrices are alike. Static; no arrays."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey, GetAttrKey, keystr

from orthoptax._check import message
from orthoptax.layout.links import Leaf
from orthoptax.layout.view import MatrixView
from orthoptax.matrix.explain import explain
from orthoptax.sharding.cuts import Cuts, local_shape

Path = tuple[Any, ...]


class StateKey(NamedTuple):
    """Which state of a leaf: of its block-th matrix, at a path less the name."""

    block: int
    before: Path
    after: Path

    def path(self, names: list[str]) -> Path:
        """The path of the same state of the leaf whose matrices have these names."""
        return (*self.before, DictKey(names[self.block]), *self.after)


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a unit: the update, a parameter, a state.

    key: 'updates', 'params', 'tree/...' or a `StateKey`. shape: whole, without batch
    axes. cuts: of these axes. batch: which axes of the leaf's array are batch.
    """

    key: Hashable
    shape: tuple[int, ...]
    cuts: Cuts
    dtype: Any
    batch: tuple[int, ...]

    def here(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of one device's part."""
        return local_shape(self.shape, self.cuts, sizes)


@dataclasses.dataclass(frozen=True)
class Kind:
    """Units that are alike in all but their numbers, so that one program serves them.

    name: of the leaf that stands for all. leaf: view of a stack of units, and the shape
    that shape rules hear of.
    grain: batch elements in a unit. inputs, outputs: the fields. cut: the mesh axes
    over which one matrix is spread. flops: of one unit, an estimate.
    """

    name: str
    leaf: Leaf
    grain: int
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    cut: tuple[str, ...]
    flops: float = dataclasses.field(compare=False)

    def same(self) -> Hashable:
        """Equal for kinds whose units may be mixed."""
        return dataclasses.replace(self, name="")


class LeafUnits(NamedTuple):
    """A leaf and how many units of it are here."""

    name: str
    leaf: Leaf
    kind: Kind
    units: int


def polar_flops(view: MatrixView, shape: tuple[int, ...]) -> float:
    """FLOPs of `matrix.auto()` on every matrix of a leaf."""
    total = 0.0
    for *batch, rows, cols in view.shapes(shape):
        one = explain(max(rows, 1), max(cols, 1)).chosen.flops  # as `auto` asks
        total += math.prod(batch) * one
    return total


def state_index(state: Any, names: Mapping[str, str]) -> tuple[dict, list[Path]]:
    """({leaf name: {state key: path}}, paths of states that belong to no matrix).

    Args:
      state: the links' state.
      names: {matrix name: leaf name}.
    """
    per_leaf: dict[str, dict[StateKey, Path]] = {leaf: {} for leaf in names.values()}
    common = []
    blocks = {m: [k for k in names if names[k] == names[m]].index(m) for m in names}
    for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]:
        at = [
            i for i, p in enumerate(path) if isinstance(p, DictKey) and p.key in names
        ]
        if not at:
            common.append(path)
            continue
        matrix = path[at[-1]].key
        key = StateKey(blocks[matrix], path[: at[-1]], path[at[-1] + 1 :])
        per_leaf[names[matrix]][key] = path
    return per_leaf, common


def stacked_view(view: MatrixView, shape: tuple[int, ...]) -> MatrixView:
    """The view of a stack along axis 0 of leaves without their batch axes."""
    batch, rows, cols = view.axes(shape)
    rest = [a for a in range(len(shape)) if a not in batch]
    at = lambda axes: tuple(1 + rest.index(a) for a in axes)
    return dataclasses.replace(view, rows=at(rows), cols=at(cols))


def grain_of(units: int, owners: int) -> int:
    """Batch elements that travel together, so that units are not too many to list."""
    enough = 4 * owners
    for grain in range(max(1, units // enough), 0, -1):
        if units % grain == 0:
            return grain
    return 1


def check_entries(name: str, shape: tuple[int, ...]) -> None:
    """Raises if a leaf has no entries: there would be nothing to send."""
    if 0 in shape:
        raise ValueError(
            message(
                "sharding",
                f"parameter {name!r} of shape {tuple(shape)} has no entries",
                "matrices with at least one, to be put together",
                "Take it out of the tree, or keep it from this optimizer: "
                "optax.partition, or a layout that gives None",
            )
        )


def check_batch(name: str, path: Path, shape: Any, lead: tuple[int, ...]) -> None:
    """Raises unless a state begins with its matrix's batch axes."""
    if tuple(shape[: len(lead)]) != lead:
        raise ValueError(
            message(
                "sharding",
                f"the state {keystr(path)} of the stack {name!r} has shape "
                f"{tuple(shape)}",
                f"batch axes {lead} first, as each matrix travels with its own state",
                "Correct the link's init, or take it out of on_matrices",
            )
        )


def is_basis(path: Path) -> bool:
    """Whether a state is `low_rank`'s basis of the short side, by its field's name."""
    return any(isinstance(p, GetAttrKey) and p.name == "basis" for p in path)


def needed(
    update: Callable[..., Any], optional: Mapping[str, Any], *args: Any
) -> set[str]:
    """Which of the optional arguments an update reads at all.

    Args:
      update: update(optional, *args).
      optional: {name: tree of shapes}.
      *args: trees of shapes.
    """
    if not optional:
        return set()
    jaxpr = jax.make_jaxpr(update)(dict(optional), *args).jaxpr
    live = {id(v) for v in jaxpr.outvars}
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(id(v) in live for v in eqn.outvars):
            live.update(id(v) for v in eqn.invars)
    leaves = jax.tree_util.tree_flatten_with_path(dict(optional))[0]
    read = zip(leaves, jaxpr.invars, strict=False)  # the optional ones come first
    return {path[0].key for (path, _), v in read if id(v) in live}


def dtype_of(x: Any) -> Any:
    """The dtype of an array or shape."""
    return jnp.dtype(x.dtype)
