# SPDX-License-Identifier: Apache-2.0
"""Inner products over the long axis: here, or summed over a mesh axis.

The only door through which a matrix kernel may reach another device. A kernel touches
the long axis of its argument through these members and otherwise multiplies from the
short side, so the same kernel runs on a matrix whose columns are cut over a mesh.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from orthoptax._dtypes import work_dtype


@dataclasses.dataclass(frozen=True)
class Inner:
    """Products and sums over the last axis, and over its shards if it has any.

    Args:
      axis_name: the mesh axis (or tuple of axes) that cuts the last axis inside a
        `shard_map` or `pmap`; None if the whole axis is here. Static.
      precision: of every product. Static.
      compute_dtype: what the operands of a product are rounded to; None: nothing. Sums
        are in float32 or wider. Static.
    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.asarray([[3.0, 4.0]])
      >>> float(local.product(x, x)[0, 0]), float(local.largest(x)[0, 0])
      (25.0, 4.0)
    """

    axis_name: Hashable | None = None
    precision: lax.PrecisionLike = lax.Precision.HIGHEST
    compute_dtype: DTypeLike | None = None

    def computing(
        self, compute_dtype: DTypeLike | None, precision: lax.PrecisionLike = None
    ) -> "Inner":
        """The same doors for products of this dtype and precision; None: HIGHEST."""
        precision = lax.Precision.HIGHEST if precision is None else precision
        return dataclasses.replace(
            self, compute_dtype=compute_dtype, precision=precision
        )

    def matmul(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """x y from the short side: (..., k, m), (..., m, n) to (..., k, n)."""
        dtype = x.dtype if self.compute_dtype is None else self.compute_dtype
        return jnp.matmul(
            x.astype(dtype),
            y.astype(dtype),
            precision=self.precision,
            preferred_element_type=work_dtype(dtype),
        )

    def product(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """x y^H over the long axis: (..., m, n), (..., k, n) to (..., m, k)."""
        gram = self.matmul(x, jnp.conj(y).mT)
        return gram if self.axis_name is None else lax.psum(gram, self.axis_name)

    def shared(self, fn: Callable[[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
        """fn(y y^H) for a function of (..., k, k) matrices, each matrix by itself.

        Where the long axis is cut and a stack has a matrix or more for every device,
        each device sums up and works on its share of the small matrices, and all are
        gathered; the sum alone would repeat fn on every device.
        """
        if self.axis_name is None:
            return fn(self.product(y, y))
        lead, k = y.shape[:-2], y.shape[-2]
        devices, count = int(lax.psum(1, self.axis_name)), math.prod(lead)
        if count < devices:
            return fn(self.product(y, y))
        flat = y.reshape(-1, *y.shape[-2:])
        gram = self.matmul(flat, jnp.conj(flat).mT)
        gram = jnp.pad(gram, ((0, -count % devices), (0, 0), (0, 0)))
        own = fn(lax.psum_scatter(gram, self.axis_name, tiled=True))
        every = lax.all_gather(own, self.axis_name, tiled=True)
        return every[:count].reshape(*lead, k, k)

    def squares(self, x: jax.Array) -> jax.Array:
        """Sum of |x|^2 over the matrix: (..., m, n) to (..., 1, 1), real."""
        total = jnp.sum(jnp.square(jnp.abs(x)), axis=(-2, -1), keepdims=True)
        return total if self.axis_name is None else lax.psum(total, self.axis_name)

    def columns(self, x: jax.Array) -> jax.Array:
        """Sum of |x|^2 down each column, the rows cut: (..., n, r) to (..., 1, r)."""
        total = jnp.sum(jnp.square(jnp.abs(x)), axis=-2, keepdims=True)
        return total if self.axis_name is None else lax.psum(total, self.axis_name)

    def largest(self, x: jax.Array) -> jax.Array:
        """Largest |x| of the matrix: (..., m, n) to (..., 1, 1), real."""
        top = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0)
        return top if self.axis_name is None else lax.pmax(top, self.axis_name)

    def shape(self, x: jax.Array) -> tuple[int, int]:
        """Rows and columns of the whole matrix, all shards of its columns counted."""
        cuts = 1 if self.axis_name is None else lax.psum(1, self.axis_name)
        return x.shape[-2], x.shape[-1] * int(cuts)


local = Inner()
