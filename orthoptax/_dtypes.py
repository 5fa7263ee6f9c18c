# SPDX-License-Identifier: Apache-2.0
"""Which dtype work is done in, and zeros; nothing reads a process-wide setting."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import core
from jax.typing import ArrayLike, DTypeLike


def wider(a: DTypeLike, b: DTypeLike) -> Any:
    """The narrowest dtype that holds both, also where promotion is strict."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


def work_dtype(dtype: DTypeLike, compute_dtype: DTypeLike | None = None) -> Any:
    """The dtype to compute in: as asked, else float32 for 16-bit, else unchanged.

    Complex numbers stay complex, of the real dtype asked for or of float32.
    """
    if compute_dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
        return wider(compute_dtype, jnp.complex64)
    if compute_dtype is not None:
        return jnp.dtype(compute_dtype)
    return wider(dtype, jnp.float32)


def times(x: jax.Array, factor: ArrayLike) -> jax.Array:
    """x * factor, computed no narrower than float32 and returned in x's dtype."""
    work = work_dtype(x.dtype)
    return (x.astype(work) * jnp.asarray(factor).astype(work)).astype(x.dtype)


def zeros_beside(p: jax.Array, dtype: DTypeLike | None = None) -> jax.Array:
    """Zeros of a parameter's shape that lie where it lies, under jit too.

    There `zeros_like` alone is a constant, which every device of a mesh gets whole. So
    it is asked which entries are finite and not a number: none, but of each entry.
    """
    if not isinstance(p, core.Tracer):
        return jnp.zeros_like(p, dtype=dtype)
    return (jnp.isfinite(p) & jnp.isnan(p)).astype(dtype or p.dtype)
