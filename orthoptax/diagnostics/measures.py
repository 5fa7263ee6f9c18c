# SPDX-License-Identifier: Apache-2.0
"""Numbers that describe (..., m, n) matrices, one a matrix, always in float32.

All work on the matrix divided by its largest entry, so that squares neither overflow
nor underflow. Each costs O(mn) and none forms a product of two large matrices.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from orthoptax.matrix.inner import local
from orthoptax.matrix.orientation import flip

PROBES = 4  # at 128 rows the error is then known to 5 %
STEPS = 3  # products of O O^T with the probes; the first also serves the error


class Probed(NamedTuple):
    """orthogonality_error, spectral_norm: float32 of the batch shape."""

    orthogonality_error: jax.Array
    spectral_norm: jax.Array


def rms(x: jax.Array) -> jax.Array:
    """Root-mean-square of the entries of each matrix.

        rms(X) = ||X||_F / sqrt(m n)

    Args:
      x: (..., m, n).
    Returns: float32 of shape (...).
    Example:
      >>> import jax.numpy as jnp
      >>> float(rms(jnp.asarray([[3e30, 4e30], [0.0, 0.0]])) / 1e30)
      2.5

    Source: ours.
    """
    y, top = _unit(x)
    size = max(1, math.prod(x.shape[-2:]))
    return _batch(top * jnp.sqrt(local.squares(y) / size))


def update_to_weight(update: jax.Array, weight: jax.Array) -> jax.Array:
    """Root-mean-square of an update over that of the weights it is for.

        rms(U) / rms(W)

    Args:
      update: (..., m, n).
      weight: of the same shape.
    Returns: float32 of shape (...). A zero update gives 0; another over zero weights,
      infinity.
    Example:
      >>> import jax.numpy as jnp
      >>> float(update_to_weight(jnp.ones((2, 3)), 4 * jnp.ones((2, 3))))
      0.25

    Source: ours; near 1e-3 a step in healthy training is folklore.
    """
    step, size = rms(update), rms(weight)
    return jnp.where(step == 0, 0, step / size)


def probe(x: jax.Array, z: jax.Array, *, steps: int = STEPS) -> Probed:
    """Orthogonality error and spectral norm from the same few products.

        O <- X sqrt(r) / ||X||_F,  r = min(m, n)            so that ||O||_F = sqrt(r)
        z <- sqrt(r) z / |z|                             each probe
        error <- sqrt(mean |(O O^T - I) z|^2 / r)
        norm  <- ||X||_F / sqrt(r) max sqrt(|O O^T v| / |v|),   v = (O O^T)^k z

    The expectation of error^2 over Gaussian z is ||O O^T - I||_F^2 / r, the square of
    the relative distance of O O^T from the identity (for tall X, of O^T O). It says
    nothing of the scale of X, which is divided out. The norm is a lower bound.

    Args:
      x: (..., m, n).
      z: (..., r, probes), independent Gaussian entries.
      steps: number of products of O O^T with the probes; the first serves both. Static.
    Returns: a `Probed`. The zero matrix has error 1 and norm 0.
    Example:
      >>> import jax, jax.numpy as jnp
      >>> z = jax.random.normal(jax.random.key(0), (2, 4))
      >>> error, norm = probe(5 * jnp.eye(2, 3), z)
      >>> abs(float(error)) < 1e-6, round(float(norm), 4)
      (True, 5.0)

    Source: Hutchinson, 1990 (trace of (O O^T - I)^2); power iteration.
    """
    y, top = _unit(x)
    y = flip(y)
    rows, probes = z.shape[-2:]
    power = local.squares(y)
    scale = rows / jnp.where(power == 0, 1, power)  # of y y^T, to make it O O^T

    def times_gram(v: jax.Array) -> jax.Array:
        return scale * _matmul(y, _matmul(y.mT, v))

    z = math.sqrt(rows) * z / _lengths(z)
    v = times_gram(z)
    miss = jnp.sum(jnp.square(v - z), axis=(-2, -1)) / max(1, probes * rows)
    growth = _lengths(v) / math.sqrt(max(1, rows))
    for _ in range(steps - 1):
        v = times_gram(v / _lengths(v))
        growth = jnp.maximum(growth, _lengths(v))
    largest = jnp.sqrt(jnp.max(growth, axis=-1, keepdims=True, initial=0))
    norm = top * largest * jnp.sqrt(power / max(1, rows))  # a zero power gives 0
    return Probed(jnp.sqrt(miss), _batch(norm))


def orthogonality_error(
    x: jax.Array, key: jax.Array, *, probes: int = PROBES
) -> jax.Array:
    """How far each matrix is from a multiple of a semi-orthogonal one, by `probe`.

    0 for a polar factor; 0.37 for one by `newton_schulz()`, whose singular values lie
    between 0.68 and 1.13; sqrt(r/k - 1) if k of r = min(m, n) singular values are equal
    and the others 0; sqrt(min/max) for independent entries.

    Args:
      x: (..., m, n).
      key: a typed key.
      probes: number of random vectors. Static.
    Returns: float32 of shape (...); 1 for the zero matrix.
    Example:
      >>> import jax, jax.numpy as jnp
      >>> low_rank = jnp.diag(jnp.asarray([1.0, 1.0, 0.0, 0.0]))
      >>> round(float(orthogonality_error(low_rank, jax.random.key(0), probes=999)), 3)
      1.0

    Source: see `probe`.
    """
    return probe(x, _gaussian(x, key, probes), steps=1).orthogonality_error


def spectral_norm(
    x: jax.Array, key: jax.Array, *, probes: int = PROBES, steps: int = STEPS
) -> jax.Array:
    """A lower bound of the largest singular value, by `probe`.

    Args:
      x: (..., m, n).
      key: a typed key.
      probes: number of starting vectors. Static.
      steps: of power iteration; each brings the bound closer. Static.
    Returns: float32 of shape (...).
    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.diag(jnp.asarray([3.0, 1.0]))
      >>> round(float(spectral_norm(x, jax.random.key(0), steps=9)), 3)
      3.0

    Source: see `probe`.
    """
    return probe(x, _gaussian(x, key, probes), steps=steps).spectral_norm


def _gaussian(x: jax.Array, key: jax.Array, probes: int) -> jax.Array:
    """Probes of each matrix's own."""
    return jax.random.normal(
        key, (*x.shape[:-2], min(x.shape[-2:]), probes), jnp.float32
    )


def _unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(X over its largest entry, that entry (..., 1, 1)); zero stays zero."""
    y = x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
    top = local.largest(y)
    unit = y / jnp.where(top == 0, 1, top)
    return unit.astype(jnp.float32), top.astype(jnp.float32)


def _matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """A product in float32 all through, on every platform."""
    return jnp.matmul(
        x, y, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )


def _lengths(v: jax.Array) -> jax.Array:
    """The length of each column, (..., 1, k); 1 for a zero column."""
    length = jnp.sqrt(jnp.sum(v * v, axis=-2, keepdims=True))
    return jnp.where(length == 0, 1, length)


def _batch(x: jax.Array) -> jax.Array:
    """(..., 1, 1) to (...)."""
    return x[..., 0, 0]
