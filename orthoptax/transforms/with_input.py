# SPDX-License-Identifier: Apache-2.0
"""Wrapper: lets a function of what went in and what came out have the last word."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from orthoptax._check import is_callable
from orthoptax._dtypes import wider, work_dtype

Combine = Callable[[jax.Array, jax.Array], jax.Array]
"""combine(before, after): a leaf of the input and of the output, to a leaf."""


def with_input(
    inner: optax.GradientTransformation | None = None,
    combine: Combine | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Runs a link and combines each leaf of its output with that of its input.

    Every rule that rescales a direction by something of the vector it came from is one
    of these: the input's norm (`keep_norm`), the dual norm <U, O> (PolarGrad), another
    optimizer's length (grafting).

        U' <- combine(U, inner(U))

    Args:
      inner: a link; None: the identity. Static.
      combine: maps (before, after), two arrays of a leaf's shape in float32 or wider,
        to one that broadcasts to it; None: after. Static.
    State: that of `inner`.
    Returns: a `GradientTransformationExtraArgs`, in the coordinates of `inner`; updates
      keep their dtype.
    Raises: TypeError if `combine` is not a function.
    Example:
      >>> import jax.numpy as jnp
      >>> largest = lambda before, after: abs(before).max() * after
      >>> tx = with_input(optax.scale_by_sign(), largest)
      >>> tx.update({"w": jnp.asarray([3.0, -1.0])}, tx.init({}))[0]["w"].tolist()
      [3.0, -3.0]

    Source: ours.
    """
    link = optax.with_extra_args_support(optax.identity() if inner is None else inner)
    combine = (lambda before, after: after) if combine is None else combine
    is_callable("with_input", "combine", combine, "lambda before, after: after")

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        results, state = link.update(updates, state, params, **extra)

        def leaf(u: jax.Array, r: jax.Array) -> jax.Array:
            work = work_dtype(wider(u.dtype, r.dtype))
            out = combine(u.astype(work), r.astype(work))
            return out.astype(u.dtype)

        return jax.tree.map(leaf, updates, results), state

    return optax.GradientTransformationExtraArgs(link.init, update)
