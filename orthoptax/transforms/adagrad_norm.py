# SPDX-License-Identifier: Apache-2.0
"""AdaGO's step size: one growing accumulator a matrix."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_matrix
from orthoptax._dtypes import times, wider, work_dtype
from orthoptax._types import matrix_link
from orthoptax.layout.names import map_named
from orthoptax.matrix.running import divide, norm
from orthoptax.transforms.learning_rate import rate_at


class AdagradNormState(NamedTuple):
    """count: int32, completed updates. norm: float32 or wider, (..., 1, 1) a matrix."""

    count: jax.Array
    norm: optax.Updates


@matrix_link
def adagrad_norm(
    gamma: ArrayLike = 10.0,
    *,
    initial: ArrayLike = 1e-3,
    floor: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Scales each matrix by its gradient's norm over the norm of all gradients so far.

    Steps shrink like AdaGrad's, by one number a matrix, and with the gradient itself.

        c <- min(||G||_F, gamma)
        n^2 <- n^2 + c^2;   v <- sqrt(initial^2 + n^2)
        U <- max(floor, c/v) U                  c/v < 1

    Args:
      gamma: gradients count for no more than this norm, not negative. Traceable.
      initial: v before the first gradient, not negative. Traceable.
      floor: least factor; a number, an array or a schedule of the int32 count of
        completed updates. Traceable.
    State:
      count: int32 scalar, number of completed updates.
      norm: n, shape (..., 1, 1) a matrix, float32 or wider.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them; G is the extra argument `grad` (`with_statistics`),
      without it the link's input. Where v is 0, the factor is `floor`.
    Raises: ValueError for a number out of range, or a leaf with fewer than two axes.
    Example:
      >>> tx, u = adagrad_norm(1.0, initial=3**0.5), {"w": jnp.full((1, 2), 7.0)}
      >>> round(float(tx.update(u, tx.init(u))[0]["w"][0, 0]), 3)
      3.5

    Source: AdaGrad Meets Muon (AdaGO), arXiv:2509.02981, Algorithm 1.
    """
    in_range("adagrad_norm", "gamma", gamma)
    in_range("adagrad_norm", "initial", initial)
    if not callable(floor):
        in_range("adagrad_norm", "floor", floor)

    at = lambda number, like: jnp.asarray(number).astype(like.dtype)

    def init(params: optax.Params) -> AdagradNormState:
        def zero(name: str, p: jax.Array) -> jax.Array:
            is_matrix("adagrad_norm", name, p.shape)
            real = jnp.finfo(work_dtype(p.dtype)).dtype
            return jnp.zeros((*p.shape[:-2], 1, 1), real)

        return AdagradNormState(jnp.zeros((), jnp.int32), map_named(zero, params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        grad: optax.Updates | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, AdagradNormState]:
        del params, extra
        grad = updates if grad is None else grad
        least = rate_at(floor, state.count)

        def clipped(g: jax.Array, n: jax.Array) -> jax.Array:
            size = norm(g.astype(wider(g.dtype, n.dtype))).astype(n.dtype)
            return jnp.minimum(size, at(gamma, n))

        def leaf(u: jax.Array, c: jax.Array, n: jax.Array) -> jax.Array:
            factor = divide(c, jnp.hypot(n, at(initial, n)))
            return times(u, jnp.maximum(factor, at(least, n)))

        sizes = jax.tree.map(clipped, grad, state.norm)
        norms = jax.tree.map(jnp.hypot, state.norm, sizes)
        count = jnp.asarray(optax.safe_increment(state.count))
        updates = jax.tree.map(leaf, updates, sizes, norms)
        return updates, AdagradNormState(count, norms)

    return optax.GradientTransformationExtraArgs(init, update)
