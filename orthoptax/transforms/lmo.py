# SPDX-License-Identifier: Apache-2.0
"""Steps of a norm ball: linear minimization oracles on matrices, and on the rest."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_callable, is_matrix
from orthoptax._dtypes import times, work_dtype
from orthoptax._types import Ball, Scale, matrix_link
from orthoptax.layout.names import named_leaves
from orthoptax.layout.stacks import map_stacks
from orthoptax.matrix.balls import spectral_ball
from orthoptax.matrix.inner import local
from orthoptax.matrix.norms import frobenius


@matrix_link
def lmo(
    norm: Ball | None = None, *, radius: ArrayLike = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Replaces every matrix by the point of a norm ball that agrees with it most.

    Moving against it is the best step of that length for the linear model of the loss.
    Other norms for other leaves: one `on_matrices(lmo(...), layout=...)` for each.

        U <- radius argmax <U, D>  over  |D| <= 1

    With decay, the iterates stay in a ball, if they start there. Two forms of one path:
    `lmo(norm, radius=r)` before `decoupled(1.0)` at rate lr, and `lmo(norm)` before
    `decoupled(1 / r)` at rate lr r, both the Frank-Wolfe step in the ball of radius r.

        W <- (1 - lr) W - lr r D                          |W| <= r

    Args:
      norm: a `Ball` of `orthoptax.matrix`, such as `sign_ball()`; None:
        `spectral_ball()`. Static.
      radius: length of the result in that norm, not negative. What depends on the shape
        is said by a `scale_by_shape` after it. Traceable.
    State: none.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. Zero slices go to zero.
    Raises: TypeError if `norm` is not a function; ValueError for a radius out of range,
      or a leaf with fewer than two axes.
    Example:
      >>> from orthoptax.matrix import sign_ball
      >>> tx = lmo(sign_ball(), radius=0.5)
      >>> u, _ = tx.update({"w": jnp.asarray([[-3.0, 0.0, 2.0]])}, tx.init({}))
      >>> u["w"].tolist()
      [[-0.5, 0.0, 0.5]]

    Source: Kovalev, arXiv:2503.12645; Pethick et al., Scion, arXiv:2502.07529.
    """
    norm = spectral_ball() if norm is None else norm
    is_callable("lmo", "norm", norm, "orthoptax.matrix.spectral_ball()")
    in_range("lmo", "radius", radius)

    def check(tree: Any) -> None:
        for name, leaf in named_leaves(tree).items():
            is_matrix("lmo", name, leaf.shape)

    def init(params: optax.Params) -> optax.EmptyState:
        check(params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        check(updates)
        directions = map_stacks(norm, updates)
        return jax.tree.map(lambda d: times(d, radius), directions), state

    return optax.GradientTransformationExtraArgs(init, update)


def sign_or_rms(
    radius: ArrayLike = 1.0, *, scale: Scale | None = None
) -> optax.GradientTransformationExtraArgs:
    """Scion's step for leaves that are no matrices: gains, biases, embeddings, heads.

        U <- radius U / rms(U)         a vector or scalar: entries of root-mean-square 1
        U <- radius sign(U)            a leaf of two axes or more

    Args:
      radius: root-mean-square or size of the entries, not negative. Traceable.
      scale: what divides a vector, seen as a matrix of one row, by its norm; None:
        `frobenius()`. Static.
    State: none.
    Returns: a `GradientTransformationExtraArgs`, in parameter coordinates. Zero leaves
      go to zero.
    Raises: TypeError if `scale` is not a function; ValueError for a radius below 0.
    Example:
      >>> tx, g = sign_or_rms(), {"bias": jnp.asarray([7.0, -1.0])}
      >>> [round(float(x), 3) for x in tx.update(g, tx.init(g))[0]["bias"]]
      [1.4, -0.2]

    Deviations: the authors' sign is divided by the number of inputs, which a leaf that
      is no matrix does not show; divide `radius` by the model's width.
    Source: Pethick et al., Scion, arXiv:2502.07529; code LIONS-EPFL/scion@f58a393,
      scion.py (Sign, BiasRMS).
    """
    in_range("sign_or_rms", "radius", radius)
    scale = frobenius() if scale is None else scale
    is_callable("sign_or_rms", "scale", scale, "orthoptax.matrix.frobenius()")

    def leaf(u: jax.Array) -> jax.Array:
        if u.ndim > 1:
            return times(jnp.sign(u), radius)
        row = u.astype(work_dtype(u.dtype)).reshape(1, -1)
        unit = math.sqrt(row.size) * scale(row, local).x
        return times(unit.reshape(u.shape), radius).astype(u.dtype)

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        return jax.tree.map(leaf, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
