# SPDX-License-Identifier: Apache-2.0
"""What links that measure a whole tree share: one number over all its leaves.

Inside `optax.partition`, `optax.masked` and `rest=` the tree is that of the group, and
so are its numbers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from orthoptax._check import message
from orthoptax._dtypes import wider, work_dtype
from orthoptax.curvature.objective import required
from orthoptax.matrix.running import power_of_two


def real_dtype(tree: Any) -> Any:
    """The real dtype that holds a number over all leaves: float32 or the widest."""
    dtypes = [jnp.finfo(work_dtype(x.dtype)).dtype for x in jax.tree.leaves(tree)]
    return functools.reduce(wider, dtypes, jnp.dtype(jnp.float32))


def dot(a: Any, b: Any, dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(d, s, t) with Re <a, b> = d s t over all leaves; s and t are powers of two.

    s and t are near the largest entries of a and b, so that d neither overflows nor
    vanishes where the product of the three does.
    """
    s, t = _largest(a, dtype), _largest(b, dtype)

    def leaf(x: jax.Array, y: jax.Array) -> jax.Array:
        work = wider(wider(x.dtype, y.dtype), dtype)
        x, y = x.astype(work) / s.astype(work), y.astype(work) / t.astype(work)
        return jnp.sum(jnp.real(jnp.conj(x) * y)).astype(dtype)

    return total(jax.tree.map(leaf, a, b), dtype), s, t


def norm(tree: Any, dtype: Any) -> jax.Array:
    """Euclidean norm of all leaves, of any scale."""
    d, s, _ = dot(tree, tree, dtype)
    return jnp.sqrt(d) * s


def total(tree: Any, dtype: Any) -> jax.Array:
    """The sum of a tree of scalars, 0 where there are none."""
    return functools.reduce(jnp.add, jax.tree.leaves(tree), jnp.zeros((), dtype))


def _largest(tree: Any, dtype: Any) -> jax.Array:
    """The power of two at or below the largest |entry|, 1 if all are zero."""
    tops = [jnp.max(jnp.abs(x), initial=0).astype(dtype) for x in jax.tree.leaves(tree)]
    return power_of_two(functools.reduce(jnp.maximum, tops, jnp.zeros((), dtype)))


def loss(where: str, extra: dict[str, Any], dtype: Any) -> jax.Array:
    """The extra argument `value`, a real scalar, in this dtype.

    Raises: ValueError if it is missing or no scalar.
    """
    value = jnp.asarray(required(f"{where}.update", "value", extra))
    if value.shape != () or jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise ValueError(
            message(
                f"{where}.update",
                f"value of shape {value.shape} and dtype {value.dtype} is no loss",
                "a real scalar",
                "Pass for example value=jnp.mean(losses)",
            )
        )
    return value.astype(dtype)
