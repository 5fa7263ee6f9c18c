# SPDX-License-Identifier: Apache-2.0
"""The leaves of a tree that is to be trained, by name, each checked."""

from typing import Any

import jax.numpy as jnp

from orthoptax._check import message
from orthoptax.layout.names import named_leaves


def parameters(tree: Any, where: str = "layout") -> dict[str, Any]:
    """The leaves of a tree by name, in the tree's order.

    Args:
      tree: arrays, or anything with a shape and a dtype, in any pytree.
      where: the name that error messages begin with.
    Returns: {name: leaf}.
    Raises: TypeError for a leaf that is no array or holds integers; ValueError if two
      leaves have one name.
    Example:
      >>> list(parameters({"dense": {"kernel": jnp.ones((4, 8))}}))
      ['dense/kernel']
    """
    leaves = named_leaves(tree)
    for name, leaf in leaves.items():
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(
                message(
                    where,
                    f"leaf {name!r} is a {type(leaf).__name__}, which has no shape",
                    "arrays only",
                    "For Equinox pass eqx.filter(model, eqx.is_inexact_array), for NNX "
                    "nnx.state(model, nnx.Param)",
                )
            )
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                message(
                    where,
                    f"parameter {name!r} of shape {tuple(leaf.shape)} has dtype "
                    f"{leaf.dtype}",
                    "a floating dtype",
                    "Leave it out of the trained tree, or wrap the optimizer in "
                    "optax.masked",
                )
            )
    return leaves
