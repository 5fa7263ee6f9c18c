# SPDX-License-Identifier: Apache-2.0
"""Scales: what a matrix is divided by before a polynomial iteration.

Each constructor returns a `Scale`, a function `(x, inner) -> Scaled` of (..., m, n)
arrays. Those of this file need no product; those of `gram_norms` read the first Gram
matrix and hand it on.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from orthoptax._check import in_range
from orthoptax._types import Scale, Scaled
from orthoptax.matrix.inner import Inner

_EXPONENT = {  # the exponent bits of IEEE 754 binary32 and binary64
    np.dtype("float32"): (jnp.uint32, 0x7F800000),
    np.dtype("float64"): (jnp.uint64, 0x7FF0000000000000),
}


def near_one(x: jax.Array, inner: Inner) -> jax.Array:
    """Divides each matrix by the power of two at or below its largest entry.

    The quotient is exact, so every later step sees the same digits whatever the scale
    of the input; squares neither overflow nor underflow. Zero stays zero.
    """
    top = inner.largest(x)
    bits, mask = _EXPONENT[jnp.dtype(top.dtype)]
    power = lax.bitcast_convert_type(top, bits) & jnp.asarray(mask, bits)
    power = lax.bitcast_convert_type(power, top.dtype)  # 2^floor(log2(top))
    return x / jnp.where(power == 0, 1, power).astype(x.dtype)


def frobenius(*, factor: float = 1.0) -> Scale:
    """Divides by the Frobenius norm; needs no epsilon.

        X <- X / 2^e,  2^e near the largest |entry|       exact
        X <- X / (factor ||X||_F)                         0 stays 0

    Works for entries from 1e-30 to 1e30 in float32, and gives the same bits for inputs
    that differ by a power of two.

    Args:
      factor: of the norm; schedules made with a safety factor expect it. Traceable.
    Returns: a `Scale`. Every singular value of its result is at most 1/factor.
    Raises: ValueError if a Python number is negative or NaN.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix.inner import local
      >>> x = frobenius()(jnp.asarray([[3e20, 4e20]]), local).x
      >>> [round(float(v), 3) for v in x[0]]
      [0.6, 0.8]

    Source: ours; the epsilon it replaces is that of `frobenius_add`.
    """
    in_range("frobenius", "factor", factor)

    def scale(x: jax.Array, inner: Inner) -> Scaled:
        x = near_one(x, inner)
        norm = jnp.sqrt(inner.squares(x)) * jnp.asarray(factor).astype(x.real.dtype)
        return Scaled(x / jnp.where(norm == 0, 1, norm).astype(x.dtype))

    return scale


def frobenius_add(eps: float = 1e-7, *, factor: float = 1.0) -> Scale:
    """Divides by `factor * ||X||_F + eps`, the form of most published code.

    The epsilon is absolute: a matrix of norm near it is shrunk, not normalized. For
    parity with an author's code; `frobenius` otherwise.

    Args:
      eps: added to the norm. Traceable.
      factor: of the norm; schedules made with a safety factor expect it. Traceable.
    Returns: a `Scale`.
    Raises: ValueError if a Python number is negative or NaN.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix.inner import local
      >>> frobenius_add(1.0)(jnp.asarray([[0.0, 1.0]]), local).x.tolist()
      [[0.0, 0.5]]

    Source: code KellerJordan/Muon@857d1ad, muon.py (eps 1e-7); factor 1.02:
      microsoft/dion@0a059a4.
    """
    in_range("frobenius_add", "eps", eps)
    in_range("frobenius_add", "factor", factor)

    def scale(x: jax.Array, inner: Inner) -> Scaled:
        return Scaled(x / (factor * jnp.sqrt(inner.squares(x)) + eps).astype(x.dtype))

    return scale


def frobenius_max(eps: float = 1e-7) -> Scale:
    """Divides by `max(||X||_F, eps)`.

    The floor is absolute, as in `frobenius_add`; for parity with an author's code.

    Args:
      eps: least divisor. Traceable.
    Returns: a `Scale`.
    Raises: ValueError if `eps` is a negative or NaN Python number.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix.inner import local
      >>> frobenius_max(4.0)(jnp.asarray([[0.0, 1.0]]), local).x.tolist()
      [[0.0, 0.25]]

    Source: torch.optim.Muon (release 2.13, eps 1e-7); Emerging-Optimizers@fd77292
      (eps 1e-15).
    """
    in_range("frobenius_max", "eps", eps)

    def scale(x: jax.Array, inner: Inner) -> Scaled:
        norm = jnp.maximum(jnp.sqrt(inner.squares(x)), eps)
        return Scaled(x / norm.astype(x.dtype))

    return scale
