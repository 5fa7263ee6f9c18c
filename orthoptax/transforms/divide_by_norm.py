# SPDX-License-Identifier: Apache-2.0
"""Division by what the gradient's norm has been: of each matrix, of each column."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_matrix
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import matrix_link
from orthoptax.layout.names import map_named
from orthoptax.matrix.running import divide, norm, running


class DivideByNormState(NamedTuple):
    """State of `divide_by_norm` and `divide_columns`.

    count: int32, completed updates. norm: float32 or wider, root of the running mean of
    squared norms, (..., 1, 1) a matrix or (..., 1, cols).
    """

    count: jax.Array
    norm: optax.Updates


@matrix_link
def divide_by_norm(
    b2: ArrayLike = 0.95, *, eps: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Divides each matrix by the running root-mean-square of its gradient's norm.

    Adam's second moment, one number a matrix. Behind a momentum of norm ||U||_F the
    quotient ||U||_F / sqrt(v) is near 1 while gradients agree and small once they are
    noise: that is NAMO's step size.

        v <- b2 v + (1 - b2) ||G||_F^2               v = 0 at first, not bias-corrected
        U <- U / (sqrt(v) + eps)

    Args:
      b2: weight of the past, in [0, 1). Traceable.
      eps: added to the root; absolute, for parity with an author's code. Traceable.
    State:
      count: int32 scalar, number of completed updates.
      norm: sqrt(v), shape (..., 1, 1) a matrix, float32 or wider.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them; G is the extra argument `grad` (`with_statistics`),
      without it the link's input. A matrix with v = 0 goes to zero.
    Raises: ValueError for a number out of range, or a leaf with fewer than two axes.
    Example:
      >>> tx, u = divide_by_norm(0.0), {"w": jnp.asarray([[0.0, 8.0]])}
      >>> tx.update(u, tx.init(u), grad={"w": u["w"] / 4})[0]["w"].tolist()
      [[0.0, 4.0]]

    Source: NAMO, arXiv:2602.17080; code Emerging-Optimizers@fd77292, adaptive_muon.py
      (eps 1e-8).
    """
    in_range("divide_by_norm", "eps", eps)
    divisor = lambda root: root + jnp.asarray(eps).astype(root.dtype)
    return _divide("divide_by_norm", b2, (-2, -1), divisor)


@matrix_link
def divide_columns(
    b2: ArrayLike = 0.95, *, eps: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Divides each column by the running root-mean-square of its gradient's norm.

    The diagonal of ASGO's preconditioner. Columns are inputs: one that is seldom active
    moves as far as the others.

        c_j  <- b2 c_j + (1 - b2) sum_i G_ij^2       c = 0 at first, not bias-corrected
        U_ij <- U_ij / sqrt(c_j + eps)

    Args:
      b2: weight of the past, in [0, 1). Traceable.
      eps: under the root; absolute, for parity with the authors' code. Traceable.
    State:
      count: int32 scalar, number of completed updates.
      norm: sqrt(c), shape (..., 1, cols) a matrix, float32 or wider.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them; G is the extra argument `grad` (`with_statistics`),
      without it the link's input. A column whose gradients were all zero goes to zero.
    Raises: ValueError for a number out of range, or a leaf with fewer than two axes.
    Example:
      >>> tx, u = divide_columns(0.0), {"w": jnp.asarray([[2.0, 0.0], [0.0, 0.0]])}
      >>> tx.update(u, tx.init(u))[0]["w"].tolist()
      [[1.0, 0.0], [0.0, 0.0]]

    Source: An et al., ASGO, arXiv:2503.20762 (DASGO); code infinity-stars/ASGO@d3ef14b,
      optimizers/dasgo.py (eps 1e-8).
    """
    in_range("divide_columns", "eps", eps)
    least = lambda root: jnp.sqrt(jnp.asarray(eps)).astype(root.dtype)
    divisor = lambda root: jnp.hypot(root, least(root))
    return _divide("divide_columns", b2, (-2,), divisor)


def _divide(
    where: str,
    b2: ArrayLike,
    axes: tuple[int, ...],
    divisor: Callable[[jax.Array], jax.Array],
) -> optax.GradientTransformationExtraArgs:
    """The link that divides by what `divisor` makes of norms over `axes`."""
    in_range(where, "b2", b2, 0, 1)

    def init(params: optax.Params) -> DivideByNormState:
        def zeros(name: str, p: jax.Array) -> jax.Array:
            is_matrix(where, name, p.shape)
            shape = [*p.shape[:-1], 1 if -1 in axes else p.shape[-1]]
            shape[-2] = 1
            return jnp.zeros(shape, jnp.finfo(work_dtype(p.dtype)).dtype)

        return DivideByNormState(jnp.zeros((), jnp.int32), map_named(zeros, params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        grad: optax.Updates | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DivideByNormState]:
        del params, extra

        def root(g: jax.Array, past: jax.Array) -> jax.Array:
            size = norm(g.astype(wider(g.dtype, past.dtype)), axes)
            return running(past, size.astype(past.dtype), b2)

        def leaf(u: jax.Array, root: jax.Array) -> jax.Array:
            work = wider(u.dtype, root.dtype)
            return divide(u.astype(work), divisor(root)).astype(u.dtype)

        roots = jax.tree.map(root, updates if grad is None else grad, state.norm)
        count = jnp.asarray(optax.safe_increment(state.count))
        return jax.tree.map(leaf, updates, roots), DivideByNormState(count, roots)

    return optax.GradientTransformationExtraArgs(init, update)
