# SPDX-License-Identifier: Apache-2.0
"""Functions of all parameters, for optimizers that are shown only some."""

from collections.abc import Callable
from typing import Any

import jax
import optax

OF_PARAMS = ("obj_fn", "logits_fn", "grad_fn", "value_fn")
"""Extra arguments of `update` that are functions of the parameters."""


def on_full_params(fn: Callable[..., Any], params: Any) -> Callable[..., Any]:
    """A function that may be called with masked parameters: the rest is filled in.

    `optax.masked` and `optax.partition` show a transform `MaskedNode`s where leaves are
    not its own, and so the functions of the parameters that it calls see them too.
    `by_layout` does this by itself.

    Args:
      fn: its first argument is a tree of all parameters. A result that is such a tree
        too, a gradient say, is masked as what came in.
      params: all parameters, as `update` was given them.
    Returns: the function; derivatives reach the leaves that are there.
    Example:
      >>> params = {"a": 2.0, "b": 3.0}
      >>> fn = on_full_params(lambda p: p["a"] * p["b"], params)
      >>> fn({"a": 5.0, "b": optax.MaskedNode()})
      15.0

    Source: ours; google-deepmind/optax issue 968 asks for what it makes possible.
    """
    masked = lambda x: isinstance(x, optax.MaskedNode)

    def filled(part: Any, *args: Any, **kwargs: Any) -> Any:
        fill = lambda p, whole: whole if masked(p) else p
        whole = jax.tree.map(fill, part, params, is_leaf=masked)
        result = fn(whole, *args, **kwargs)
        structure = jax.tree.structure(whole)
        if jax.tree_util.treedef_is_leaf(structure):
            return result
        if jax.tree.structure(result) != structure:
            return result
        cut = lambda p, r: p if masked(p) else r
        return jax.tree.map(cut, part, result, is_leaf=masked)

    whole = not any(map(masked, jax.tree.leaves(params, is_leaf=masked)))
    whole = whole or getattr(fn, "on_full_params", False)
    filled.on_full_params = whole  # pyright: ignore[reportFunctionMemberAccess]
    return filled
