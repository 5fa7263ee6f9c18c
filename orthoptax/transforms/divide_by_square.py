# SPDX-License-Identifier: Apache-2.0
"""Division by the mean, or the sum, of the squares of the gradient; or by its root."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range
from orthoptax._dtypes import wider, zeros_beside
from orthoptax.matrix.running import divide, running, weight_of_past
from orthoptax.transforms._tree import real_dtype


class DivideBySquareState(NamedTuple):
    """State of `divide_by_mean_square` and `divide_by_sum_of_squares`.

    count: int32, completed updates. size: like the parameters, float32 or wider.
    """

    count: jax.Array
    size: optax.Updates


def divide_by_mean_square(
    b2: ArrayLike = 0.999,
    *,
    eps: ArrayLike = 0.0,
    floor: ArrayLike = 0.0,
    root: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Divides each entry by the running mean of its squares, as Adam does by the root.

    Without the root a step of a rescaled parameter is the rescaled step, so a rule that
    sets the length by <G, U> does not see the scale of any coordinate.

        V <- b2 V + (1 - b2) G * G                V = 0 at first
        B <- V / (1 - b2^t)                       its square root if `root`
        U <- U / (max(B, floor) + eps)

    Args:
      b2: weight of the past, in [0, 1). Traceable.
      eps: added to B. Traceable.
      floor: least B. Traceable.
      root: take the square root, as Adam and RMSProp do. Static.
    State:
      count: int32 scalar, number of completed updates.
      size: sqrt(V), like the parameters, float32 or wider; roots stay in range where
        squares do not.
    Returns: a `GradientTransformationExtraArgs`, elementwise; G is the extra argument
      `grad` (`with_statistics`), without it the link's input. An entry that was always
      zero stays zero.
    Raises: ValueError for a number out of range.
    Example:
      >>> tx, g = divide_by_mean_square(), {"w": jnp.asarray([4.0, 0.0])}
      >>> tx.update(g, tx.init(g))[0]["w"].round(3).tolist()
      [0.25, 0.0]

    Source: Abdukhakimov et al., SANIA, arXiv:2312.17369 (Adam-SQR); code
      fxrshed/SANIA@ce6662f (floor 0.1).
    """
    in_range("divide_by_mean_square", "b2", b2, 0, 1)
    in_range("divide_by_mean_square", "eps", eps)
    in_range("divide_by_mean_square", "floor", floor)

    def grow(past: jax.Array, size: jax.Array, t: jax.Array) -> tuple[Any, Any]:
        b = jnp.asarray(b2).astype(past.dtype)
        new = running(past, size, b)
        return new, new / jnp.sqrt(weight_of_past(b, t))

    return _divide(grow, eps, floor, root)


def divide_by_sum_of_squares(
    *, eps: ArrayLike = 0.0, floor: ArrayLike = 0.0, root: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Divides each entry by the sum of all its squares, as AdaGrad does by the root.

        V <- V + G * G                            V = 0 at first
        B <- V                                    its square root if `root`
        U <- U / (max(B, floor) + eps)

    Args:
      eps: added to B. Traceable.
      floor: least B. Traceable.
      root: take the square root, as AdaGrad does. Static.
    State:
      count: int32 scalar, number of completed updates.
      size: sqrt(V), like the parameters, float32 or wider.
    Returns: a `GradientTransformationExtraArgs`, elementwise; G is the extra argument
      `grad` (`with_statistics`), without it the link's input. An entry that was always
      zero stays zero.
    Raises: ValueError for a number out of range.
    Example:
      >>> tx, g = divide_by_sum_of_squares(root=True), {"w": jnp.asarray([3.0, -2.0])}
      >>> _, state = tx.update(g, tx.init(g))
      >>> (5 * tx.update({"w": jnp.asarray([4.0, 0.0])}, state)[0]["w"]).tolist()
      [4.0, 0.0]

    Source: Abdukhakimov et al., SANIA, arXiv:2312.17369 (AdaGrad-SQR); code
      fxrshed/SANIA@ce6662f (floor 0.1).
    """
    in_range("divide_by_sum_of_squares", "eps", eps)
    in_range("divide_by_sum_of_squares", "floor", floor)

    def grow(past: jax.Array, size: jax.Array, t: jax.Array) -> tuple[Any, Any]:
        del t
        new = jnp.hypot(past, size)
        return new, new

    return _divide(grow, eps, floor, root)


def _divide(
    grow: Callable[..., tuple[jax.Array, jax.Array]],
    eps: ArrayLike,
    floor: ArrayLike,
    root: bool,
) -> optax.GradientTransformationExtraArgs:
    """The link; grow(sqrt(V), |G|, t) is (new sqrt(V), the root of its B)."""

    def init(params: optax.Params) -> DivideBySquareState:
        real = lambda p: zeros_beside(p, real_dtype(p))
        return DivideBySquareState(jnp.zeros((), jnp.int32), jax.tree.map(real, params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        grad: optax.Updates | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DivideBySquareState]:
        del params, extra
        t = jnp.asarray(optax.safe_increment(state.count))

        def leaf(u: jax.Array, g: jax.Array, past: jax.Array) -> tuple[Any, Any]:
            work = wider(wider(u.dtype, g.dtype), past.dtype)
            real = jnp.finfo(work).dtype
            size = jnp.abs(g.astype(work))
            new, r = grow(past.astype(real), size, t)
            least, more = (jnp.asarray(x).astype(real) for x in (floor, eps))
            if root:
                by = jnp.maximum(r, least) + more
                u_new = divide(u.astype(work), by)
            else:  # (u/r) / (B/r): neither quotient leaves the range of its terms
                by = jnp.maximum(r, divide(least, r)) + divide(more, r)
                u_new = divide(divide(u.astype(work), r), by)
            return u_new.astype(u.dtype), new.astype(past.dtype)

        pairs = jax.tree.map(leaf, updates, updates if grad is None else grad,
                             state.size)  # fmt: skip
        pick = lambda i: jax.tree.map(lambda _, pair: pair[i], updates, pairs)
        return pick(0), DivideBySquareState(t, pick(1))

    return optax.GradientTransformationExtraArgs(init, update)
