# SPDX-License-Identifier: Apache-2.0
"""Every entry over the root-mean-square of its curvature so far."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_callable
from orthoptax._types import needs
from orthoptax.curvature.leaves import zero_diagonal
from orthoptax.curvature.spatial_average import Average, spatial_average
from orthoptax.matrix.running import running
from orthoptax.transforms.refreshed import estimate, mapped, quotient, refreshed


class DivideByCurvatureRmsState(NamedTuple):
    """State of `divide_by_curvature_rms`.

    count: int32, estimates so far. curvature: like the parameters, float32 or wider.
    """

    count: jax.Array
    curvature: optax.Updates


@needs("hessian_diag")
def divide_by_curvature_rms(
    b2: ArrayLike = 0.999,
    *,
    power: ArrayLike = 1.0,
    eps: ArrayLike = 1e-4,
    average: Average | None = None,
    abs_first: bool = True,
    bias_correction: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Divides each entry by the running root-mean-square of its curvature.

    It does not see the sign of the curvature: one more step of Newton's along valleys,
    and away from saddle points.

        D <- average(|d|)                                 d = `hessian_diag`
        V <- b2 V + (1 - b2) D * D, k <- k + 1            if `hessian_fresh`
        U <- U / ((sqrt(V) / sqrt(1 - b2^k))^power + eps)

    The root of V is kept, as squares leave float32 sooner. Before the first estimate
    (k = 0) updates are 0.

    Args:
      b2: weight of the past in V, in [0, 1). Traceable.
      power: of the root, 1 is Newton's, 0 none. Traceable.
      eps: added to the power. Traceable.
      average: over entries that are alike, see `orthoptax.curvature.average_axes`;
        None: none. Static.
      abs_first: take |d| before the average, which then cannot cancel, as the authors'
        code does; else after, as in the paper. Static.
      bias_correction: divide V by 1 - b2^k. Static.
    State:
      count: int32 scalar, k, number of estimates.
      curvature: sqrt(V), like the parameters, in float32 or wider.
    Returns: a `GradientTransformationExtraArgs`, elementwise, that needs the extra
      argument `hessian_diag` and takes `hessian_fresh`; `with_curvature` gives both.
    Raises: ValueError for a number out of range or, in `update`, a missing diagonal.
    Example:
      >>> tx, g = divide_by_curvature_rms(eps=0.0), {"w": jnp.asarray([6.0, 1.0])}
      >>> d = {"w": jnp.asarray([3.0, -2.0])}
      >>> tx.update(g, tx.init(g), hessian_diag=d)[0]["w"].round(3).tolist()
      [2.0, 0.5]

    Source: Yao et al., AdaHessian, arXiv:2006.00719; code
      amirgholami/adahessian@85ebc00, image_classification/optim_adahessian.py.
    """
    where = "divide_by_curvature_rms"
    in_range(where, "b2", b2, 0, 1)
    in_range(where, "power", power)
    in_range(where, "eps", eps)
    average = (lambda path, d: d) if average is None else average
    is_callable(where, "average", average, "orthoptax.curvature.average_axes(rule)")

    def init(params: optax.Params) -> DivideByCurvatureRmsState:
        return DivideByCurvatureRmsState(
            jnp.zeros((), jnp.int32), zero_diagonal(params)
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DivideByCurvatureRmsState]:
        del params
        diagonal, fresh = estimate(where, extra)
        size = jax.tree.map(jnp.abs, diagonal) if abs_first else diagonal
        size = jax.tree.map(jnp.abs, spatial_average(size, average))
        k = state.count + fresh.astype(jnp.int32)

        def leaf(u: jax.Array, root: jax.Array) -> jax.Array:
            b, p, least = (jnp.asarray(x).astype(root.dtype) for x in (b2, power, eps))
            if bias_correction:
                t = jnp.maximum(k, 1).astype(root.dtype)
                root = root / jnp.sqrt(1 - b**t)
            return jnp.where(k > 0, quotient(u, _power(root, power, p) + least), 0)

        moved = lambda root, d: running(root, d.astype(root.dtype), b2)
        roots = refreshed(moved, state.curvature, size, fresh)
        return mapped(leaf, updates, roots), DivideByCurvatureRmsState(k, roots)

    return optax.GradientTransformationExtraArgs(init, update)


def _power(root: jax.Array, power: ArrayLike, p: jax.Array) -> jax.Array:
    """root^power; nothing to do where that is known to be root."""
    return root if isinstance(power, float | int) and power == 1 else root**p
