# SPDX-License-Identifier: Apache-2.0
"""The inverse of an empirical Fisher matrix, never formed: M-FAC's fixed window.

    F = damping I + (1/m) sum_i g_i g_i^T                      m gradients of d entries

Products and the diagonal of F^-1 from m vectors, made once in O(d m^2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from orthoptax._check import in_range, message
from orthoptax._dtypes import wider, work_dtype

_HIGHEST = lax.Precision.HIGHEST


class InverseFisher(NamedTuple):
    """F^-1 = I/damping - sum_i w_i w_i^T / n_i.

    vectors: (..., m, d), the w_i. sizes: (..., m), the n_i. damping: a scalar.
    """

    vectors: jax.Array
    sizes: jax.Array
    damping: jax.Array


def inverse_fisher_of(gradients: jax.Array, damping: ArrayLike = 1e-5) -> InverseFisher:
    """The inverse of the empirical Fisher matrix of some gradients, as m vectors.

        w_i <- g_i/damping - sum_{j<i} w_j (w_j g_i)/n_j
        n_i <- m + g_i w_i

    Args:
      gradients: (..., m, d), one a row. A block of consecutive coordinates has a Fisher
        matrix of its own if its columns are handed over apart.
      damping: above 0. Traceable.
    Returns: an `InverseFisher` in float32 or wider. A row of zeros adds nothing.
    Raises: ValueError for fewer than two axes, or a damping out of range.
    Example:
      >>> f = inverse_fisher_of(jnp.asarray([[1.0, 0.0]]), 1.0)
      >>> inverse_fisher_product(f, jnp.asarray([1.0, 1.0])).tolist()
      [0.5, 1.0]

    Source: Frantar et al., M-FAC, arXiv:2107.03356, section 3.1; code
      IST-DASLab/M-FAC@8116367, prun.py.
    """
    in_range("inverse_fisher_of", "damping", damping)
    if gradients.ndim < 2:
        raise ValueError(
            message(
                "inverse_fisher_of",
                f"gradients of shape {gradients.shape} are one vector",
                "(..., m, d)",
                "Stack the gradients",
            )
        )
    g = gradients.astype(work_dtype(gradients.dtype))
    m = g.shape[-2]
    damp = jnp.asarray(damping).astype(g.dtype)

    def add(i: int | jax.Array, made: tuple[jax.Array, jax.Array]) -> tuple:
        w, n = made  # rows not made yet are zero, and their sizes m
        now = jnp.take(g, i, axis=-2)
        along = jnp.einsum("...jd,...d->...j", w, now, precision=_HIGHEST) / n
        new = now / damp - jnp.einsum("...jd,...j->...d", w, along, precision=_HIGHEST)
        size = m + jnp.sum(now * new, axis=-1)
        return w.at[..., i, :].set(new), n.at[..., i].set(size)

    start = (jnp.zeros_like(g), jnp.full(g.shape[:-1], m, g.dtype))
    vectors, sizes = lax.fori_loop(0, m, add, start)
    return InverseFisher(vectors, sizes, damp)


def inverse_fisher_product(fisher: InverseFisher, x: jax.Array) -> jax.Array:
    """F^-1 x in O(d m).

    Args:
      fisher: from `inverse_fisher_of`.
      x: (..., d).
    Returns: (..., d), in the dtype of the vectors.
    Example:
      >>> f = inverse_fisher_of(jnp.asarray([[3.0]]), 1.0)
      >>> inverse_fisher_product(f, jnp.asarray([5.0])).tolist()
      [0.5]

    Source: Frantar et al., M-FAC, arXiv:2107.03356.
    """
    w = fisher.vectors
    x = x.astype(wider(x.dtype, w.dtype))
    along = jnp.einsum("...id,...d->...i", w, x, precision=_HIGHEST) / fisher.sizes
    rest = jnp.einsum("...id,...i->...d", w, along, precision=_HIGHEST)
    return x / fisher.damping - rest


def inverse_fisher_diagonal(fisher: InverseFisher) -> jax.Array:
    """The diagonal of F^-1, which pruning weighs parameters by.

    Args:
      fisher: from `inverse_fisher_of`.
    Returns: (..., d).
    Example:
      >>> f = inverse_fisher_of(jnp.asarray([[1.0, 0.0]]), 1.0)
      >>> inverse_fisher_diagonal(f).tolist()
      [0.5, 1.0]

    Source: Frantar et al., M-FAC, arXiv:2107.03356.
    """
    w = fisher.vectors
    return 1 / fisher.damping - jnp.sum(w * w / fisher.sizes[..., None], axis=-2)
