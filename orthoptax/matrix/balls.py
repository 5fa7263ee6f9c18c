# SPDX-License-Identifier: Apache-2.0
"""Norm balls: of each matrix, the direction of a unit ball that agrees with it most.

Each constructor returns a `Ball`, a function of (..., rows, cols) arrays:

    D <- argmax <M, D>  over  |D| <= 1            the dual norm of M is then <M, D>

A slice that is zero (the matrix, a row, a column, an entry) has direction zero. Rows
are outputs and columns are inputs, so `row_ball` and `column_ball` differ.
"""

import jax
import jax.numpy as jnp

from orthoptax._check import is_callable
from orthoptax._dtypes import work_dtype
from orthoptax._types import Ball, Polar, Scale
from orthoptax.matrix.auto import auto
from orthoptax.matrix.inner import local
from orthoptax.matrix.norms import frobenius
from orthoptax.matrix.orientation import small_side_first


def spectral_ball(polar: Polar | None = None) -> Ball:
    """Largest singular value at most 1: the polar factor, Muon's direction.

        D <- U V^T     of M = U S V^T;   dual norm: the sum of the singular values

    Args:
      polar: see `orthoptax.matrix`; None: `auto()`. With an iteration the
        norm of D is 1 as nearly as the iteration brings singular values there. Static.
    Returns: a `Ball`.
    Raises: TypeError if `polar` is not a function.
    Example:
      >>> from orthoptax.matrix.exact import svd
      >>> spectral_ball(svd())(jnp.diag(jnp.asarray([3.0, -2.0]))).round(3).tolist()
      [[1.0, 0.0], [0.0, -1.0]]

    Source: Carlson et al., 2015; Jordan et al., Muon, 2024.
    """
    polar = auto() if polar is None else polar
    is_callable("spectral_ball", "polar", polar, "orthoptax.matrix.newton_schulz()")
    return small_side_first(polar)


def frobenius_ball(scale: Scale | None = None) -> Ball:
    """Root of the sum of squares at most 1: the matrix over its norm.

        D <- M / ||M||_F                               dual norm: ||M||_F

    Args:
      scale: what divides M; None: `frobenius()`. Static.
    Returns: a `Ball`.
    Raises: TypeError if `scale` is not a function.
    Example:
      >>> frobenius_ball()(jnp.asarray([[3.0, 4.0]])).round(3).tolist()
      [[0.6000000238418579, 0.800000011920929]]

    Source: normalized gradient descent; Nesterov, 1984.
    """
    return _divided("frobenius_ball", scale, lambda x: x, lambda d: d)


def sign_ball() -> Ball:
    """Largest entry at most 1: the sign of every entry, signSGD's direction.

        D <- sign(M)                                   dual norm: the sum of |entries|

    Returns: a `Ball`.
    Example:
      >>> sign_ball()(jnp.asarray([[-3.0, 0.0, 2.0]])).tolist()
      [[-1.0, 0.0, 1.0]]

    Source: Bernstein et al., signSGD, arXiv:1802.04434.
    """
    return jnp.sign


def row_ball(scale: Scale | None = None) -> Ball:
    """Longest row at most 1 (operator norm from 2 to max): each row over its length.

        D_i <- M_i / |M_i|                             dual norm: the sum of the lengths

    Args:
      scale: what divides each row, seen as a matrix of one row; None: `frobenius()`.
        Static.
    Returns: a `Ball`.
    Raises: TypeError if `scale` is not a function.
    Example:
      >>> row_ball()(jnp.asarray([[0.0, 2.0], [-5.0, 0.0], [0.0, 0.0]])).tolist()
      [[0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]

    Source: Pethick et al., Scion, arXiv:2502.07529, Table 2.
    """
    one_row_each = lambda x: x[..., None, :]
    return _divided("row_ball", scale, one_row_each, lambda d: d[..., 0, :])


def column_ball(scale: Scale | None = None) -> Ball:
    """Longest column at most 1 (operator norm from 1 to 2): each over its length.

        D_j <- M_j / |M_j|                             dual norm: the sum of the lengths

    Args:
      scale: what divides each column, seen as a matrix of one row; None:
        `frobenius()`. Static.
    Returns: a `Ball`.
    Raises: TypeError if `scale` is not a function.
    Example:
      >>> column_ball()(jnp.asarray([[0.0, 2.0, 0.0], [-5.0, 0.0, 0.0]])).tolist()
      [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]

    Source: Pethick et al., Scion, arXiv:2502.07529, Table 2.
    """
    one_row_each = lambda x: x.mT[..., None, :]
    return _divided("column_ball", scale, one_row_each, lambda d: d[..., 0, :].mT)


def _divided(where: str, scale: Scale | None, cut: Ball, join: Ball) -> Ball:
    """The ball of `scale` on what `cut` makes of a matrix, 16-bit ones in float32."""
    scale = frobenius() if scale is None else scale
    is_callable(where, "scale", scale, "orthoptax.matrix.frobenius()")

    def ball(x: jax.Array) -> jax.Array:
        slices = cut(x.astype(work_dtype(x.dtype)))
        return join(scale(slices, local).x).astype(x.dtype)

    return ball
