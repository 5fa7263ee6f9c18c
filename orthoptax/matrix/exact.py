# SPDX-License-Identifier: Apache-2.0
"""The exact polar factor: the slow twin that the iterations are held against."""

import jax
import jax.numpy as jnp

from orthoptax._check import message
from orthoptax._dtypes import work_dtype
from orthoptax._types import Polar
from orthoptax.matrix import inner as _inner


def svd() -> Polar:
    """Polar factor U V^H by singular value decomposition.

        U, s, V^H <- svd(X);   O <- U diag(s > tol) V^H,   tol = max(m, n) eps s_1

    Directions below the rounding level of X map to 0, as in every polynomial method; the
    zero matrix maps to zero.

    Returns: a `Polar` for any m and n; 16-bit inputs compute in float32.
    Raises: ValueError if called with an `inner` that spans a mesh axis.
    Example:
      >>> import jax.numpy as jnp
      >>> svd()(jnp.diag(jnp.asarray([3.0, 0.0]))).tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    Deviations: Emerging-Optimizers@fd77292 (mop.py) keeps every direction; for input of
      full rank the results agree.
    Source: Autonne, 1902; Higham, Functions of Matrices, ch. 8.
    """

    def polar(x: jax.Array, *, inner: _inner.Inner = _inner.local) -> jax.Array:
        if inner.axis_name is not None:
            raise ValueError(
                message("svd", f"the long axis is cut over {inner.axis_name!r}",
                        "whole matrices", "Use newton_schulz, or place whole matrices")
            )
        y = x.astype(work_dtype(x.dtype))
        u, s, vh = jnp.linalg.svd(y, full_matrices=False)
        tol = max(x.shape[-2:]) * jnp.finfo(y.dtype).eps * s[..., :1]
        return ((u * (s > tol)[..., None, :]) @ vh).astype(x.dtype)

    return polar


