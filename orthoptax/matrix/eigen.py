# SPDX-License-Identifier: Apache-2.0
"""The polar factor by the eigenvalues of the Gram matrix: two long products."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from orthoptax._check import in_range, message
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Polar
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.norms import near_one
from orthoptax.matrix.orientation import flip
from orthoptax.matrix.qr import each

_FLOOR = 30.0  # roundings: in float32 a slope of 529, where `satisfies` asks for 522


def eigh(
    *,
    floor: float | None = None,
    compute_dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Polar:
    """Polar factor by eigendecomposition of the Gram matrix.

        A <- X X^H;   V diag(l) V^H <- A                  the short side
        l <- max(l, floor max(l));   O <- V diag(l^(-1/2)) V^H X

    Singular values from floor^(1/2) of the largest on go to 1; below, the response is
    linear, of slope floor^(-1/2): a Gram matrix has half the digits, where `svd` keeps
    directions down to rounding.

    Args:
      floor: least eigenvalue, of the largest; None: 30 eps of the dtype of the work,
        which satisfies the rule of `satisfies` against five classic stages. Where
        products are less exact than that dtype, pass 30 times their rounding or more.
        Static.
      compute_dtype: dtype of the work, of 32 bits or more; None: float32 for 16-bit
        input, else the input's. Static.
      precision: of every product; None means HIGHEST. Static.
    Returns: a `Polar` for any m and n; each matrix of a batch is its own. 0 goes to 0.
    Raises: ValueError for a `floor` that is not in [0, 1), or a `compute_dtype` of 16
      bits, whose rounding of V diag(l^(-1/2)) V^H would swamp the result.
    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.asarray([[3.0, 0.0, 0.0], [0.0, -2.0, 0.0]])
      >>> eigh()(x).round(3).tolist()
      [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]

    Source: ours; Higham, Functions of Matrices, ch. 8.
    """
    if floor is not None:
        in_range("eigh", "floor", floor, 0.0, 1.0)
    if compute_dtype is not None and jnp.finfo(compute_dtype).bits < 32:
        raise ValueError(
            message(
                "eigh",
                f"compute_dtype={jnp.dtype(compute_dtype).name} has 16 bits",
                "a dtype of 32 or more",
                "Leave it out, or use newton_schulz",
            )
        )

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        work = work_dtype(x.dtype, compute_dtype)
        inner = inner.computing(work, precision)
        y = near_one(x.astype(wider(x.dtype, work)), inner).astype(work)
        whole = inner.axis_name is None
        y = flip(y) if whole else y
        eps = float(jnp.finfo(work).eps)
        least = _FLOOR * eps if floor is None else floor
        root = functools.partial(_inverse_root, least=least, inner=inner)
        o = inner.matmul(inner.shared(root, y), y).astype(x.dtype)
        return o.mT if whole and x.shape[-2] > x.shape[-1] else o

    return polar


def _inverse_root(r: jax.Array, *, least: float, inner: _inner.Inner) -> jax.Array:
    """max(R, least |R|)^(-1/2) of Gram matrices; zero for zero, NaN for NaN."""
    # A sum over the long axis, so what is not finite in any part of X is in R. LAPACK
    # may never return from it.
    finite = jnp.all(jnp.isfinite(r), axis=(-2, -1), keepdims=True)
    r = jnp.where(finite, r, 0)
    v = each(_vectors, r)
    # Of V^H R V the diagonal: LAPACK's own values would be a second result of `each`.
    values, v = v[..., -1:, :].real, v[..., :-1, :]
    top = jnp.max(values, axis=-1, keepdims=True)
    kept = jnp.maximum(values, least * top)
    powers = jnp.where(top > 0, lax.rsqrt(jnp.where(top > 0, kept, 1)), 0)
    q = inner.matmul(v * powers.astype(v.dtype), jnp.conj(v).mT)
    return jnp.where(finite, q, jnp.nan)


def _vectors(r: jax.Array) -> jax.Array:
    """Eigenvectors as columns, and below them one row of eigenvalues."""
    values, v = jnp.linalg.eigh(r)
    return jnp.concatenate([v, values[..., None, :].astype(v.dtype)], axis=-2)
