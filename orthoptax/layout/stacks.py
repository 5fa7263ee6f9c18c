# SPDX-License-Identifier: Apache-2.0
"""Equal shapes, one program: what keeps compile time flat in the number of layers."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

MAX_LEAVES = 32  # slices cost compile time quadratic in this, loops linear in 1/this
MAX_BYTES = 2**28  # 256 MiB: bounds the copy that a stack is


def map_stacks(
    fn: Callable[[jax.Array], jax.Array],
    tree: Any,
    *,
    max_leaves: int = MAX_LEAVES,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """Applies fn to every (..., m, n) leaf, leaves of equal shape together.

    Leaves are grouped by (m, n) and dtype and joined along their batch axes, so fn is
    compiled once a stack and not once a leaf. Within a stack, fn sees one matrix at a
    time on CPU, where batched products are slower than single ones, and batches of at
    most `max_bytes` elsewhere; the platform is the one the program is compiled for.

    Args:
      fn: maps (..., m, n) to (..., m, n), each matrix alone, same dtype. Static.
      tree: a pytree of arrays of two axes or more.
      max_leaves: most leaves in a stack. Static.
      max_bytes: most bytes in a stack of several leaves, and in a batch. Static.
    Returns: the tree of results.
    Example:
      >>> import jax.numpy as jnp
      >>> out = map_stacks(lambda x: 2 * x, {"a": jnp.ones((2, 3)),
      ...                                    "b": jnp.ones((4, 2, 3))})
      >>> out["b"].shape
      (4, 2, 3)
    """
    leaves, treedef = jax.tree.flatten(tree)
    results: list[Any] = list(leaves)
    for indices in _groups(leaves, max_leaves, max_bytes):
        flat = [_flat(leaves[i]) for i in indices]
        stack = flat[0] if len(flat) == 1 else lax.concatenate(flat, 0)
        stack = _run(fn, stack, max_bytes) if stack.size else stack
        start = 0
        for i, x in zip(indices, flat, strict=True):
            piece = lax.slice_in_dim(stack, start, start + x.shape[0])
            results[i] = piece.reshape(leaves[i].shape)
            start += x.shape[0]
    return jax.tree.unflatten(treedef, results)


def _flat(x: jax.Array) -> jax.Array:
    """Batch axes as one; -1 could not tell it where a matrix has no entries."""
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def _groups(leaves: list[Any], max_leaves: int, max_bytes: int) -> list[list[int]]:
    """Indices of the leaves of each stack, in order of first appearance."""
    open_group: dict[Any, int] = {}
    groups: list[list[int]] = []
    room: list[int] = []  # bytes left in each group
    for i, x in enumerate(leaves):
        key, size = (x.shape[-2:], jnp.dtype(x.dtype)), x.size * x.dtype.itemsize
        g = open_group.get(key)
        if g is None or len(groups[g]) >= max_leaves or room[g] < size:
            g = open_group[key] = len(groups)
            groups.append([])
            room.append(max_bytes)
        groups[g].append(i)
        room[g] -= size
    return groups


def _run(
    fn: Callable[[jax.Array], jax.Array], stack: jax.Array, max_bytes: int
) -> jax.Array:
    """fn over a (batch, m, n) stack, in the way that suits the platform."""
    batch, matrix_bytes = stack.shape[0], stack[0].size * stack.dtype.itemsize
    size = max(1, max_bytes // matrix_bytes)
    if batch == 1:
        return fn(stack[0])[None]
    return lax.platform_dependent(
        stack,
        cpu=lambda s: _one_by_one(fn, s),
        default=lambda s: fn(s) if batch <= size else lax.map(fn, s, batch_size=size),
    )


def _one_by_one(fn: Callable[[jax.Array], jax.Array], stack: jax.Array) -> jax.Array:
    """fn over a stack, each result where its matrix stood: no second stack."""

    def one(i: jax.Array, stack: jax.Array) -> jax.Array:
        x = lax.dynamic_index_in_dim(stack, i, keepdims=False)
        return lax.dynamic_update_index_in_dim(stack, fn(x), i, 0)

    return lax.fori_loop(0, stack.shape[0], one, stack)
