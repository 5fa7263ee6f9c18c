# SPDX-License-Identifier: Apache-2.0
"""Statistics that move when an estimate is fresh, and updates divided by them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from orthoptax._check import message
from orthoptax._dtypes import wider
from orthoptax.curvature.leaves import is_float
from orthoptax.matrix.running import divide


def estimate(where: str, extra: Mapping[str, Any]) -> tuple[Any, jax.Array]:
    """(`hessian_diag`, whether it is an estimate of this step).

    Raises: ValueError if there is none.
    """
    if extra.get("hessian_diag") is None:
        raise ValueError(
            message(
                f"{where}.update",
                "missing 'hessian_diag'",
                "an estimate of the Hessian's diagonal, like the parameters",
                "Wrap the chain in with_curvature(..., hutchinson()), or call "
                "tx.update(updates, state, params, hessian_diag=...)",
            )
        )
    return extra["hessian_diag"], jnp.asarray(extra.get("hessian_fresh", True))


def refreshed(
    move: Callable[[Any, Any], Any], past: Any, now: Any, fresh: jax.Array
) -> Any:
    """move(past, now) leaf by leaf if fresh, else past."""
    leaf = lambda x, y: jnp.where(fresh, move(x, y), x)
    return jax.tree.map(leaf, past, now)


def moving_average(
    b2: ArrayLike, count: jax.Array | None = None
) -> Callable[[Any, Any], Any]:
    """(past, now) -> b2 past + (1 - b2) now.

    Args:
      b2: weight of the past.
      count: entries in the past; where none the average is `now`. None: it starts at 0.
    """

    def move(past: jax.Array, now: jax.Array) -> jax.Array:
        b = jnp.asarray(b2).astype(past.dtype)
        if count is not None:
            b = jnp.where(count == 0, 0, b)
        return b * past + (1 - b) * now.astype(past.dtype)

    return move


def mapped(
    leaf: Callable[[Any, Any], Any], updates: Any, other: Any, *, cast: bool = True
) -> Any:
    """leaf(update, other) of the floating leaves, in the dtype they came if `cast`."""

    def each(u: Any, x: Any) -> Any:
        if not is_float(u):
            return u
        return leaf(u, x).astype(u.dtype) if cast else leaf(u, x)

    return jax.tree.map(each, updates, other)


def quotient(u: jax.Array, by: jax.Array) -> jax.Array:
    """u / by in the wider dtype of both, and 0 where `by` is 0."""
    work = wider(u.dtype, by.dtype)
    return divide(u.astype(work), by.astype(work))
