# SPDX-License-Identifier: Apache-2.0
"""Outliers of a matrix cut off at a quantile of its entries."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_matrix
from orthoptax._dtypes import work_dtype
from orthoptax._types import matrix_link
from orthoptax.layout.names import map_named


class Parted(NamedTuple):
    """threshold: (..., 1, 1). outlier, base: shaped like the matrix, which they sum to.

    outlier is the soft-thresholded matrix, base the clipped one.
    """

    threshold: jax.Array
    outlier: jax.Array
    base: jax.Array


def part(
    x: jax.Array,
    *,
    quantile: ArrayLike = 0.9,
    eps: ArrayLike = 0.0,
    threshold: ArrayLike | None = None,
) -> Parted:
    """Parts each matrix into outliers and the rest; see `soft_threshold`.

    Args:
      x: (..., m, n), real.
      quantile: as in `soft_threshold`.
      eps: likewise.
      threshold: likewise.
    Returns: a `Parted`, in float32 or wider.
    Example:
      >>> part(jnp.asarray([[1.0, -5.0]]), threshold=2.0).outlier.tolist()
      [[0.0, -3.0]]

    Source: see `soft_threshold`.
    """
    y = x.astype(work_dtype(x.dtype))
    if threshold is None:
        tau = _quantile(jnp.abs(y), quantile) + jnp.asarray(eps).astype(y.dtype)
    else:
        tau = jnp.full((*x.shape[:-2], 1, 1), jnp.asarray(threshold).astype(y.dtype))
    base = jnp.clip(y, -tau, tau)
    return Parted(tau, y - base, base)


def _quantile(size: jax.Array, q: ArrayLike) -> jax.Array:
    """The q-quantile of each matrix, (..., 1, 1); the least positive one if it is 0.

    Where more than a share q of the entries is zero, a threshold of 0 would clip all
    the others away too.
    """
    tau = jnp.quantile(
        size, jnp.asarray(q).astype(size.dtype), axis=(-2, -1), keepdims=True
    )
    positive = jnp.where(size == 0, jnp.inf, size)
    least = jnp.min(positive, axis=(-2, -1), keepdims=True)
    return jnp.where((tau == 0) & jnp.isfinite(least), least, tau)


@matrix_link
def soft_threshold(
    quantile: ArrayLike = 0.9,
    *,
    eps: ArrayLike = 0.0,
    threshold: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Takes the outliers out of each matrix: what exceeds a quantile of its entries.

    A few entries far above the others would otherwise decide the singular vectors.

        tau <- quantile of |U| over the matrix, linearly interpolated, + eps
        outlier <- sign(U) max(|U| - tau, 0)
        U <- U - outlier                              the same as clipping to +-tau

    Where the quantile is 0, tau is the smallest |entry| that is not.

    Args:
      quantile: share of the entries that stays as it is, in [0, 1). Traceable.
      eps: added to the quantile, for parity with an author's code. Traceable.
      threshold: a fixed tau instead; None: the quantile. Traceable.
    State: none.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. What is cut off is dropped, not accumulated.
    Raises: ValueError for a number out of range, or a leaf with fewer than two axes.
    Example:
      >>> tx, u = soft_threshold(0.5), {"w": jnp.asarray([[1.0, 2.0, -9.0]])}
      >>> tx.update(u, tx.init({}))[0]["w"].tolist()
      [[1.0, 2.0, -2.0]]

    Source: He et al., ROOT, arXiv:2511.20626; code
      huawei-noah/noah-research@aa0f80c, ROOT/ (eps 1e-9).
    """
    in_range("soft_threshold", "quantile", quantile, 0, 1)
    in_range("soft_threshold", "eps", eps)
    if threshold is not None:
        in_range("soft_threshold", "threshold", threshold)

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra

        def leaf(name: str, u: jax.Array) -> jax.Array:
            is_matrix("soft_threshold", name, u.shape)
            parted = part(u, quantile=quantile, eps=eps, threshold=threshold)
            return parted.base.astype(u.dtype)

        return map_named(leaf, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
