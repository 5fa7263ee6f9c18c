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
from orthoptax._types import Products


@dataclasses.dataclass(frozen=True)
class Inner:
    """Products and sums over the last axis, and over its shards if it has any.

    Args:
      axis_name: the mesh axis (or tuple of axes) that cuts the last axis inside a
        `shard_map` or `pmap`; None if the whole axis is here. Static.
      precision: of every product. Static.
      compute_dtype: what the operands of a product are rounded to; None: nothing. Sums
        are in float32 or wider. Static.
      groups: sets of devices, by their numbers along `axis_name`, all of one size,
        each with a matrix of its own; None: all devices have one. Static.
      products: who multiplies where the result is Hermitian; None: `matmul`, which
        computes both triangles. Static.
    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.asarray([[3.0, 4.0]])
      >>> float(local.product(x, x)[0, 0]), float(local.largest(x)[0, 0])
      (25.0, 4.0)
    """

    axis_name: Hashable | None = None
    precision: lax.PrecisionLike = lax.Precision.HIGHEST
    compute_dtype: DTypeLike | None = None
    groups: tuple[tuple[int, ...], ...] | None = None
    products: Products | None = None

    def computing(
        self,
        compute_dtype: DTypeLike | None,
        precision: lax.PrecisionLike = None,
        products: Products | None = None,
    ) -> "Inner":
        """The same doors for products of this dtype and precision; None: HIGHEST."""
        precision = lax.Precision.HIGHEST if precision is None else precision
        return dataclasses.replace(
            self, compute_dtype=compute_dtype, precision=precision, products=products
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
        return self.summed(self.matmul(x, jnp.conj(y).mT))

    def gram(self, x: jax.Array) -> jax.Array:
        """x x^H over the long axis; of one that is cut, half of it is summed."""
        own = self.own_gram(x)
        if self.axis_name is None:
            return own
        return unfolded(self.summed(folded(own)), own.shape[-1])

    def own_gram(self, x: jax.Array) -> jax.Array:
        """x x^H of the columns that are here."""
        if self.products is None:
            return self.matmul(x, jnp.conj(x).mT)
        dtype = x.dtype if self.compute_dtype is None else self.compute_dtype
        return self.products.gram(x.astype(dtype), self.precision)

    def commuting(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """a b of Hermitian (..., m, m) matrices that commute."""
        if self.products is None:
            return self.matmul(a, b)
        dtype = a.dtype if self.compute_dtype is None else self.compute_dtype
        return self.products.commuting(a.astype(dtype), b.astype(dtype), self.precision)

    def combined(
        self, a: jax.Array, b: jax.Array, plus: jax.Array, weight: jax.Array
    ) -> jax.Array:
        """weight plus + a b, Hermitian (..., m, m) matrices all, a and b commuting."""
        if self.products is None or self.products.combined is None:
            return weight * plus + self.commuting(a, b)
        dtype = a.dtype if self.compute_dtype is None else self.compute_dtype
        one = jnp.ones_like(weight)
        weights = jnp.stack([one, weight, jnp.zeros_like(weight)])
        a, b = a.astype(dtype), b.astype(dtype)
        return self.products.combined(a, b, plus, weights, self.precision)

    def shared(self, fn: Callable[[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
        """fn(y y^H) for a function of (..., k, k) matrices, each matrix by itself.

        Where the long axis is cut and a stack has a matrix or more for every device,
        each device sums up and works on its share of the small matrices, and all are
        gathered; the sum alone would repeat fn on every device.
        """
        lead, k = y.shape[:-2], y.shape[-2]
        devices, count = self.devices(), math.prod(lead)
        if self.axis_name is None or self.groups or count < devices:
            return fn(self.gram(y))
        flat = y.reshape(-1, *y.shape[-2:])
        gram = self.own_gram(flat)
        gram = jnp.pad(gram, ((0, -count % devices), (0, 0), (0, 0)))
        own = fn(lax.psum_scatter(gram, self.axis_name, tiled=True))
        every = lax.all_gather(own, self.axis_name, tiled=True)
        return every[:count].reshape(*lead, k, k)

    def squares(self, x: jax.Array) -> jax.Array:
        """Sum of |x|^2 over the matrix: (..., m, n) to (..., 1, 1), real."""
        total = jnp.sum(jnp.square(jnp.abs(x)), axis=(-2, -1), keepdims=True)
        return self.summed(total)

    def columns(self, x: jax.Array) -> jax.Array:
        """Sum of |x|^2 down each column, the rows cut: (..., n, r) to (..., 1, r)."""
        total = jnp.sum(jnp.square(jnp.abs(x)), axis=-2, keepdims=True)
        return self.summed(total)

    def largest(self, x: jax.Array) -> jax.Array:
        """Largest |x| of the matrix: (..., m, n) to (..., 1, 1), real."""
        top = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0)
        if self.axis_name is None:
            return top
        return lax.pmax(top, self.axis_name, axis_index_groups=self.groups)

    def shape(self, x: jax.Array) -> tuple[int, int]:
        """Rows and columns of the whole matrix, all shards of its columns counted."""
        return x.shape[-2], x.shape[-1] * self.devices()

    def devices(self) -> int:
        """How many devices the long axis is cut over."""
        if self.groups is not None:
            return len(self.groups[0])
        return 1 if self.axis_name is None else int(lax.psum(1, self.axis_name))

    def summed(self, x: jax.Array) -> jax.Array:
        """The sum of what the devices have that the long axis is cut over."""
        if self.axis_name is None:
            return x
        return lax.psum(x, self.axis_name, axis_index_groups=self.groups)


def folded(gram: jax.Array) -> jax.Array:
    """A Hermitian (..., k, k) matrix in half its numbers, k (k + 1) / 2 of them.

    The square below its diagonal blocks, and under it the lower triangle of the first
    block beside the upper one of the second.
    """
    k = gram.shape[-1]
    half, even = (k + 1) // 2, 1 - k % 2
    keep = [(0, 0)] * (gram.ndim - 2)
    low = jnp.tril(gram[..., :half, :half])
    high = jnp.triu(gram[..., half:, half:])
    low = jnp.pad(low, [*keep, (even, 0), (0, 0)])
    high = jnp.pad(high, [*keep, (0, 1), (1 - even, 0)])
    return jnp.concatenate([gram[..., half:, :half], low + high], axis=-2)


def unfolded(x: jax.Array, k: int) -> jax.Array:
    """The inverse of `folded`, for a (..., k, k) matrix."""
    rest, even = k // 2, 1 - k % 2
    side, both = x[..., :rest, :], x[..., rest:, :]
    low = jnp.tril(both[..., even:, :])
    high = jnp.triu(both[..., :rest, 1 - even :])
    low = low + jnp.conj(jnp.tril(low, -1)).mT
    high = high + jnp.conj(jnp.triu(high, 1)).mT
    top = jnp.concatenate([low, jnp.conj(side).mT], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([side, high], axis=-1)], axis=-2)


local = Inner()
