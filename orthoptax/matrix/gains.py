# SPDX-License-Identifier: Apache-2.0
"""A schedule for each matrix, by how far its norm allows it to be enlarged."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from orthoptax._check import in_range, is_callable, message
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Polar, Products, Scaled, Schedule
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.choose import cost
from orthoptax.matrix.chosen import BY_GAIN, BY_GAIN_16_BITS
from orthoptax.matrix.explain import GRAM_BOUND, PLAIN_BOUND, SMALL_BOUND
from orthoptax.matrix.gram import gram_newton_schulz
from orthoptax.matrix.gram_norms import schatten_8
from orthoptax.matrix.hardware import rounding
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.restarts import quiet_restarts

_PRICE = 0.625  # of products that are halved twice
_LOW = 5  # coefficients of degree 9, which the Gram form stands in 16 bits


def by_gain(
    table: Mapping[float, Schedule] | None = None,
    *,
    kernel: Callable[..., Polar] | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    products: Products | None = None,
) -> Polar:
    """Takes the schedule from the matrix: few stages where its spectrum is flat.

        A <- X X^H;   g <- ||X||_F / ||X||_S8  =  ||A||_* ^(1/2) / ||A^2||_F^(1/4)  >= 1
        X <- X / ||X||_S8;   the schedule of the largest gain in the table up to g

    The norm costs nothing (see `schatten_8`), and after it singular values are g times
    larger than after the Frobenius norm, for certain. Each matrix takes its own branch,
    one after the other, so results do not depend on what else is in a stack. They do
    jump where g passes a gain of the table: rounding may decide there, which is why
    this is an option. Devices that hold parts of a matrix take the branch of the
    least g among them, so that they never part; each works on the whole small side.

    Args:
      table: {gain: schedule}, one of them for gain 1; None: `BY_GAIN`, or
        `BY_GAIN_16_BITS` for products that may round as `rounding` says of any
        platform to fewer than 11 bits, as in 16-bit dtypes. Static.
      kernel: makes a `Polar` of a schedule, a `scale` and the arguments below; None:
        for each shape and schedule `newton_schulz`, or `gram_newton_schulz` with
        `quiet_restarts` where that takes fewer FLOPs and stands the rounding. Static.
      compute_dtype: see `newton_schulz`. Static.
      precision: see `newton_schulz`. Static.
      products: see `newton_schulz`. Static.
    Returns: a `Polar`.
    Raises: ValueError if no schedule is for gain 1, or one for less, or for a precision
      that `rounding` does not know.
    Example:
      >>> import jax.numpy as jnp
      >>> polar = by_gain()
      >>> polar(jnp.diag(jnp.asarray([3.0, -2.0, 0.0]))).round(0).tolist()
      [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.0]]

    Source: ours.
    """
    if table is None:
        fine = rounding(compute_dtype, precision) <= PLAIN_BOUND
        short = compute_dtype is not None and jnp.finfo(compute_dtype).bits < 32
        table = BY_GAIN if fine and not short else BY_GAIN_16_BITS
    if kernel is not None:
        is_callable("by_gain", "kernel", kernel, "orthoptax.matrix.newton_schulz")
    for gain in table:
        in_range("by_gain", "gain", gain, 1.0)
    gains = sorted(table)
    if not gains or gains[0] != 1:
        raise ValueError(
            message(
                "by_gain",
                f"a table for gains {gains} leaves some matrices without a schedule",
                "one for gain 1",
                "Add it",
            )
        )
    options = {
        "compute_dtype": compute_dtype,
        "precision": precision,
        "products": products,
    }

    def one(x: jax.Array, inner: _inner.Inner) -> jax.Array:
        work = work_dtype(x.dtype, compute_dtype)
        wide = wider(x.dtype, work_dtype(work))
        summed = inner.computing(work, precision, products)
        scaled = schatten_8()(x.astype(wide), summed)
        gain = _frobenius(scaled)
        passed = [gain >= jnp.asarray(g, gain.dtype) for g in gains[1:]]
        index = sum((p.astype(jnp.int32) for p in passed), jnp.int32(0))
        if inner.axis_name is not None:
            index = lax.pmin(index, inner.axis_name, axis_index_groups=inner.groups)
        form = kernel
        if form is None:
            form = _cheaper(*inner.shape(x), work, precision, products)
        handed = lambda *_: scaled
        made: Any = [form(table[g], scale=handed, **options) for g in gains]
        branches = [functools.partial(polar, inner=inner) for polar in made]
        return lax.switch(index, branches, x)

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        if x.ndim == 2:
            return one(x, inner)
        stack = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
        run: Any = lambda y: one(y, inner)
        return lax.map(run, stack).reshape(x.shape)

    return polar


def _cheaper(
    rows: int,
    cols: int,
    work: DTypeLike,
    precision: lax.PrecisionLike,
    products: Products | None,
) -> Callable[..., Polar]:
    """The form of fewer FLOPs of each schedule, for this shape and these products."""
    price = 1.0 if products is None else _PRICE
    long, small = rounding(work, precision), rounding(work_dtype(work), precision)

    def form(schedule: Schedule, **options: Any) -> Polar:
        starts = quiet_restarts(schedule, long=long, small=small)
        gram = cost(schedule, rows, cols, gram=True, price=price, restarts=starts)
        low = all(len(stage) <= _LOW for stage in schedule)
        stands = small <= SMALL_BOUND and (low or max(long, small) <= GRAM_BOUND)
        if stands and gram < cost(schedule, rows, cols, price=price):
            return gram_newton_schulz(schedule, restarts=starts, **options)
        return newton_schulz(schedule, **options)

    return form


def gain_of(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
    """||X||_F / ||X||_S8 of (..., m, n) matrices, shape (...); 0 of zero.

    What `by_gain` chooses by.
    """
    return _frobenius(schatten_8()(x.astype(work_dtype(x.dtype)), inner))


def _frobenius(scaled: Scaled) -> jax.Array:
    """||X||_F from X X^H: where ||X||_S8 is 1, the gain."""
    gram: Any = scaled.gram
    return jnp.sqrt(jnp.trace(gram, axis1=-2, axis2=-1).real)
