# SPDX-License-Identifier: Apache-2.0
"""Products of the Hessian with a vector; the Hessian itself is never formed."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from orthoptax._check import in_range
from orthoptax._dtypes import wider, work_dtype

Product = Callable[[Callable[[Any], jax.Array], Any, Any], Any]
"""product(objective, params, z): H z, like the parameters."""


def forward_over_reverse(
    objective: Callable[[Any], jax.Array], params: Any, z: Any
) -> Any:
    """The derivative of the gradient along z: at most three gradients of work.

    Args:
      objective: maps parameters to one real number.
      params: floating leaves.
      z: like the parameters, in their dtypes.
    Returns: H z, like the parameters.
    Example:
      >>> f = lambda x: x[0] * x[1] ** 2
      >>> forward_over_reverse(f, jnp.ones(2), jnp.asarray([1.0, 0.0])).tolist()
      [0.0, 2.0]

    Source: Pearlmutter, 1994.
    """
    return jax.jvp(jax.grad(objective), (params,), (z,))[1]


def reverse_over_reverse(
    objective: Callable[[Any], jax.Array], params: Any, z: Any
) -> Any:
    """The gradient of <gradient, z>: for models without forward derivatives.

    Args:
      objective: maps parameters to one real number.
      params: floating leaves.
      z: like the parameters, in their dtypes.
    Returns: H z, like the parameters.
    Example:
      >>> f = lambda x: x[0] * x[1] ** 2
      >>> reverse_over_reverse(f, jnp.ones(2), jnp.asarray([1.0, 0.0])).tolist()
      [0.0, 2.0]

    Source: Pearlmutter, 1994.
    """

    def along(params: Any) -> Any:
        pairs = zip(
            jax.tree.leaves(jax.grad(objective)(params)),
            jax.tree.leaves(z),
            strict=True,
        )
        # In the widest dtype of all: a sum over leaves of several dtypes.
        parts = [jnp.sum(g * z, dtype=work_dtype(g.dtype)) for g, z in pairs]
        widest = jnp.dtype(jnp.float32)
        for part in parts:
            widest = wider(widest, part.dtype)
        return sum((part.astype(widest) for part in parts), jnp.zeros((), widest))

    return jax.grad(along)(params)


def finite_difference(step: ArrayLike | None = None) -> Product:
    """The difference of two gradients: for models without second derivatives.

        H z = (g(W + s z) - g(W)) / s

    The loss must be deterministic, and keeps about half the digits of its dtype.

    Args:
      step: s; None: the square root of the machine epsilon of each leaf's dtype, the
        largest of them. Traceable.
    Returns: a `Product`.
    Raises: ValueError if a Python number is negative or NaN.
    Example:
      >>> f = lambda x: x[0] * x[1] ** 2
      >>> z = jnp.asarray([1.0, 0.0])
      >>> finite_difference(0.5)(f, jnp.ones(2), z).tolist()
      [0.0, 2.0]

    Source: code evanatyourservice/psgd_jax, psgd_jax/utils.py.
    """
    if step is not None:
        in_range("finite_difference", "step", step)

    def product(objective: Callable[[Any], jax.Array], params: Any, z: Any) -> Any:
        epsilons = [float(jnp.finfo(p.dtype).eps) for p in jax.tree.leaves(params)]
        s = math.sqrt(max(epsilons, default=1.0)) if step is None else step
        size = lambda dtype: jnp.asarray(s).astype(work_dtype(dtype))

        def moved(p: jax.Array, z: jax.Array) -> jax.Array:
            work = work_dtype(p.dtype)
            return (p.astype(work) + size(p.dtype) * z.astype(work)).astype(p.dtype)

        gradient = jax.grad(objective)
        there, here = gradient(jax.tree.map(moved, params, z)), gradient(params)

        def difference(a: jax.Array, b: jax.Array) -> jax.Array:
            work = work_dtype(a.dtype)
            return (a.astype(work) - b.astype(work)) / size(a.dtype)

        return jax.tree.map(difference, there, here)

    return product
