# SPDX-License-Identifier: Apache-2.0
"""The polar factor to full precision by Halley's rational iteration."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from orthoptax._check import in_range, message
from orthoptax._dtypes import work_dtype
from orthoptax._types import Polar
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.norms import frobenius

_QR_ABOVE = 100.0  # the condition of I + c X X^H is at most 1 + c
_LEAST = 1e-20  # below, c would leave the range of float32
_LONGEST = 12  # steps, where eps cannot be reached; 7 are enough in float64


class Halley(NamedTuple):
    """One step x (a + b x^2)/(1 + c x^2), and the least singular value after it."""

    a: float
    b: float
    c: float
    lower: float


def qdwh(lower: float | None = None) -> Polar:
    """Polar factor by dynamically weighted Halley steps: a few factorizations.

        X <- X / ||X||_F
        X <- X (a I + b X^H X)(I + c X^H X)^-1             (a, b, c) -> (3, 1, 3)

    Every step is the best rational function of its kind on [l, 1], so the weights and
    the count of steps follow from l alone, and are constants of the compiled program:
    five steps at most in float32, six in float64. A step with c > 100 is computed from
    a QR factorization, the others from a Cholesky factorization of I + c X X^H.

    Args:
      lower: l, a lower bound on the least singular value over the Frobenius norm, in
        [1e-20, 1). Values below it are not finished; a bound far too low costs a step.
        None: the machine epsilon of the dtype of the work. Static.
    Returns: a `Polar`; 16-bit inputs compute in float32. Zero maps to zero. Null
      directions of a matrix that is not zero are rounding noise and become some
      directions of length up to 1, as in an SVD and unlike in `newton_schulz`.
    Raises: ValueError if `lower` is outside [1e-20, 1); in a call with an `inner` that
      spans a mesh axis if there is a step with c > 100.
    Example:
      >>> import jax.numpy as jnp
      >>> qdwh()(jnp.diag(jnp.asarray([3.0, -1e-3]))).round(4).tolist()
      [[1.0, 0.0], [0.0, -1.0]]

    Source: Nakatsukasa, Bai, Gygi, Optimizing Halley's iteration for computing the
      matrix polar decomposition, 2010.
    """
    if lower is not None:
        _check(lower)

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        y = x.astype(work_dtype(x.dtype))
        eps = float(jnp.finfo(y.dtype).eps)
        steps = halley_weights(eps if lower is None else lower, eps)
        _whole(inner, steps)
        y = frobenius()(y, inner).x
        for step in steps:
            y = (_by_qr if step.c > _QR_ABOVE else _by_cholesky)(y, step, inner)
        return y.astype(x.dtype)

    return polar


def halley_weights(lower: float, eps: float = 1e-15) -> tuple[Halley, ...]:
    """The steps that take [lower, 1] to [1 - eps, 1].

    Args:
      lower: in [1e-20, 1).
      eps: how far from 1 the result may be.
    Returns: one `Halley` a step, at least one.
    Raises: ValueError if `lower` is outside [1e-20, 1).
    Example:
      >>> [round(step.c, 2) for step in halley_weights(1e-3)]
      [16000.25, 13.58, 3.12, 3.0]

    Source: as `qdwh`.
    """
    _check(lower)
    steps, low = [], float(lower)
    while not steps or (1 - low > eps and len(steps) < _LONGEST):
        d = (4 * (1 - low**2) / low**4) ** (1 / 3)
        root = math.sqrt(1 + d)
        a = root + math.sqrt(8 - 4 * d + 8 * (2 - low**2) / (low**2 * root)) / 2
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        low = min(1.0, low * (a + b * low**2) / (1 + c * low**2))
        steps.append(Halley(a, b, c, low))
    return tuple(steps)


def _by_qr(x: jax.Array, step: Halley, inner: _inner.Inner) -> jax.Array:
    """The step through [sqrt(c) X^H; I] = [Q1; Q2] R: no Gram matrix, no loss."""
    a, b, c, _ = step
    m, n = x.shape[-2:]
    eye = jnp.broadcast_to(jnp.eye(m, dtype=x.dtype), (*x.shape[:-2], m, m))
    tall = jnp.concatenate([math.sqrt(c) * jnp.conj(x).mT, eye], axis=-2)
    q = jnp.linalg.qr(tall)[0]
    mixed = inner.matmul(q[..., n:, :], jnp.conj(q[..., :n, :]).mT)  # (Q1 Q2^H)^H
    return (b / c) * x + ((a - b / c) / math.sqrt(c)) * mixed


def _by_cholesky(x: jax.Array, step: Halley, inner: _inner.Inner) -> jax.Array:
    """The step through I + c X X^H = L L^H."""
    a, b, c, _ = step
    eye = jnp.eye(x.shape[-2], dtype=x.dtype)
    gram = inner.product(x, x)
    low = lax.linalg.cholesky(
        jnp.broadcast_to(eye, gram.shape) + c * gram, symmetrize_input=False
    )
    solve = lambda y, adjoint: lax.linalg.triangular_solve(
        low, y, left_side=True, lower=True, transpose_a=adjoint, conjugate_a=adjoint
    )
    return (b / c) * x + (a - b / c) * solve(solve(x, False), True)


def _whole(inner: _inner.Inner, steps: tuple[Halley, ...]) -> None:
    """Raises for cut matrices if a step needs QR, which does not work in pieces."""
    if inner.axis_name is not None and any(step.c > _QR_ABOVE for step in steps):
        raise ValueError(
            message(
                "qdwh",
                f"the long axis is cut over {inner.axis_name!r}",
                "whole matrices, or a lower end with Cholesky steps only",
                "Pass lower=0.05 or more, or place whole matrices",
            )
        )


def _check(lower: float) -> None:
    in_range("qdwh", "lower", lower, _LEAST, 1.0)
