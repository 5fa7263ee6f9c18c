# SPDX-License-Identifier: Apache-2.0
"""Products with a Hermitian result: one triangle of blocks, and its mirror image."""

from typing import Any

import jax
import jax.numpy as jnp

from orthoptax._check import count
from orthoptax._dtypes import work_dtype
from orthoptax._types import Products


def block_products(levels: int = 2) -> Products:
    """Hermitian products by halves: the square below the diagonal, then each half.

        [A  .]      A, D by the same rule, `levels` deep;   C in one product
        [C  D]      the rest is C^H

    One level takes 3/4 of the multiplications of a plain product, two 5/8, three 9/16,
    in 3, 7 and 15 smaller products.

    Args:
      levels: how often a matrix is halved; an odd one into unequal halves. Static.
    Returns: `Products`, for the argument `products` of the iterations.
    Raises: ValueError if `levels` is below 1.
    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
      >>> block_products(1).gram(x, None).tolist()
      [[5.0, 11.0], [11.0, 25.0]]

    Source: ours; symmetric rank-k updates (BLAS syrk) by blocks.
    """
    count("block_products", "levels", levels)

    def gram(x: jax.Array, precision: Any) -> jax.Array:
        return _hermitian(x, jnp.conj(x).mT, precision, levels)

    def commuting(a: jax.Array, b: jax.Array, precision: Any) -> jax.Array:
        return _hermitian(a, b, precision, levels)

    return Products(gram, commuting)


def multiplications(rows: int, inner: int, levels: int = 0) -> int:
    """Of a Hermitian (rows, inner) (inner, rows) product, halved this often."""
    if not levels or rows < 2:
        return rows * rows * inner
    half = (rows + 1) // 2
    parts = (multiplications(k, inner, levels - 1) for k in (half, rows - half))
    return sum(parts) + half * (rows - half) * inner


def _hermitian(a: jax.Array, b: jax.Array, precision: Any, levels: int) -> jax.Array:
    """a b, of which is known that it is Hermitian."""
    rows = a.shape[-2]
    if not levels or rows < 2:
        own = _product(a, b, precision)
        return (own + jnp.conj(own).mT) / 2
    half = (rows + 1) // 2
    first = _hermitian(a[..., :half, :], b[..., :half], precision, levels - 1)
    last = _hermitian(a[..., half:, :], b[..., half:], precision, levels - 1)
    side = _product(a[..., half:, :], b[..., :half], precision)
    top = jnp.concatenate([first, jnp.conj(side).mT], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([side, last], axis=-1)], axis=-2)


def _product(a: jax.Array, b: jax.Array, precision: Any) -> jax.Array:
    return jnp.matmul(
        a, b, precision=precision, preferred_element_type=work_dtype(a.dtype)
    )
