# SPDX-License-Identifier: Apache-2.0
"""A matrix over the damped Gram matrix of another."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from orthoptax._dtypes import wider, work_dtype
from orthoptax.matrix.inner import local
from orthoptax.matrix.qr import each
from orthoptax.matrix.running import power_of_two

_LIFT = 8  # roundings, times sqrt(r), that keep the Gram matrix positive definite


def over_gram(g: jax.Array, x: jax.Array, damping: ArrayLike = 0.0) -> jax.Array:
    """G (X^H X + damping I)^-1 by a Cholesky factorization.

    X is scaled by a power of two first, so that entries of any size have an answer, and
    damping is at least 8 sqrt(r) roundings of its scale, so that each X has one.

    Args:
      g: (..., n, r).
      x: (..., k, r), with the same axes in front.
      damping: not negative. Traceable.
    Returns: (..., n, r), in float32 or wider.
    Example:
      >>> g, x = jnp.asarray([[1.0, 3.0]]), jnp.diag(jnp.asarray([1.0, 2.0]))
      >>> over_gram(g, x, 2.0).round(4).tolist()[0][1]
      0.5

    Source: the normal equations.
    """
    work = work_dtype(wider(g.dtype, x.dtype))
    g, x = g.astype(work), x.astype(work)
    real = jnp.finfo(work).dtype
    damp = jnp.asarray(damping).astype(real)
    unit = power_of_two(jnp.maximum(local.largest(x).astype(real), jnp.sqrt(damp)))
    x = x / unit.astype(work)
    rank = x.shape[-1]
    lift = _LIFT * math.sqrt(rank) * float(jnp.finfo(work).eps)
    diagonal = jnp.maximum(damp / unit / unit, lift).astype(work)
    gram = jnp.matmul(jnp.conj(x).mT, x, precision=lax.Precision.HIGHEST)
    gram = gram + diagonal * jnp.broadcast_to(jnp.eye(rank, dtype=work), gram.shape)

    def solve(gram: jax.Array, g: jax.Array) -> jax.Array:
        low = lax.linalg.cholesky(gram, symmetrize_input=False)
        over = lambda g, adjoint: lax.linalg.triangular_solve(
            low, g, lower=True, transpose_a=adjoint, conjugate_a=adjoint
        )
        return over(over(g, True), False)

    return each(solve, gram, g) / unit.astype(work) / unit.astype(work)
