# SPDX-License-Identifier: Apache-2.0
"""The name of a leaf: its path, said the same way in `init` and in `update`."""

from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import GetAttrKey

from orthoptax._check import message


def leaf_name(path: tuple[Any, ...]) -> str:
    """A path as 'blocks/0/attn/kernel', for any kind of tree.

    A last attribute step called `value` is a box (a Flax Variable or Partitioned) that
    may be there in `init` and gone in `update`, so it is left out; a layer or a
    dictionary key of that name stays.

    Args:
      path: as `jax.tree_util.tree_flatten_with_path` gives it.
    Example:
      >>> import jax
      >>> leaf_name((jax.tree_util.DictKey("dense"), jax.tree_util.GetAttrKey("w")))
      'dense/w'
    """
    if path and isinstance(path[-1], GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_named(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` of fn(name, leaf, *others)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(leaf_name(path), *leaves), tree, *rest
    )


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name, in the tree's order.

    Raises: ValueError if two leaves have one name.
    """
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = leaf_name(path)
        if name in leaves:
            raise ValueError(
                message(
                    "layout",
                    f"two parameters are both called {name!r}",
                    "one name a leaf",
                    "Rename a key that contains '/' or 'value'",
                )
            )
        leaves[name] = leaf
    return leaves
