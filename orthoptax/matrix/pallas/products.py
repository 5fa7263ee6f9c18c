# SPDX-License-Identifier: Apache-2.0
"""Products of which the result is known to be symmetric, half of it computed."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from orthoptax._check import message
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Products
from orthoptax.matrix.pallas.blocks import LANES, Blocks, blocks

LEAST = 2 * LANES
"""A shorter side has one block, of which nothing is left out."""


def pallas_products(
    *,
    compute_dtype: DTypeLike | None = None,
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    interpret: bool = False,
) -> Products:
    """Symmetric products that multiply one triangle of blocks, on TPUs.

    The lower triangle is computed, and written twice, as it is and mirrored, so that
    the result equals its transpose bit by bit. A polynomial stage in the Gram matrix,
    c_0 I + c_1 A + c_2 A A, is one pass, `combined(a, a, a, (c_2, c_1, c_0))`; its
    weights, (3,), or (..., 3) for some of each matrix, may be traced.

    Which form runs is decided where the program is lowered: the kernels on TPUs, plain
    XLA products elsewhere, and everywhere for float64, float16 and complex numbers and
    for m below 256. On several devices they belong inside `shard_map`: a kernel is not
    cut by the compiler. They are not for differentiation.

    Args:
      compute_dtype: what operands are rounded to, in the kernel, where it costs no
        pass over memory; None: nothing. Static.
      dtype: of results; None: float32 or wider. Sums are in float32 or wider. Static.
      precision: of float32 products, one of `jax.lax.Precision`, where a call does not
        say it; None: HIGHEST. HIGH takes three products of 16-bit parts, DEFAULT one.
        Static.
      interpret: run the kernels as XLA operations, on any platform: for tests. Static.
    Returns: `Products`, whose members batch over axes in front.
    Raises: ValueError for another precision and, by its members, for shapes that do not
      belong together.
    Example:
      >>> gram, commuting, combined = pallas_products()
      >>> a = gram(jnp.asarray([[3.0, 0.0], [0.0, 1.0]]))
      >>> combined(a, a, a, (2.0, 1.0, 0.5)).tolist()
      [[171.5, 0.0], [0.0, 3.5]]

    Source: ours; one triangle as in BLAS's syrk.
    """
    usual = _precision(precision)

    def product(
        x: jax.Array,
        y: jax.Array,
        plus: jax.Array | None = None,
        weights: ArrayLike | None = None,
        precision: lax.PrecisionLike = None,
    ) -> jax.Array:
        chosen = usual if precision is None else _precision(precision)
        pair = (x,) if y is x else (x, y)  # the same array is fetched once
        arrays = pair if plus is None else (*pair, plus)
        compute = wider(x.dtype, y.dtype) if compute_dtype is None else compute_dtype
        compute = jnp.dtype(compute)
        out = work_dtype(wider(x.dtype, y.dtype)) if dtype is None else jnp.dtype(dtype)
        w = None if weights is None else jnp.asarray(weights)
        lead = _lead(arrays, w)

        def plain(pair: Any, plus: Any, w: Any) -> jax.Array:
            total = jnp.matmul(
                pair[0].astype(compute),
                jnp.conj(pair[-1]).mT.astype(compute),
                precision=chosen,
                preferred_element_type=work_dtype(compute),
            )
            total = jnp.broadcast_to(total, (*lead, *total.shape[-2:]))
            return _plus(total, plus, w).astype(out)

        known = all(
            d in (jnp.float32, jnp.bfloat16)
            for d in (*(a.dtype for a in arrays), compute, out)
        )
        if x.shape[-2] < LEAST or 0 in (*lead, *x.shape) or not known:
            return plain(pair, plus, w)
        widest = wider(wider(x.dtype, y.dtype), compute)
        kernel = _kernel(
            blocks(x.shape[-2], x.shape[-1], widest),
            lead,
            compute_dtype=compute,
            precision=chosen,
            dtype=out,
            interpret=interpret,
        )
        if interpret:
            return kernel(pair, plus, w)
        return lax.platform_dependent(pair, plus, w, tpu=kernel, default=plain)

    return Products(
        gram=lambda x, precision=None: product(x, x, precision=precision),
        commuting=lambda a, b, precision=None: product(a, b, precision=precision),
        combined=product,
    )


def _precision(precision: Any) -> lax.Precision:
    """The precision as one of three."""
    try:
        return lax.Precision(lax.Precision.HIGHEST if precision is None else precision)
    except (ValueError, TypeError) as error:
        raise ValueError(
            message(
                "pallas_products",
                f"precision={precision!r} is not one that the kernels have",
                "HIGHEST, HIGH or DEFAULT of jax.lax.Precision, or None",
                "Pass precision=jax.lax.Precision.HIGHEST",
            )
        ) from error


def _lead(arrays: tuple[jax.Array, ...], w: jax.Array | None) -> tuple[int, ...]:
    """The axes in front of all of these, or an error that names the odd one."""
    x, *others = arrays
    m = x.shape[-2]
    shapes = [x.shape, *(a.shape for a in others)]
    square = all(shape[-2:] == (m, m) for shape in shapes)
    if others and not square:
        raise ValueError(
            message(
                "pallas_products",
                f"matrices of shapes {shapes} do not commute",
                "symmetric matrices of one size",
                "Pass polynomials of one matrix",
            )
        )
    if w is not None and w.shape[-1:] != (3,):
        raise ValueError(
            message(
                "pallas_products",
                f"weights of shape {w.shape} are not three",
                "those of a b, of the matrix that is added, and of I",
                "Pass for example (1.0, 0.0, 0.0)",
            )
        )
    more = () if w is None else w.shape[:-1]
    return jnp.broadcast_shapes(more, *(shape[:-2] for shape in shapes))


def _plus(total: jax.Array, plus: Any, w: Any) -> jax.Array:
    """The rest of a stage, for the form in XLA."""
    if w is None:
        return total
    w = jnp.broadcast_to(w.astype(total.dtype), (*total.shape[:-2], 3))
    w = w[..., None, None, :]
    total = w[..., 0] * total
    if plus is not None:
        plus = jnp.broadcast_to(plus, total.shape).astype(total.dtype)
        total = total + w[..., 1] * plus
    eye = jnp.eye(total.shape[-1], dtype=total.dtype)
    return total + w[..., 2] * jnp.broadcast_to(eye, total.shape)


def _kernel(cut: Blocks, lead: tuple[int, ...], **how: Any) -> Callable[..., jax.Array]:
    """The kernel for matrices that are filled up with zeros, and their axes one."""
    batch = math.prod(lead)

    def fill(z: jax.Array, *sides: int) -> jax.Array:
        z = jnp.broadcast_to(z, (*lead, *z.shape[-2:]))
        z = z.reshape(batch, *z.shape[-2:])
        more = [(0, side - n) for side, n in zip(sides, z.shape[1:], strict=True)]
        return jnp.pad(z, [(0, 0), *more]) if any(map(any, more)) else z

    def kernel(pair: Any, plus: Any, w: Any) -> jax.Array:
        from orthoptax.matrix.pallas.kernels import symmetric  # Pallas loads here

        m = pair[0].shape[-2]
        w = jnp.asarray((1.0, 0.0, 0.0)) if w is None else w
        if w.ndim > 1:
            w = jnp.broadcast_to(w, (*lead, 3))
        result = symmetric(
            [fill(z, cut.rows, cut.depth) for z in pair],
            None if plus is None else fill(plus, cut.rows, cut.rows),
            w.astype(jnp.float32).reshape(-1, 1, 3),
            cut=cut,
            **how,
        )
        return result[:, :m, :m].reshape(*lead, m, m)

    return kernel
