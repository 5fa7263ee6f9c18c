# SPDX-License-Identifier: Apache-2.0
"""The diagonal of the Hessian from products with random vectors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from orthoptax._check import count, is_callable
from orthoptax._types import Estimator
from orthoptax.curvature.leaves import diagonal_of, split, wide, zero_diagonal
from orthoptax.curvature.objective import required, scalar
from orthoptax.curvature.probes import Probe, draw, rademacher
from orthoptax.curvature.products import Product, forward_over_reverse


class HutchinsonState(NamedTuple):
    """count: int32, estimates so far."""

    count: jax.Array


def hutchinson(
    n_samples: int | None = None,
    *,
    first_samples: int | None = None,
    probe: Probe | None = None,
    hvp: Product | None = None,
    has_aux: bool = False,
) -> Estimator:
    """The diagonal of the Hessian, unbiased, from one product with it or more.

        d <- mean over s of  z_s * (H z_s)

    One probe costs at most three gradients; probes are drawn and used one after the
    other, so that memory does not grow with their number. `obj_fn` must be the function
    whose gradient is the update: same batch, same dropout key, same model state. Inside
    `vmap` the estimate is made at every step, whatever the clock says.

    Args:
      n_samples: probes an estimate; None: 1. Static.
      first_samples: probes of the first one; None: `n_samples`. Static.
      probe: their distribution, see `Probe`; None: `rademacher`. Static.
      hvp: how H z is computed, see `Product`; None: `forward_over_reverse`. Static.
      has_aux: `obj_fn` returns (loss, anything). Static.
    State:
      count: int32 scalar, number of estimates.
    Returns: an `Estimator` that needs the extra argument `obj_fn`, the loss of the step
      as a function of the parameters. Leaves of integers have the diagonal 0.
    Raises: ValueError or TypeError for a number of probes below 1 or an argument that
      is no function; while tracing, for an `obj_fn` that is missing, returns more than
      one number, fails on masked leaves or holds a tracer of another trace.
    Example:
      >>> estimator, w = hutchinson(), jnp.asarray([1.0, 2.0])
      >>> state, key = estimator.init(w), jax.random.key(0)
      >>> cubic = lambda w: jnp.sum(w**3)
      >>> d, _ = estimator.estimate(state, w, None, 0, key, obj_fn=cubic)
      >>> d.tolist()
      [6.0, 12.0]

    Source: Hutchinson, 1989; Bekas et al., 2007; as used by Yao et al., AdaHessian,
      arXiv:2006.00719, and Liu et al., Sophia, arXiv:2305.14342, Algorithm 1.
    """
    n_samples = 1 if n_samples is None else n_samples
    first_samples = n_samples if first_samples is None else first_samples
    count("hutchinson", "n_samples", n_samples)
    count("hutchinson", "first_samples", first_samples)
    probe = rademacher if probe is None else probe
    hvp = forward_over_reverse if hvp is None else hvp
    is_callable("hutchinson", "probe", probe, "rademacher")
    is_callable("hutchinson", "hvp", hvp, "forward_over_reverse")

    def init(params: Any) -> HutchinsonState:
        del params
        return HutchinsonState(jnp.zeros((), jnp.int32))

    def estimate(
        state: Any, params: Any, grads: Any, step: Any, key: jax.Array, **extra: Any
    ) -> tuple[Any, HutchinsonState]:
        del grads
        fn = scalar("hutchinson", required("hutchinson", "obj_fn", extra), has_aux)
        floats, join = split(params)
        objective = lambda leaves: fn(join(leaves))
        axes = extra.get("axis_name")

        def one(sample: Any) -> dict[str, jax.Array]:
            z = draw(probe, key, floats, step, sample, axes)
            product = hvp(objective, floats, z)
            return {
                path: z[path].astype(wide(p.dtype))
                * product[path].astype(wide(p.dtype))
                for path, p in floats.items()
            }

        after = HutchinsonState(state.count + 1)
        if n_samples == first_samples == 1:
            return diagonal_of(join, params, one(jnp.zeros((), jnp.int32))), after
        n = jnp.where(state.count == 0, first_samples, n_samples)
        add = lambda i, total: jax.tree.map(jnp.add, total, one(i))
        total = lax.fori_loop(0, n, add, zero_diagonal(floats))
        mean = jax.tree.map(lambda d: d / n.astype(d.dtype), total)
        return diagonal_of(join, params, mean), after

    return Estimator(init, estimate)
