# SPDX-License-Identifier: Apache-2.0
"""Inner products over the long axis: here, or summed over a mesh axis.

The only door through which a matrix kernel may reach another device. A kernel touches
the long axis of its argument through these three members and otherwise multiplies from
the short side, so the same kernel runs on a matrix whose columns are cut over a mesh.
"""

import dataclasses
from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import lax

from orthoptax._dtypes import work_dtype


@dataclasses.dataclass(frozen=True)
class Inner:
    """Products and sums over the last axis, and over its shards if it has any.

    Args:
      axis_name: the mesh axis (or tuple of axes) that cuts the last axis inside a
        `shard_map` or `pmap`; None if the whole axis is here. Static.
    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.asarray([[3.0, 4.0]])
      >>> float(local.product(x, x)[0, 0]), float(local.largest(x)[0, 0])
      (25.0, 4.0)
    """

    axis_name: Hashable | None = None

    def product(
        self,
        x: jax.Array,
        y: jax.Array,
        *,
        precision: lax.PrecisionLike = lax.Precision.HIGHEST,
    ) -> jax.Array:
        """x y^H: (..., m, n), (..., k, n) to (..., m, k); 16-bit sums in float32."""
        accumulator = work_dtype(x.dtype)
        gram = jnp.matmul(
            x,
            jnp.conj(y).mT,
            precision=precision,
            preferred_element_type=accumulator,
        )
        return gram if self.axis_name is None else lax.psum(gram, self.axis_name)

    def squares(self, x: jax.Array) -> jax.Array:
        """Sum of |x|^2 over the matrix: (..., m, n) to (..., 1, 1), real."""
        total = jnp.sum(jnp.square(jnp.abs(x)), axis=(-2, -1), keepdims=True)
        return total if self.axis_name is None else lax.psum(total, self.axis_name)

    def largest(self, x: jax.Array) -> jax.Array:
        """Largest |x| of the matrix: (..., m, n) to (..., 1, 1), real."""
        top = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0)
        return top if self.axis_name is None else lax.pmax(top, self.axis_name)


local = Inner()
