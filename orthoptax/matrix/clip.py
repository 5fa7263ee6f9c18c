# SPDX-License-Identifier: Apache-2.0
"""Bounds on singular values by polar factors: clip, hard cap, clipped decay.

From |t| = t sign(t), a bound on s needs only the signs of s - b, and those are a polar
factor. The results are as good as it is: where a singular value is too small for the
polar function to bring it to 1, the bound from below is soft. None exceeds the cap.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_callable, message
from orthoptax._dtypes import work_dtype
from orthoptax._types import Polar
from orthoptax.matrix.inner import local
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.orientation import flip
from orthoptax.matrix.schedules import POLAR_EXPRESS_8

_Map = Callable[[jax.Array], jax.Array]


def spectral_clip(
    lower: ArrayLike = -1.0, upper: ArrayLike = 1.0, *, polar: Polar | None = None
) -> _Map:
    """Clips the singular values to [lower, upper].

        O <- polar(X)
        X <- ((lo + hi) O + P(lo) (lo O - X) - P(hi) (hi O - X)) / 2
        P(b) = polar(b I - O X^H)                        sign(b - s) on the left vectors

    Args:
      lower: raises smaller singular values; below 0 without effect. Traceable.
      upper: lowers larger ones. Traceable.
      polar: see `orthoptax.matrix`; None: `newton_schulz(POLAR_EXPRESS_8)`. Static.
    Returns: a function of (..., m, n) matrices, any m and n; same dtype, 16-bit ones
      compute in float32. Zero stays zero.
    Raises: ValueError if both bounds are Python numbers and `lower` is above `upper`;
      TypeError if `polar` is not a function.
    Example:
      >>> x = jnp.diag(jnp.asarray([3.0, 0.5]))
      >>> [round(float(s), 2) for s in spectral_clip(0.6, 0.9)(x).diagonal()]
      [0.9, 0.6]

    Deviations: the authors' scale has a floor of 1e-15 on the norm (`frobenius_max`).
    Source: Emerging-Optimizers@fd77292, spectral_clipping_utils.py.
    """
    in_range("spectral_clip", "upper", upper)
    in_range("spectral_clip", "lower", lower, -math.inf)
    _in_order(lower, upper)
    polar = _default("spectral_clip", polar)

    def clip(x: jax.Array) -> jax.Array:
        lo, hi = (jnp.asarray(v).astype(x.dtype) for v in (lower, upper))
        o = polar(x)
        cross = local.product(o, x)  # O X^H = U S U^H
        eye = jnp.broadcast_to(jnp.eye(x.shape[-2], dtype=x.dtype), cross.shape)
        ends = jnp.stack([lo, hi]).reshape((2,) + (1,) * x.ndim)
        signs = polar(ends * eye[None] - cross[None])  # one call for both ends
        low, high = local.matmul(signs, ends * o[None] - x[None])
        return ((lo + hi) * o + low - high) / 2

    return functools.partial(_oriented, clip)


def hard_cap(cap: ArrayLike = 1.0, *, polar: Polar | None = None) -> _Map:
    """Lowers the singular values above a cap to it, and leaves the others.

        O <- polar(X);   E <- b O - X
        X <- (b O + X - (E polar(E)^H) O) / 2                            min(s, b)

    Args:
      cap: b, not negative. Traceable.
      polar: see `orthoptax.matrix`; None: `newton_schulz(POLAR_EXPRESS_8)`. Static.
    Returns: a function of (..., m, n) matrices, any m and n; same dtype, 16-bit ones
      compute in float32. Zero stays zero.
    Raises: ValueError if a Python number is negative or NaN; TypeError if `polar` is
      not a function.
    Example:
      >>> x = jnp.diag(jnp.asarray([3.0, 0.5]))
      >>> hard_cap(0.75)(x).diagonal().round(2).tolist()
      [0.75, 0.5]

    Deviations: the authors form the larger n x n product E^H polar(E); ours is m x m
      and equal up to rounding. Their scale has a floor of 1e-15 on the norm.
    Source: Emerging-Optimizers@fd77292, spectral_clipping_utils.py.
    """
    in_range("hard_cap", "cap", cap)
    polar = _default("hard_cap", polar)

    def capped(x: jax.Array) -> jax.Array:
        b = jnp.asarray(cap).astype(x.dtype)
        o = polar(x)
        e = b * o - x
        away = local.product(e, polar(e))  # |b - s| on the left vectors
        return (b * o + x - local.matmul(away, o)) / 2

    return functools.partial(_oriented, capped)


def clipped_decay(
    cap: ArrayLike = 1.0, strength: ArrayLike = 0.5, *, polar: Polar | None = None
) -> _Map:
    """Pulls only the singular values above a cap toward it.

        X <- (1 - c) X + c hard_cap(X)

    Args:
      cap: not negative. Traceable.
      strength: c, in [0, 1]: 1 is the hard cap, 0 nothing. Traceable.
      polar: see `hard_cap`. Static.
    Returns: a function of (..., m, n) matrices, any m and n; same dtype.
    Raises: ValueError for a Python number out of range; TypeError if `polar` is not a
      function.
    Example:
      >>> x = jnp.diag(jnp.asarray([3.0, 0.5]))
      >>> clipped_decay(1.0, 0.5)(x).diagonal().round(2).tolist()
      [2.0, 0.5]

    Source: Emerging-Optimizers@fd77292, spectral_clipping_utils.py.
    """
    in_range("clipped_decay", "strength", strength, 0.0, math.nextafter(1.0, 2.0))
    capped = hard_cap(cap, polar=polar)

    def decay(x: jax.Array) -> jax.Array:
        y = x.astype(work_dtype(x.dtype))
        c = jnp.asarray(strength).astype(y.dtype)
        return ((1 - c) * y + c * capped(y)).astype(x.dtype)

    return decay


def _oriented(kernel: _Map, x: jax.Array) -> jax.Array:
    """The kernel on the small side first, in float32 or wider."""
    out = kernel(flip(x.astype(work_dtype(x.dtype)))).astype(x.dtype)
    return out.mT if x.shape[-2] > x.shape[-1] else out


def _default(where: str, polar: Polar | None) -> Polar:
    polar = newton_schulz(POLAR_EXPRESS_8) if polar is None else polar
    is_callable(where, "polar", polar, "orthoptax.matrix.newton_schulz()")
    return polar


def _in_order(lower: ArrayLike, upper: ArrayLike) -> None:
    """Raises if both bounds are Python numbers in the wrong order."""
    numbers = [v for v in (lower, upper) if isinstance(v, int | float)]
    if numbers != sorted(numbers):
        raise ValueError(
            message(
                "spectral_clip",
                f"lower={lower} is above upper={upper}",
                "lower <= upper",
                "Swap them",
            )
        )
