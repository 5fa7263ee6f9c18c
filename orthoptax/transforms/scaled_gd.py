# SPDX-License-Identifier: Apache-2.0
"""Gradients of factors of a product, each over the Gram matrix of the other factor."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._check import message
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.matrix.over_gram import over_gram

_RANK_AXES = (-1, -2)


class Factors(NamedTuple):
    """Two leaves whose product is a weight, or one that is both factors.

    left, right: leaf names, 'lora/a'; right None: the product is X X^T. left_rank,
    right_rank: the axis, -1 or -2, along which they are multiplied.

    For LoRA with A (in, r) and B (r, out): Factors("a", "b", right_rank=-2).
    """

    left: str
    right: str | None = None
    left_rank: int = -1
    right_rank: int = -1


def scaled_gd(
    pairs: Sequence[Factors] = (), *, damping: ArrayLike = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """Divides the gradient of each factor by the Gram matrix of its partner.

    Gradient descent on a product L R^T is slow where the product is ill-conditioned;
    so divided it is not.

        U_L <- G_L (R^T R + damping I)^-1
        U_R <- G_R (L^T L + damping I)^-1       both from the values before the step

    Args:
      pairs: the factors, by leaf name; leaves in none pass through. Static.
      damping: about the smallest singular value of the product that counts. A partner
        that is zero, as one factor of LoRA is at first, divides by it alone. Traceable.
    State: none.
    Returns: a `GradientTransformationExtraArgs` that needs `params`; leaves may have
      axes in front, for stacks of pairs. Rates of 0.3 to 0.5 suit it.
    Raises: ValueError for a number out of range, a leaf in two pairs, and in `init` for
      a leaf that is not there, has fewer than two axes or another rank than its
      partner.
    Example:
      >>> import jax.numpy as jnp
      >>> tx = scaled_gd([Factors("l", "r")], damping=4.0)
      >>> params = {"l": jnp.asarray([[2.0]]), "r": jnp.asarray([[4.0]])}
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> [round(float(updates[name][0, 0]), 3) for name in ("l", "r")]
      [0.1, 0.5]

    Source: Xu et al., ScaledGD(lambda), arXiv:2302.01186.
    """
    _check.in_range("scaled_gd", "damping", damping)
    partners = _partners(pairs)

    def init(params: optax.Params) -> optax.EmptyState:
        leaves = named_leaves(params)
        if leaves:  # not a placeholder
            _fit(leaves, pairs)
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra
        _check.has_params("scaled_gd", params)
        leaves = named_leaves(params)

        def leaf(name: str, g: jax.Array) -> jax.Array:
            if name not in partners or name not in leaves:
                return g
            own, other, axis = partners[name]
            x = _tall(leaves[other], axis)
            return _tall(over_gram(_tall(g, own), x, damping), own).astype(g.dtype)

        return map_named(leaf, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _tall(x: jax.Array, axis: int) -> jax.Array:
    """With the rank as the last axis; its own inverse."""
    return x if axis == -1 else x.mT


def _partners(pairs: Sequence[Factors]) -> dict[str, tuple[int, str, int]]:
    """{leaf: (its rank axis, the other factor, the rank axis of that)}."""
    found: dict[str, tuple[int, str, int]] = {}
    for pair in pairs:
        left, right, first, second = pair
        both = {left: (first, right or left, first if right is None else second)}
        if right is not None:
            both[right] = (second, left, first)
        for name, (own, other, axis) in both.items():
            if name in found or (right is not None and left == right):
                raise ValueError(
                    message(
                        "scaled_gd",
                        f"leaf {name!r} is a factor twice",
                        "one place in one pair",
                        "For X X^T pass Factors(name)",
                    )
                )
            if own not in _RANK_AXES or axis not in _RANK_AXES:
                raise ValueError(
                    message(
                        "scaled_gd",
                        f"rank axes {(own, axis)} of {left!r} and {right!r} are wrong",
                        "-1 or -2",
                        "Count from the end",
                    )
                )
            found[name] = (own, other, axis)
    return found


def _fit(leaves: dict[str, Any], pairs: Sequence[Factors]) -> None:
    """Raises unless every pair is there and can be multiplied."""
    for left, right, first, second in pairs:
        shapes = {}
        for name, axis in ((left, first), (right or left, second if right else first)):
            if name not in leaves:
                raise ValueError(
                    message(
                        "scaled_gd",
                        f"there is no leaf {name!r}",
                        f"one of {sorted(leaves)}",
                        "Name both factors of a pair in one group",
                    )
                )
            shape = tuple(leaves[name].shape)
            _check.is_matrix("scaled_gd", name, shape)
            shapes[name] = (*shape[:-2], shape[axis])
        if len(set(shapes.values())) > 1:
            raise ValueError(
                message(
                    "scaled_gd",
                    f"{left!r} of shape {tuple(leaves[left].shape)} and {right!r} of "
                    f"shape {tuple(leaves[right or left].shape)} have no product along "
                    f"axes {first} and {second}",
                    "one rank, and the same axes in front",
                    "Set left_rank and right_rank",
                )
            )
