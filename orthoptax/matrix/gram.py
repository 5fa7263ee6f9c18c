# SPDX-License-Identifier: Apache-2.0
"""Newton-Schulz carried out on the Gram matrix: small products, two long ones."""

import functools
import itertools
from typing import Any

import jax
from jax import lax
from jax.typing import DTypeLike

from orthoptax._check import is_callable
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Polar, Products, Scale, Schedule
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.forms import Form, cut, evaluate, forms, plus_identity, runs
from orthoptax.matrix.gram_norms import ByGram
from orthoptax.matrix.newton_schulz import keeps_identity, newton_schulz, usable
from orthoptax.matrix.norms import frobenius
from orthoptax.matrix.restarts import fewest_restarts, inside
from orthoptax.matrix.schedules import POLAR_EXPRESS_105


def gram_newton_schulz(
    schedule: Schedule | None = None,
    *,
    restarts: tuple[int, ...] | None = None,
    scale: Scale | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    products: Products | None = None,
    unroll: bool = False,
) -> Polar:
    """`newton_schulz` for wide matrices: the long side is touched at block ends only.

    A block is a run of stages between two restarts. Of its Gram matrix R it needs

        R <- X X^H;   Q <- I
        Z <- c_1 R + c_2 R^2 + ...                       stage by stage
        Q <- Q (c_0 I + Z);   R <- (c_0 I + Z) R (c_0 I + Z)
        X <- Q X                                         at its end

    Without restarts rounding leaves R with eigenvalues below zero, which later stages
    blow up. Five stages with one restart take fewer operations than `newton_schulz`
    from n = 1.5 m on; square matrices that are whole take that one's form.

    Args:
      schedule: one tuple of coefficients a stage; None: `POLAR_EXPRESS_105`. Static.
      restarts: the stages, counted from 0, before which X is brought up to date; None:
        `fewest_restarts(schedule)`. Static.
      scale: divides X before the first stage, and may hand on its R; None:
        `frobenius()`. Static.
      compute_dtype: what X is rounded to in products with it; the (m, m) side stays in
        float32 or wider. None: float32 for 16-bit input, else the input's. Static.
      precision: of every product; None means HIGHEST. Restarts are chosen for float32:
        with less, pass `best_restarts` of that precision. Static.
      products: as in `newton_schulz`; here all but the products with X. Static.
      unroll: as in `newton_schulz`. Static.
    Returns: a `Polar`; each matrix of a batch is its own. 0 goes to 0.
    Raises: ValueError for an unusable schedule, or a restart that is not inside it.
    Example:
      >>> import jax.numpy as jnp
      >>> polar = gram_newton_schulz([(1.5, -0.5)] * 20)
      >>> polar(jnp.asarray([[3.0, 0.0, 0.0], [0.0, -2.0, 0.0]])).round(3).tolist()
      [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]

    Deviations: the authors store the small side in 16 bits, restart before stage 2 and
      add 1e-7 to the norm; ours keeps it in float32, and needs no epsilon.
    Source: Dao-AILab/gram-newton-schulz@f08f25e, gram_newton_schulz.py.
    """
    rows = usable(
        "gram_newton_schulz", POLAR_EXPRESS_105 if schedule is None else schedule
    )
    starts = fewest_restarts(rows) if restarts is None else restarts
    starts = sorted({*inside("gram_newton_schulz", rows, starts)})
    ends = itertools.pairwise([0, *starts, len(rows)])
    every = forms(rows)
    blocks = [every[start:end] for start, end in ends]
    scale = frobenius() if scale is None else scale
    is_callable("gram_newton_schulz", "scale", scale, "frobenius()")
    plain = newton_schulz(
        rows,
        scale=scale,
        compute_dtype=compute_dtype,
        precision=precision,
        products=products,
        unroll=unroll,
    )

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        height, width = inner.shape(x)
        if height >= width and inner.axis_name is None:
            return plain(x, inner=inner)  # type: ignore[call-arg]
        work = work_dtype(x.dtype, compute_dtype)
        wide = work_dtype(work)
        inner = inner.computing(work, precision, products)
        small = inner.computing(wide, precision, products)
        y, first = x.astype(wider(x.dtype, wide)), blocks[0]
        whole = keeps_identity(wide, precision, products)
        factor = functools.partial(_factor, small=small, whole=whole, unroll=unroll)
        if isinstance(scale, ByGram):
            y = scale.raw(y, inner).astype(work)
            q = inner.shared(functools.partial(_scaled, scale, factor, first), y)
        else:
            y, r, square = scale(y, inner)
            y, of = y.astype(work), functools.partial(factor, first)
            q = inner.shared(of, y) if r is None else of(r, square)
        y = inner.matmul(q, y).astype(work)
        for block in blocks[1:]:
            of = functools.partial(factor, block)
            y = inner.matmul(inner.shared(of, y), y).astype(work)
        return y.astype(x.dtype)

    return polar


def _scaled(scale: ByGram, factor: Any, block: list[Form], r: jax.Array) -> jax.Array:
    """Q / t for the scale's t, from R of what is not divided yet."""
    made: Any = scale.read(r, factor.keywords["small"])
    return factor(block, made.gram, made.square, made.x.astype(r.dtype))


def _factor(
    block: list[Form],
    r: jax.Array,
    square: jax.Array | None = None,
    by: jax.Array | None = None,
    *,
    small: _inner.Inner,
    whole: bool,
    unroll: bool,
) -> jax.Array:
    """Q / by such that the stages of the block take X to Q X, from R = X X^H.

    whole: the identity goes into the factors, see `keeps_identity`. R follows a stage
    when the next one asks for it, so that neighbours of one form are one loop.
    """
    first, *rest = runs(block, r.dtype)
    alpha = first[1].alpha[0]
    z = evaluate(cut(first[1], 0), r, small, square, whole=whole)
    q = z if whole else plus_identity(z, alpha)
    q = q if by is None else q / by

    def stage(carry: Any, form: Form) -> Any:
        q, r, z, alpha = carry
        r = _both_sides(alpha, z, r, small, whole)
        z = evaluate(form, r, small, whole=whole)
        step = small.commuting(q, z) if whole else small.combined(q, z, q, form.alpha)
        return (step, r, z, form.alpha), None

    carry = q, r, z, alpha
    for count, run in [(first[0] - 1, cut(first[1], slice(1, None))), *rest]:
        if unroll or count < 2:
            for i in range(count):
                carry, _ = stage(carry, cut(run, i))
        else:
            carry, _ = lax.scan(stage, carry, run)
    return carry[0]


def _both_sides(
    alpha: jax.Array, z: jax.Array, r: jax.Array, small: _inner.Inner, whole: bool
) -> jax.Array:
    """(alpha I + Z) R (alpha I + Z); whole: Z R Z."""
    if whole:
        return small.commuting(z, small.commuting(r, z))
    w = small.combined(r, z, r, alpha)
    return small.combined(z, w, w, alpha)
