# SPDX-License-Identifier: Apache-2.0
"""Every entry over its mean curvature so far, clipped."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_callable
from orthoptax._types import needs
from orthoptax.curvature.leaves import is_float, zero_diagonal
from orthoptax.transforms.refreshed import (
    estimate,
    mapped,
    moving_average,
    quotient,
    refreshed,
)


class DivideByCurvatureMeanState(NamedTuple):
    """State of `divide_by_curvature_mean`.

    count: int32, estimates so far. curvature: like the parameters, float32 or wider.
    win_rate: float32, fraction of the entries that were not clipped.
    """

    count: jax.Array
    curvature: optax.Updates
    win_rate: jax.Array


@needs("hessian_diag")
def divide_by_curvature_mean(
    b2: ArrayLike = 0.99,
    *,
    gamma: ArrayLike = 0.01,
    eps: ArrayLike = 1e-8,
    clip_threshold: ArrayLike | None = 1.0,
    bias_correction: bool = False,
    refresh_first: bool = False,
    denominator: Callable[[Any, Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides each entry by its mean curvature, and clips what comes out.

    Where the curvature is small or negative the entry is clipped, a step of the sign.

        U <- clip(U / max(gamma H, eps), -tau, tau)
        H <- b2 H + (1 - b2) d                  if `hessian_fresh`; d = `hessian_diag`

    Args:
      b2: weight of the past in H, in [0, 1). Traceable.
      gamma: factor of H: the larger, the fewer entries are clipped. Traceable.
      eps: least denominator. Traceable.
      clip_threshold: tau, not negative; None: no clipping. Traceable.
      bias_correction: divide H by 1 - b2^k, k the number of estimates; updates are 0
        before the first. Static.
      refresh_first: the estimate of this step counts in this step already. Static.
      denominator: maps (gamma H, eps) to what is divided by; None: `jnp.maximum`.
        `jnp.add` is the authors' code. Static.
    State:
      count: int32 scalar, k, number of estimates.
      curvature: H, like the parameters, in float32 or wider.
      win_rate: float32 scalar, fraction of the entries of the last update below tau; to
        be kept in 0.1 to 0.5 by `gamma`.
    Returns: a `GradientTransformationExtraArgs`, elementwise, that needs the extra
      argument `hessian_diag` and takes `hessian_fresh`; `with_curvature` gives both.
    Raises: ValueError for a number out of range or, in `update`, a missing diagonal.
    Example:
      >>> tx = divide_by_curvature_mean(0.0, gamma=1.0, refresh_first=True)
      >>> g, d = {"w": jnp.asarray([1.0, 5.0])}, {"w": jnp.asarray([4.0, -4.0])}
      >>> tx.update(g, tx.init(g), hessian_diag=d)[0]["w"].tolist()
      [0.25, 1.0]

    Source: Liu et al., Sophia, arXiv:2305.14342, Algorithm 3; optax 0.2.8
      contrib.sophia; code Liuhong99/Sophia@a7e1572, sophia.py.
    """
    where = "divide_by_curvature_mean"
    in_range(where, "b2", b2, 0, 1)
    in_range(where, "gamma", gamma)
    in_range(where, "eps", eps)
    if clip_threshold is not None:
        in_range(where, "clip_threshold", clip_threshold)
    denominator = jnp.maximum if denominator is None else denominator
    is_callable(where, "denominator", denominator, "jnp.maximum")

    def init(params: optax.Params) -> DivideByCurvatureMeanState:
        zero = jnp.zeros((), jnp.int32)
        return DivideByCurvatureMeanState(
            zero, zero_diagonal(params), jnp.zeros((), jnp.float32)
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DivideByCurvatureMeanState]:
        del params
        diagonal, fresh = estimate(where, extra)
        k = state.count + fresh.astype(jnp.int32)
        after = refreshed(moving_average(b2), state.curvature, diagonal, fresh)
        used, n = (after, k) if refresh_first else (state.curvature, state.count)

        def leaf(u: jax.Array, h: jax.Array) -> jax.Array:
            b, c, least = (jnp.asarray(x).astype(h.dtype) for x in (b2, gamma, eps))
            if bias_correction:
                h = h / (1 - b ** jnp.maximum(n, 1).astype(h.dtype))
            u = quotient(u, denominator(c * h, least))
            if clip_threshold is not None:
                tau = jnp.asarray(clip_threshold).astype(u.dtype)
                u = jnp.clip(u, -tau, tau)
            return jnp.where(n > 0, u, 0) if bias_correction else u

        steps = mapped(leaf, updates, used, cast=False)
        result = jax.tree.map(lambda s, u: s.astype(u.dtype), steps, updates)
        rate = _win_rate(steps, clip_threshold)
        return result, DivideByCurvatureMeanState(k, after, rate)

    return optax.GradientTransformationExtraArgs(init, update)


def _win_rate(steps: Any, clip_threshold: ArrayLike | None) -> jax.Array:
    """The fraction of all entries that lie within the threshold."""
    floats = [u for u in jax.tree.leaves(steps) if is_float(u)]
    size = max(1, sum(u.size for u in floats))
    tau = jnp.inf if clip_threshold is None else clip_threshold

    def within(u: jax.Array) -> jax.Array:
        below = jnp.abs(u) < jnp.asarray(tau).astype(u.dtype)
        return jnp.sum(below, dtype=jnp.float32)

    return sum(map(within, floats), jnp.zeros((), jnp.float32)) / size
