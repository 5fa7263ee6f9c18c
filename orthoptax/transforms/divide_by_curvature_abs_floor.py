# SPDX-License-Identifier: Apache-2.0
"""Every entry over the absolute value of its mean curvature so far."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range
from orthoptax._types import needs
from orthoptax.curvature.leaves import zero_diagonal
from orthoptax.transforms.refreshed import (
    estimate,
    mapped,
    moving_average,
    quotient,
    refreshed,
)


class DivideByCurvatureAbsFloorState(NamedTuple):
    """State of `divide_by_curvature_abs_floor`.

    count: int32, estimates so far. curvature: like the parameters, float32 or wider.
    """

    count: jax.Array
    curvature: optax.Updates


@needs("hessian_diag")
def divide_by_curvature_abs_floor(
    b2: ArrayLike = 0.99, *, floor: ArrayLike = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """Divides each entry by the absolute value of its mean curvature, or a floor.

        H <- b2 H + (1 - b2) d            if `hessian_fresh`; the first time H <- d
        U <- U / max(|H|, floor)

    Before the first estimate updates are 0.

    Args:
      b2: weight of the past in H, in [0, 1). Traceable.
      floor: least curvature. Traceable.
    State:
      count: int32 scalar, number of estimates.
      curvature: H, signed, like the parameters, in float32 or wider.
    Returns: a `GradientTransformationExtraArgs`, elementwise, that needs the extra
      argument `hessian_diag` and takes `hessian_fresh`; `with_curvature` gives both.
    Raises: ValueError for a number out of range or, in `update`, a missing diagonal.
    Example:
      >>> tx, g = divide_by_curvature_abs_floor(), {"w": jnp.asarray([6.0, 1.0])}
      >>> d = {"w": jnp.asarray([3.0, -2.0])}
      >>> tx.update(g, tx.init(g), hessian_diag=d)[0]["w"].tolist()
      [2.0, 0.5]

    Source: Jahani et al., OASIS, arXiv:2109.05198; Abdukhakimov et al., SANIA,
      arXiv:2312.17369.
    """
    where = "divide_by_curvature_abs_floor"
    in_range(where, "b2", b2, 0, 1)
    in_range(where, "floor", floor)

    def init(params: optax.Params) -> DivideByCurvatureAbsFloorState:
        return DivideByCurvatureAbsFloorState(
            jnp.zeros((), jnp.int32), zero_diagonal(params)
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DivideByCurvatureAbsFloorState]:
        del params
        diagonal, fresh = estimate(where, extra)
        k = state.count + fresh.astype(jnp.int32)
        first = moving_average(b2, state.count)
        means = refreshed(first, state.curvature, diagonal, fresh)

        def leaf(u: jax.Array, h: jax.Array) -> jax.Array:
            least = jnp.asarray(floor).astype(h.dtype)
            return jnp.where(k > 0, quotient(u, jnp.maximum(jnp.abs(h), least)), 0)

        return mapped(leaf, updates, means), DivideByCurvatureAbsFloorState(k, means)

    return optax.GradientTransformationExtraArgs(init, update)
