# SPDX-License-Identifier: Apache-2.0
"""A polar function applied to every matrix."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from orthoptax._check import is_callable, is_matrix, message
from orthoptax._types import KernelOnParts, Polar, matrix_link
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.layout.stacks import MAX_BYTES, MAX_LEAVES, map_stacks
from orthoptax.matrix.auto import auto
from orthoptax.matrix.orientation import flip
from orthoptax.matrix.part import Part


@matrix_link
def orthogonalize(
    polar: Polar | None = None,
    *,
    max_leaves: int = MAX_LEAVES,
    max_bytes: int = MAX_BYTES,
) -> optax.GradientTransformationExtraArgs:
    """Replaces every matrix by its nearest semi-orthogonal matrix.

    The direction of steepest descent in the spectral norm: all singular values become 1
    (as near as `polar` brings them), the singular vectors stay.

        O <- polar(M)

    Args:
      polar: maps (..., m, n) with m <= n to the same shape and dtype; taller matrices
        are transposed around it. None: `auto()`. Static.
      max_leaves: most leaves that share a program; see `map_stacks`. Static.
      max_bytes: most bytes of a stack; see `map_stacks`. Static.
    State: none.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. Zero goes to zero; a NaN stays in its own matrix.
    Raises: TypeError if `polar` is not a function; ValueError for a leaf with fewer
      than two axes.
    Example:
      >>> import jax.numpy as jnp
      >>> tx = orthogonalize()
      >>> u, _ = tx.update({"w": 9 * jnp.eye(2, 3)}, tx.init({}))
      >>> bool(abs(u["w"][0, 0] - 1) < 0.35)
      True

    Source: Jordan et al., Muon, 2024; Carlson et al., 2015 (spectral descent).
    """
    polar = auto() if polar is None else polar
    is_callable("orthogonalize", "polar", polar, "orthoptax.matrix.newton_schulz()")

    def init(params: optax.Params) -> optax.EmptyState:
        for name, leaf in named_leaves(params).items():
            is_matrix("orthogonalize", name, leaf.shape)
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        parts: Mapping[str, Part] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        for name, leaf in named_leaves(updates).items():
            is_matrix("orthogonalize", name, leaf.shape)
        if parts is not None:
            return _on_parts(updates, parts, polar), state
        oriented = map_stacks(
            polar,
            jax.tree.map(flip, updates),
            max_leaves=max_leaves,
            max_bytes=max_bytes,
        )
        back = lambda u, o: o.mT if u.shape != o.shape else o
        return jax.tree.map(back, updates, oriented), state

    sums = "inner" in inspect.signature(polar).parameters
    kind = KernelOnParts if sums else optax.GradientTransformationExtraArgs
    return kind(init, update)


def _on_parts(updates: Any, parts: Mapping[str, Part], polar: Any) -> Any:
    """Polar factors of matrices whose long sides are cut, alike ones together.

    Products over the long side are summed over the mesh.
    """
    groups: dict[Any, dict[str, jax.Array]] = {}
    turned: dict[str, bool] = {}
    for name, u in named_leaves(updates).items():
        turned[name], part = _long_side_last(name, parts[name])
        x = u.mT if turned[name] else u
        groups.setdefault((part, x.shape[-2:], x.dtype), {})[name] = x
    found: dict[str, jax.Array] = {}
    for (part, shape, _), members in groups.items():
        stack = jnp.concatenate([x.reshape(-1, *shape) for x in members.values()])
        stack = polar(stack, inner=part.over_cols())
        start = 0
        for name, x in members.items():
            count = math.prod(x.shape[:-2])
            piece = stack[start : start + count].reshape(x.shape)
            found[name] = piece.mT if turned[name] else piece
            start += count
    return map_named(lambda name, _: found[name], updates)


def _long_side_last(name: str, part: Part) -> tuple[bool, Part]:
    """(whether to transpose, the part after that) so that only columns are cut."""
    rows, cols = part.shape
    turn = rows > cols or (rows == cols and bool(part.rows))
    part = part.turned() if turn else part
    if part.rows:
        raise ValueError(
            message(
                "orthogonalize",
                f"the shorter side of {name!r}, {rows} x {cols}, is cut over "
                f"{list(part.rows)}",
                "matrices that are cut along their longer side alone",
                "Use orthoptax.sharding.whole_matrices, or cut the other axis",
            )
        )
    return turn, part
