# SPDX-License-Identifier: Apache-2.0
"""Adam's direction, for gradients of any size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range
from orthoptax._dtypes import wider, work_dtype, zeros_beside
from orthoptax.matrix.running import divide, running


class ScaleByAdamState(NamedTuple):
    """State of `scale_by_adam`.

    count: int32, completed updates. mean, root_mean_square: like the parameters.
    """

    count: jax.Array
    mean: optax.Updates
    root_mean_square: optax.Updates


def scale_by_adam(
    b1: ArrayLike = 0.9, b2: ArrayLike = 0.999, *, eps: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Divides a running average by the running root-mean-square, both unbiased.

    Keeps R = sqrt(V) where Adam keeps V, whose squares leave float32 below 1e-23 and
    above 1e19; with eps = 0 the direction does not depend on the scale of the gradient.

        M <- b1 M + (1 - b1) G
        R <- sqrt(b2 R^2 + (1 - b2) G^2)
        U <- M / (1 - b1^t) / (R / sqrt(1 - b2^t) + eps)

    Args:
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in R, in [0, 1). Traceable.
      eps: added to the root, for parity with an author's code. Traceable.
    State:
      count: int32 scalar, number of completed updates.
      mean: M, like the parameters.
      root_mean_square: R, like the parameters.
    Returns: a `GradientTransformationExtraArgs`, elementwise. An entry that was always
      zero stays zero.
    Raises: ValueError for a number out of range.
    Example:
      >>> tx, g = scale_by_adam(), {"w": jnp.asarray([3e-30, -2.0, 0.0])}
      >>> tx.update(g, tx.init(g))[0]["w"].round(3).tolist()
      [1.0, -1.0, 0.0]

    Source: Kingma and Ba, Adam, arXiv:1412.6980, Algorithm 1 (eps 1e-8).
    """
    in_range("scale_by_adam", "b1", b1, 0, 1)
    in_range("scale_by_adam", "b2", b2, 0, 1)
    in_range("scale_by_adam", "eps", eps)

    def init(params: optax.Params) -> ScaleByAdamState:
        real = lambda p: zeros_beside(p, jnp.finfo(p.dtype).dtype)
        return ScaleByAdamState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(zeros_beside, params),
            jax.tree.map(real, params),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ScaleByAdamState]:
        del params, extra
        count = jnp.asarray(optax.safe_increment(state.count))

        def leaf(g: jax.Array, m: jax.Array, r: jax.Array) -> tuple[jax.Array, ...]:
            work = work_dtype(wider(g.dtype, m.dtype))
            real = jnp.finfo(work).dtype
            one, two, least = (jnp.asarray(x).astype(real) for x in (b1, b2, eps))
            g = g.astype(work)
            new = one.astype(work) * m.astype(work) + (1 - one).astype(work) * g
            root = running(r.astype(real), jnp.abs(g), two)
            t = count.astype(real)
            size = root / jnp.sqrt(1 - two**t) + least
            u = divide(new / (1 - one**t).astype(work), size)
            return u, new, root

        triples = jax.tree.map(leaf, updates, state.mean, state.root_mean_square)
        pick = lambda i, like: jax.tree.map(
            lambda x, triple: triple[i].astype(x.dtype), like, triples
        )
        return pick(0, updates), ScaleByAdamState(
            count, pick(1, state.mean), pick(2, state.root_mean_square)
        )

    return optax.GradientTransformationExtraArgs(init, update)
