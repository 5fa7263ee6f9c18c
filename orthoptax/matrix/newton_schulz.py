# SPDX-License-Identifier: Apache-2.0
"""Newton-Schulz: the polar factor by odd polynomials, matrix products only."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from orthoptax._check import is_callable, message
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Polar, Scale, Schedule
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.norms import frobenius
from orthoptax.matrix.schedules import JORDAN


def newton_schulz(
    schedule: Schedule | None = None,
    *,
    scale: Scale | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    unroll: bool = False,
) -> Polar:
    """Drives every singular value toward 1 by a schedule of odd polynomials.

    The singular vectors stay, so the result approximates U V^T of X = U S V^T, the
    nearest semi-orthogonal matrix. Each stage (c_0, c_1, ...) is

        G <- X X^H                                    (..., m, m), the short side
        X <- c_0 X + (c_1 G + c_2 G^2 + ...) X

    Args:
      schedule: one tuple of coefficients a stage; default `JORDAN`. Static.
      scale: divides X before the first stage, and may hand on its G; default
        `frobenius()`. Static.
      compute_dtype: dtype of the products, which accumulate in float32 or wider; None:
        float32 for 16-bit input, else the input's. Static.
      precision: of every product; None means HIGHEST. Static.
      unroll: write the stages out instead of looping over those of one degree (to count
        products, or to trade compile time for a little speed). Static.
    Returns: a `Polar`; each matrix of a batch is its own. Singular values far below
      1/prod(c_0) of the scale stay small; 0 goes to 0.
    Raises: ValueError if the schedule is empty or a stage is not finite numbers.
    Example:
      >>> import jax.numpy as jnp
      >>> polar = newton_schulz([(1.5, -0.5)] * 20)
      >>> polar(jnp.diag(jnp.asarray([3.0, -2.0]))).round(3).tolist()
      [[1.0, 0.0], [0.0, -1.0]]

    Source: Jordan et al., Muon, 2024; code KellerJordan/Muon@857d1ad, muon.py.
    """
    stages = _runs(usable("newton_schulz", JORDAN if schedule is None else schedule))
    scale = frobenius() if scale is None else scale
    is_callable("newton_schulz", "scale", scale, "frobenius()")

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        work = work_dtype(x.dtype, compute_dtype)
        wide = work_dtype(work)  # norms and sums, never 16-bit
        inner = inner.computing(work, precision)
        y, gram = scale(x.astype(wider(x.dtype, wide)), inner)
        y = y.astype(work)

        def stage(
            y: jax.Array, c: jax.Array, gram: jax.Array | None = None
        ) -> jax.Array:
            gram = inner.gram(y) if gram is None else gram
            y = c[0] * y.astype(wide) + inner.matmul(powers(c, gram, inner), y)
            return y.astype(work)

        for block in stages:
            c = jnp.asarray(block).astype(wide)
            if gram is not None:  # the scale's, for the first stage of all
                y, c, gram = stage(y, c[0], gram), c[1:], None
            if unroll or not len(c):
                y = functools.reduce(stage, c, y)
            else:
                y, _ = lax.scan(lambda y, c: (stage(y, c), None), y, c)
        return y.astype(x.dtype)

    return polar


def powers(c: jax.Array, gram: jax.Array, inner: _inner.Inner) -> jax.Array:
    """c_1 G + c_2 G^2 + ... by Horner, as wide as G."""
    total = c[-1] * gram
    for j in range(c.shape[0] - 2, 0, -1):
        total = c[j] * gram + inner.matmul(total, gram)
    return total


def plus_identity(z: jax.Array, c: jax.Array) -> jax.Array:
    """Z + c I."""
    return z + jnp.broadcast_to(c * jnp.eye(z.shape[-1], dtype=z.dtype), z.shape)


def usable(where: str, schedule: Schedule) -> list[tuple[float, ...]]:
    """The stages as numbers, without a last coefficient of a quintic that is 0.

    Raises: ValueError if there is none, or one is not finite numbers.
    """
    rows = [tuple(float(c) for c in stage) for stage in schedule]
    if not rows or any(len(r) < 2 or not np.all(np.isfinite(r)) for r in rows):
        raise ValueError(
            message(
                where,
                f"schedule {schedule!r} is not usable",
                "at least one stage of two or more finite coefficients",
                "Pass for example orthoptax.matrix.JORDAN",
            )
        )
    return [r[:2] if len(r) == 3 and r[2] == 0 else r for r in rows]


def _runs(rows: list[tuple[float, ...]]) -> list[np.ndarray]:
    """The stages as arrays (stages, coefficients), one a run of equal degree."""
    return [np.asarray(list(run)) for _, run in itertools.groupby(rows, key=len)]
