# SPDX-License-Identifier: Apache-2.0
"""The diagonal of the Hessian, one parameter at a time: for tests and tiny models."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from orthoptax._types import Estimator
from orthoptax.curvature.leaves import diagonal_of, split, wide
from orthoptax.curvature.objective import required, scalar
from orthoptax.curvature.probes import beside
from orthoptax.curvature.products import forward_over_reverse


def exact_diagonal(*, has_aux: bool = False) -> Estimator:
    """The diagonal of the Hessian itself: one product with it a parameter.

        d_i <- (H e_i)_i

    Args:
      has_aux: `obj_fn` returns (loss, anything). Static.
    State: none.
    Returns: an `Estimator` that needs the extra argument `obj_fn`, see `hutchinson`.
    Example:
      >>> estimator, w = exact_diagonal(), jnp.asarray([1.0, 2.0])
      >>> product = lambda w: w[0] * w[1] ** 2
      >>> estimator.estimate(None, w, None, 0, None, obj_fn=product)[0].tolist()
      [0.0, 2.0]

    Source: the definition.
    """

    def estimate(
        state: Any, params: Any, grads: Any, step: Any, key: Any, **extra: Any
    ) -> tuple[Any, Any]:
        del grads, step, key
        where = "exact_diagonal"
        fn = scalar(where, required(where, "obj_fn", extra), has_aux)
        floats, join = split(params)
        zero = jax.tree.map(jnp.zeros_like, floats)

        def of_leaf(path: str, p: jax.Array) -> jax.Array:
            def entry(i: jax.Array) -> jax.Array:
                unit = jax.nn.one_hot(i, p.size, dtype=p.dtype).reshape(p.shape)
                z = {**zero, path: unit}
                z = {name: beside(z[name], floats[name]) for name in floats}
                objective = lambda leaves: fn(join(leaves))
                product = forward_over_reverse(objective, floats, z)[path]
                return product.reshape(-1)[i].astype(wide(p.dtype))

            return lax.map(entry, jnp.arange(p.size)).reshape(p.shape)

        found = {path: of_leaf(path, p) for path, p in floats.items()}
        return diagonal_of(join, params, found), state

    return Estimator(lambda params: optax.EmptyState(), estimate)
