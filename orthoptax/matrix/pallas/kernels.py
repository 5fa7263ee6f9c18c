# SPDX-License-Identifier: Apache-2.0
"""Pallas kernels of symmetric products for TPUs; only blocks on and below the diagonal.

Importing this file loads Pallas, which takes a while: `products` does it when traced.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from orthoptax._axes import as_varying, varying
from orthoptax.matrix.pallas.blocks import Blocks

ROWS = (((1,), (1,)), ((), ()))
"""Dimension numbers of x y^T."""


def symmetric(
    pair: Sequence[jax.Array],
    plus: jax.Array | None,
    weights: jax.Array,
    *,
    cut: Blocks,
    compute_dtype: Any,
    precision: lax.Precision,
    dtype: Any,
    interpret: Any = False,
) -> jax.Array:
    """w_0 x y^T + w_1 plus + w_2 I, known to be symmetric, in one pass.

    Args:
      pair: x and y, each (batch, cut.rows, cut.depth), or x alone for both.
      plus: symmetric (batch, cut.rows, cut.rows), or None.
      weights: (batch, 1, 3) in float32, or (1, 1, 3) for all.
      cut: how the product is cut into blocks. Static.
      compute_dtype: what operands are rounded to. Static.
      precision: of float32 products. Static.
      dtype: of the result; it is summed in float32. Static.
      interpret: run as XLA operations, for tests. Static.
    Returns: (batch, cut.rows, cut.rows), equal to its transpose bit by bit.
    """
    operands = list(pair) if cut.whole else [pair[0], pair[-1]]
    third = [] if plus is None else [plus]
    arrays = [*operands, *third, weights]
    arrays = as_varying(arrays, frozenset().union(*map(varying, arrays)))
    batch, all_alike = len(pair[0]), len(weights) == 1
    body, grid, specs, square = (_whole if cut.whole else _tiled)(cut)
    scalars = pl.BlockSpec(
        (None, 1, 3),
        lambda b, *_: (0 if all_alike else b, 0, 0),
        memory_space=pltpu.SMEM,
    )
    result = _shaped_like(arrays[0], (batch, cut.rows, cut.rows), dtype)
    moved = cut.reads * sum(map(_bytes, operands)) + sum(map(_bytes, [*third, result]))
    dot = functools.partial(_dot, compute_dtype=compute_dtype, precision=precision)
    return pl.pallas_call(
        functools.partial(body, cut=cut, dot=dot, third=plus is not None),
        grid=(batch, *grid),
        in_specs=[*specs[: len(operands)], *[square.added] * len(third), scalars],
        out_specs=square.result,
        out_shape=result,
        scratch_shapes=[pltpu.VMEM(square.sum, jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",) * len(grid) + ("arbitrary",),
            vmem_limit_bytes=cut.vmem,
        ),
        cost_estimate=pl.CostEstimate(
            flops=batch * cut.flops, bytes_accessed=int(moved), transcendentals=0
        ),
        interpret=interpret,
        name="symmetric_product",
    )(*arrays)


class _Squares(NamedTuple):
    """Blocks of the matrix that is added, of the result, and the shape of the sum."""

    added: Any
    result: Any
    sum: tuple[int, int]


def _bytes(x: Any) -> int:
    return x.size * x.dtype.itemsize


def _shaped_like(x: jax.Array, shape: tuple[int, ...], dtype: Any) -> Any:
    """The type of a result that differs over the mesh axes that x differs over."""
    kind = jax.typeof(x)
    for name in ("manual_axis_type", "vma"):  # its name since jax 0.10; the older one
        if hasattr(kind, name):
            known: dict[str, Any] = {name: getattr(kind, name)}
            return jax.ShapeDtypeStruct(shape, dtype, **known)
    return jax.ShapeDtypeStruct(shape, dtype)


def _dot(
    x: jax.Array, y: jax.Array, *, compute_dtype: Any, precision: lax.Precision
) -> jax.Array:
    """x y^T summed in float32; HIGH is three products of 16-bit parts, as in XLA."""
    x, y = x.astype(compute_dtype), y.astype(compute_dtype)
    product = functools.partial(
        lax.dot_general, dimension_numbers=ROWS, preferred_element_type=jnp.float32
    )
    if x.dtype == jnp.bfloat16:
        return product(x, y, precision=lax.Precision.DEFAULT)
    if precision == lax.Precision.HIGHEST:
        return product(x, y, precision=precision)
    top, right = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    if precision == lax.Precision.DEFAULT:
        return product(top, right, precision=precision)
    low = (x - top.astype(x.dtype)).astype(jnp.bfloat16)
    far = (y - right.astype(y.dtype)).astype(jnp.bfloat16)
    product = functools.partial(product, precision=lax.Precision.DEFAULT)
    return product(low, right) + product(top, far) + product(top, right)


def _combined(total: jax.Array, w: Any, plus: Any, diagonal: bool | jax.Array) -> Any:
    """w_0 total + w_1 plus, and w_2 on the diagonal of a block that has it."""
    total = w[0, 0] * total
    if plus is not None:
        total = total + w[0, 1] * plus.astype(jnp.float32)
    row = lax.broadcasted_iota(jnp.int32, total.shape, 0)
    column = lax.broadcasted_iota(jnp.int32, total.shape, 1)
    return jnp.where((row == column) & diagonal, total + w[0, 2], total)


def _mirrored(block: jax.Array) -> jax.Array:
    """A square block with what is below its diagonal above it too."""
    row = lax.broadcasted_iota(jnp.int32, block.shape, 0)
    column = lax.broadcasted_iota(jnp.int32, block.shape, 1)
    return jnp.where(row >= column, block, block.T)


def _whole(cut: Blocks) -> tuple[Any, ...]:
    """Body, grid and blocks where the result stays in VMEM."""
    strip = pl.BlockSpec((None, cut.rows, cut.deep), lambda b, k: (b, 0, k))
    square = pl.BlockSpec((None, cut.rows, cut.rows), lambda b, k: (b, 0, 0))
    squares = _Squares(square, square, (cut.rows, cut.rows))
    return _whole_body, (cut.steps,), [strip, strip], squares


def _whole_body(*refs: Any, cut: Blocks, dot: Any, third: bool) -> None:
    """One step over the columns of the operands, strip by strip of the result."""
    *ins, w, out, total = refs
    plus = ins.pop() if third else None
    x, y = ins[0], ins[-1]
    k = pl.program_id(1)
    edges = range(0, cut.rows, cut.side)

    @pl.when(k == 0)
    def _clear() -> None:
        total[...] = jnp.zeros_like(total)

    for start in edges:  # below the diagonal, one strip of columns
        end = min(start + cut.side, cut.rows)
        total[start:, start:end] += dot(x[start:, :], y[start:end, :])

    @pl.when(k == cut.steps - 1)
    def _finish() -> None:
        for start in edges:
            end = min(start + cut.side, cut.rows)
            strip = slice(start, end)
            more = None if plus is None else plus[start:, strip]
            done = _combined(total[start:, strip], w, more, True)
            out[strip, strip] = _mirrored(done[: end - start]).astype(out.dtype)
            if end < cut.rows:
                tail = done[end - start :]
                out[end:, strip] = tail.astype(out.dtype)
                out[strip, end:] = tail.T.astype(out.dtype)


def rectangle(across: int) -> tuple[int, int]:
    """Sides of a rectangle with a cell for each block on and below the diagonal."""
    return across + 1 - across % 2, (across + 1) // 2


def pair_of(r: Any, c: Any, across: int) -> tuple[Any, Any]:
    """The block (i, j), i >= j, of a cell of that rectangle.

    With 2 h + 1 blocks across, columns 0 to h of the triangle stand in it as they are,
    with 2 h blocks columns 0 to h - 1 do, a row lower. The columns that are left fill,
    turned into rows, what these leave free above them.
    """
    half, even = across // 2, 1 - across % 2
    low = r >= c + even
    return jnp.where(low, r - even, half + c), jnp.where(low, c, half + r + 1 - even)


def _tiled(cut: Blocks) -> tuple[Any, ...]:
    """Body, grid and blocks where the result is made tile by tile.

    The last step of each tile multiplies nothing: it writes the tile's transpose.
    """
    side, deep, last = cut.side, cut.deep, cut.steps - 1
    grid = (*rectangle(cut.across), cut.steps + 1)

    def at(shape: tuple[int, int], choose: Any) -> Any:
        where = lambda b, r, c, k: (b, *choose(*pair_of(r, c, cut.across), k))
        return pl.BlockSpec((None, *shape), where)

    def turned(i: Any, j: Any, k: Any) -> tuple[Any, Any]:
        return jnp.where(k > last, j, i), jnp.where(k > last, i, j)

    left = at((side, deep), lambda i, j, k: (i, jnp.minimum(k, last)))
    right = at((side, deep), lambda i, j, k: (j, jnp.minimum(k, last)))
    added = at((side, side), lambda i, j, k: (i, j))
    squares = _Squares(added, at((side, side), turned), (side, side))
    return _tiled_body, grid, [left, right], squares


def _tiled_body(*refs: Any, cut: Blocks, dot: Any, third: bool) -> None:
    """One step over the columns of two strips of the operands, or the transpose."""
    x, y, *more, w, out, total = refs
    k, last = pl.program_id(3), cut.steps - 1
    i, j = pair_of(pl.program_id(1), pl.program_id(2), cut.across)

    @pl.when(k == 0)
    def _clear() -> None:
        total[...] = jnp.zeros_like(total)

    @pl.when(k <= last)
    def _multiply() -> None:
        total[...] += dot(x[...], y[...])

    @pl.when(k == last)
    def _finish() -> None:
        plus = more[0][...] if third else None
        total[...] = _combined(total[...], w, plus, i == j)

    @pl.when((k == last) & (i == j))
    def _mirror() -> None:
        total[...] = _mirrored(total[...])

    @pl.when(k == last)
    def _write() -> None:
        out[...] = total[...].astype(out.dtype)

    @pl.when(k > last)
    def _turn() -> None:
        out[...] = total[...].T.astype(out.dtype)
