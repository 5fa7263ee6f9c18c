# SPDX-License-Identifier: Apache-2.0
"""Newton-Schulz: the polar factor by odd polynomials, matrix products only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from orthoptax._check import is_callable, message
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Polar, Products, Scale, Schedule
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.forms import Form, cut, evaluate, forms, runs
from orthoptax.matrix.gram_norms import ByGram
from orthoptax.matrix.norms import frobenius
from orthoptax.matrix.schedules import JORDAN

_EXACT = (None, lax.Precision.HIGHEST, "highest", "float32")  # on every platform


def newton_schulz(
    schedule: Schedule | None = None,
    *,
    scale: Scale | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    products: Products | None = None,
    unroll: bool = False,
) -> Polar:
    """Drives every singular value toward 1 by a schedule of odd polynomials.

    The singular vectors stay, so the result approximates U V^T of X = U S V^T, the
    nearest semi-orthogonal matrix. Each stage (c_0, c_1, ...) is

        G <- X X^H                                    (..., m, m), the short side
        X <- c_0 X + (c_1 G + c_2 G^2 + ...) X

    evaluated with the fewest products and no terms that cancel, see `forms`: none for
    degree 3, one for 5, two for 7 and 9, three for 11, 13 and 17.

    Args:
      schedule: one tuple of coefficients a stage; default `JORDAN`. Static.
      scale: divides X before the first stage, and may hand on its G; default
        `frobenius()`. Static.
      compute_dtype: dtype of the products, which accumulate in float32 or wider; None:
        float32 for 16-bit input, else the input's. Static.
      precision: of every product; None means HIGHEST. Static.
      products: who computes G and the products of its polynomials, all Hermitian, as
        `block_products()`; None: plain products. Static.
      unroll: write the stages out instead of looping over neighbours of one degree (to
        count products, or to trade compile time for a little speed). Static.
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
    rows = usable("newton_schulz", JORDAN if schedule is None else schedule)
    stages = forms(rows)
    scale = frobenius() if scale is None else scale
    is_callable("newton_schulz", "scale", scale, "frobenius()")

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        work = work_dtype(x.dtype, compute_dtype)
        wide = work_dtype(work)  # norms and sums, never 16-bit
        inner = inner.computing(work, precision, products)
        y, by = x.astype(wider(x.dtype, wide)), None
        if isinstance(scale, ByGram):  # the first stage divides, in passing
            y = scale.raw(y, inner)
            by, gram, square = scale.read(inner.gram(y), inner)
        else:
            y, gram, square = scale(y, inner)
        y, whole = y.astype(work), keeps_identity(work, precision, products)

        def stage(
            y: jax.Array,
            form: Form,
            gram: jax.Array | None = None,
            square: jax.Array | None = None,
            by: jax.Array | None = None,
        ) -> jax.Array:
            gram = inner.gram(y) if gram is None else gram
            z = evaluate(form, gram, inner, square, whole=whole)
            if whole:
                z = z if by is None else z / by.astype(z.dtype)
                return inner.matmul(z, y).astype(work)
            y = form.alpha * y.astype(wide) + inner.matmul(z, y)
            y = y if by is None else y / by.astype(y.dtype)
            return y.astype(work)

        for count, run in runs(stages, wide):
            if gram is not None:  # the scale's, for the first stage of all
                y = stage(y, cut(run, 0), gram, square, by)
                run, count = cut(run, slice(1, None)), count - 1
                gram = square = by = None
            if unroll or count < 2:
                y = functools.reduce(stage, [cut(run, i) for i in range(count)], y)
            else:
                y, _ = lax.scan(lambda y, form: (stage(y, form), None), y, run)
        return y.astype(x.dtype)

    return polar


def keeps_identity(
    dtype: DTypeLike, precision: lax.PrecisionLike, products: Products | None
) -> bool:
    """Whether c_0 I + Z may be an operand: of products that keep float32.

    It saves passes over matrices, c_0 X + Z X being one product. Operands of fewer bits
    would round c_0; and a kernel that adds c_0 X in passing does so anyway.
    """
    fused = products is not None and products.combined is not None
    exact = precision in _EXACT and jnp.finfo(dtype).bits >= 32
    return exact and not fused


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
