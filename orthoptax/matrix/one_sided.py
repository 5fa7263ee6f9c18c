# SPDX-License-Identifier: Apache-2.0
"""The polar factor from the eigenvectors of one Gram matrix, times a nuclear norm."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from orthoptax._check import in_range, message
from orthoptax._dtypes import work_dtype
from orthoptax._types import Polar
from orthoptax.matrix import inner as _inner
from orthoptax.matrix.norms import near_one


def one_sided_polar(
    *,
    left: bool | None = None,
    alpha: ArrayLike = 0.0,
    center: bool = False,
    eps: ArrayLike | None = None,
) -> Polar:
    """Polar factor by an eigendecomposition, scaled by a power of the nuclear norm.

    With `alpha` = 1 this is the steepest descent direction of the spectral norm, whose
    length shrinks with the gradient, and not only its direction.

        K <- G G^T = V diag(w) V^T           G^T G on the right side
        h <- w^(-1/2) where w > cutoff, else 0
        O <- V diag(h) V^T G (sum_i sqrt(w_i))^alpha

    Directions whose w is at or below cutoff = dim(K) machine eps max(w) map to zero.

    Args:
      left: form K from the rows (m x m); False: from the columns (n x n). None: the
        smaller, which is the one of full rank. Static.
      alpha: exponent of the nuclear norm; 0: the polar factor itself. Traceable.
      center: subtract each column's mean over the rows, before and after. Static.
      eps: absolute floor of the eigenvalues, which then all count in the nuclear norm;
        for parity, it wipes out small gradients. None: no floor, and only directions
        that are kept count. Traceable.
    Returns: a `Polar` for any m and n; 16-bit inputs compute in float32. Zero maps to
      zero.
    Raises: ValueError if a Python number is negative; in a call with an `inner` that
      spans a mesh axis for the right side or a centred matrix.
    Example:
      >>> g = jnp.diag(jnp.asarray([3.0, -1.0]))
      >>> one_sided_polar(alpha=1.0)(g).round(4).tolist()
      [[4.0, 0.0], [0.0, -4.0]]

    Deviations: the authors' floor is 1e-15 and their default exponent 1.
    Source: Lau et al., PolarGrad, arXiv:2505.21799; Emerging-Optimizers@fd77292,
      polargrad.py.
    """
    in_range("one_sided_polar", "alpha", alpha)
    if eps is not None:
        in_range("one_sided_polar", "eps", eps)

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        rows, cols = inner.shape(x)
        side = rows <= cols if left is None else left
        if inner.axis_name is not None and (center or not side):
            raise ValueError(_cut(inner.axis_name))
        centered = (lambda y: y - jnp.mean(y, -2, keepdims=True)) if center else _same
        g = centered(x.astype(work_dtype(x.dtype)))
        g = g if side else jnp.conj(g).mT
        # Powers of two move no digit, and keep K in range where no floor is absolute.
        y = near_one(g, inner) if eps is None else g
        o, nuclear = _whiten(y, inner, eps)
        top = inner.largest(y)
        nuclear = nuclear * (inner.largest(g) / jnp.where(top == 0, 1, top))
        o = o * (nuclear ** jnp.asarray(alpha).astype(nuclear.dtype)).astype(o.dtype)
        return centered(o if side else jnp.conj(o).mT).astype(x.dtype)

    return polar


def _whiten(
    g: jax.Array, inner: _inner.Inner, eps: ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """(G G^H)^(-1/2) G and the nuclear norm of G, (..., 1, 1)."""
    w, v = jnp.linalg.eigh(inner.product(g, g))
    if eps is not None:
        w = jnp.maximum(w, jnp.asarray(eps).astype(w.dtype))
    top = jnp.max(w, axis=-1, keepdims=True, initial=0)
    kept = w > top * (w.shape[-1] * float(jnp.finfo(w.dtype).eps))
    h = jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, w, 1)), 0)
    counted = jnp.where(kept if eps is None else True, w, 0)
    nuclear = jnp.sum(jnp.sqrt(counted), axis=-1)[..., None, None]
    root = inner.matmul(v * h[..., None, :].astype(v.dtype), jnp.conj(v).mT)
    return inner.matmul(root, g), nuclear


def _same(x: jax.Array) -> jax.Array:
    """x."""
    return x


def _cut(axis: object) -> str:
    return message(
        "one_sided_polar",
        f"the long axis is cut over {axis!r}",
        "the left side, not centred",
        "Place whole matrices",
    )
