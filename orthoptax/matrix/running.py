# SPDX-License-Identifier: Apache-2.0
"""Norms, and root-mean-squares that run in time, for gradients of any scale.

A mean of squares that is kept as its root lives in the range of what it measures: in
float32 the square of 1e-23 is 0 and that of 1e20 is infinite, their roots are neither.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from orthoptax.matrix.inner import local
from orthoptax.matrix.norms import near_one


def power_of_two(x: jax.Array) -> jax.Array:
    """The power of two at or below each |x|, of 0 it is 1; dividing by it is exact."""
    x = jnp.where(x == 0, 1, jnp.abs(x))
    return x / near_one(x[..., None, None], local)[..., 0, 0]


def norm(x: jax.Array, axis: int | tuple[int, ...] = (-2, -1)) -> jax.Array:
    """Euclidean norm over the axes, which stay with length 1; real."""
    x = jnp.abs(x)
    unit = power_of_two(jnp.max(x, axis=axis, keepdims=True, initial=0))
    return unit * jnp.sqrt(jnp.sum(jnp.square(x / unit), axis=axis, keepdims=True))


def running(past: jax.Array, now: jax.Array, decay: ArrayLike) -> jax.Array:
    """sqrt(decay past^2 + (1 - decay) now^2), the root of a moving average of squares.

    Args:
      past: the root so far.
      now: what is new, of the same shape and dtype.
      decay: weight of the past, in [0, 1). Traceable.
    Returns: an array of that shape and dtype.
    """
    decay = jnp.asarray(decay).astype(now.dtype)
    return jnp.hypot(jnp.sqrt(decay) * past, jnp.sqrt(1 - decay) * now)


def weight_of_past(decay: jax.Array, count: jax.Array) -> jax.Array:
    """1 - decay^count, what a moving average that began at zero has seen.

    Subtracting the power from 1 would lose half the digits where decay is near 1.
    """
    return -jnp.expm1(count.astype(decay.dtype) * jnp.log1p(decay - 1))


def divide(x: jax.Array, by: jax.Array) -> jax.Array:
    """x / by, and 0 where `by` is 0."""
    return jnp.where(by == 0, 0, x / jnp.where(by == 0, 1, by).astype(x.dtype))
