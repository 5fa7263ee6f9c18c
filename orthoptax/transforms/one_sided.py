# SPDX-License-Identifier: Apache-2.0
"""ASGO's preconditioner: the inverse root of one Gram matrix of the gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_callable, is_matrix
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Root, matrix_link
from orthoptax.layout.names import map_named
from orthoptax.layout.stacks import map_stacks
from orthoptax.matrix.inner import local
from orthoptax.matrix.roots import polar_express_root
from orthoptax.matrix.running import divide, power_of_two


class OneSidedState(NamedTuple):
    """State of `one_sided`.

    count: int32, completed updates. gram: (..., d, d) a matrix, float32 or wider.
    scale: (..., 1, 1) a matrix, a power of two: V is scale^2 gram.
    """

    count: jax.Array
    gram: optax.Updates
    scale: optax.Updates


@matrix_link
def one_sided(
    b2: ArrayLike = 0.8,
    *,
    root: Root | None = None,
    left: Callable[[int, int], bool] | None = None,
    ema: bool = True,
    absolute: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies each matrix by the inverse root of the second moment of one side.

    Shampoo with the smaller of its two factors, at the power 1/2: of one gradient alone
    the result is its polar factor.

        C <- G G^T  or, on the right, G^T G          d = rows, or columns
        V <- b2 V + (1 - b2) C                       V = 0 at first, not bias-corrected
        U <- V^(-1/2) U  or  U V^(-1/2)

    The state is d^2 numbers: on the smaller side never more than the matrix, on the
    larger side, with `left` of your own, as much as that side squared.

    Args:
      b2: weight of the past, in [0, 1). Traceable.
      root: maps (..., d, d) to inverse square roots; None: `polar_express_root()`.
        Static.
      left: left(rows, cols) says whether V is of the rows; None: rows < cols. Static.
      ema: average; else the plain sum V + C, and `b2` is not read. Static.
      absolute: `root` is given V itself, as an epsilon of the authors' needs; else V
        divided by a power of 4 near its size, which neither over- nor underflows.
        Static.
    State:
      count: int32 scalar, number of completed updates.
      gram: V over scale^2, shape (..., d, d), float32 or wider.
      scale: a power of two near the root of V's size, (..., 1, 1).
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them; G is the extra argument `grad` (`with_statistics`),
      without it the link's input. Where V is zero, the result is.
    Raises: ValueError for `b2` out of range, or a leaf with fewer than two axes;
      TypeError if `root` or `left` is not a function.
    Example:
      >>> tx, u = one_sided(0.0), {"w": jnp.asarray([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])}
      >>> tx.update(u, tx.init(u))[0]["w"].round(3).tolist()
      [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]

    Source: An et al., ASGO, arXiv:2503.20762; code infinity-stars/ASGO@d3ef14b,
      optimizers/asgo.py.
    """
    in_range("one_sided", "b2", b2, 0, 1)
    root = polar_express_root() if root is None else root
    left = (lambda rows, cols: rows < cols) if left is None else left
    is_callable("one_sided", "root", root, "orthoptax.matrix.polar_express_root()")
    is_callable("one_sided", "left", left, "lambda rows, cols: rows < cols")
    rows_first = lambda x: x if left(*x.shape[-2:]) else jnp.conj(x).mT

    def init(params: optax.Params) -> OneSidedState:
        def gram(name: str, p: jax.Array) -> jax.Array:
            is_matrix("one_sided", name, p.shape)
            d = p.shape[-2] if left(*p.shape[-2:]) else p.shape[-1]
            return jnp.zeros((*p.shape[:-2], d, d), work_dtype(p.dtype))

        real = lambda v: jnp.finfo(v.dtype).dtype
        grams = map_named(gram, params)
        scales = jax.tree.map(lambda v: jnp.zeros(v[..., :1, :1].shape, real(v)), grams)
        return OneSidedState(jnp.zeros((), jnp.int32), grams, scales)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        grad: optax.Updates | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, OneSidedState]:
        del params, extra

        def moment(g: jax.Array, v: jax.Array, s: jax.Array) -> Any:
            weight = jnp.asarray(b2).astype(s.dtype) if ema else jnp.ones((), s.dtype)
            fresh = 1 - weight if ema else weight
            return _moment(rows_first(g.astype(v.dtype)), v, s, weight, fresh)

        def apply(u: jax.Array, z: jax.Array, s: jax.Array) -> jax.Array:
            x = u.astype(wider(u.dtype, z.dtype))
            x = x if absolute else divide(x, s)
            sides = (z, x) if left(*u.shape[-2:]) else (x, z)
            return jnp.matmul(*sides, precision=lax.Precision.HIGHEST).astype(u.dtype)

        grad = updates if grad is None else grad
        pairs = jax.tree.map(moment, grad, state.gram, state.scale)
        pick = lambda i: jax.tree.map(lambda _, p: p[i], state.gram, pairs)
        grams, scales = pick(0), pick(1)
        whole = lambda v, s: (s * s).astype(v.dtype) * v if absolute else v
        roots = map_stacks(root, jax.tree.map(whole, grams, scales))
        count = jnp.asarray(optax.safe_increment(state.count))
        updates = jax.tree.map(apply, updates, roots, scales)
        return updates, OneSidedState(count, grams, scales)

    return optax.GradientTransformationExtraArgs(init, update)


def _moment(
    g: jax.Array, v: jax.Array, s: jax.Array, past: jax.Array, now: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """past s^2 V + now G G^H as (V, s): V's largest entry in [1, 4), s a power of two.

    Exact divisions: gradients that differ by a power of two give the same V.
    """
    top = local.largest(g)
    unit = jnp.maximum(s, jnp.where(top == 0, 0, power_of_two(top)))
    x, ratio = divide(g, unit), divide(s, unit)
    v = (past * ratio * ratio).astype(v.dtype) * v
    v = v + now.astype(v.dtype) * local.product(x, x)
    size = power_of_two(jnp.sqrt(local.largest(v)))
    return v / (size * size).astype(v.dtype), unit * size
