# SPDX-License-Identifier: Apache-2.0
"""The leaves that can be differentiated by, apart from the others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from orthoptax._dtypes import wider, zeros_beside


def is_float(x: Any) -> bool:
    """Whether a leaf holds floating numbers, and so can be trained."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def split(tree: Any) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]:
    """The floating leaves by path, and the way back.

    Args:
      tree: any tree of arrays.
    Returns: ({path: leaf}, join), where join({path: leaf}) is the tree with these
      leaves, and those of `tree` where none is given.
    """
    flat, treedef = tree_flatten_with_path(tree)
    paths = [keystr(path, simple=True, separator="/") for path, _ in flat]
    if len(set(paths)) < len(paths):  # a key that holds the separator
        paths = [keystr(path) for path, _ in flat]
    leaves = dict(zip(paths, (leaf for _, leaf in flat), strict=True))
    floats = {path: leaf for path, leaf in leaves.items() if is_float(leaf)}
    join = lambda new: jax.tree.unflatten(treedef, list((leaves | new).values()))
    return floats, join


def wide(dtype: Any) -> Any:
    """The dtype of a diagonal: the leaf's, float32 at least."""
    inexact = jnp.issubdtype(dtype, jnp.inexact)
    return wider(dtype, jnp.float32) if inexact else jnp.dtype(jnp.float32)


def zero_diagonal(params: Any) -> Any:
    """Zeros like the parameters, in the dtypes of a diagonal, where they lie."""
    return jax.tree.map(lambda p: zeros_beside(p, wide(p.dtype)), params)


def diagonal_of(join: Any, params: Any, found: dict[str, jax.Array]) -> Any:
    """The tree of a diagonal from its floating leaves; leaves of integers get 0."""

    def leaf(d: jax.Array, p: Any) -> jax.Array:
        return d.astype(wide(p.dtype)) if is_float(p) else zero_diagonal(p)

    return jax.tree.map(leaf, join(found), params)
