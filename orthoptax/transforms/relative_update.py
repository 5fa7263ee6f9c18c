# SPDX-License-Identifier: Apache-2.0
"""Steps measured in the size of the weights they are for."""

from typing import Any

import jax
import optax

from orthoptax import _check
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import matrix_link
from orthoptax.layout.names import map_named
from orthoptax.matrix.inner import local
from orthoptax.matrix.norms import frobenius
from orthoptax.matrix.running import norm


@matrix_link
def relative_update() -> optax.GradientTransformationExtraArgs:
    """Gives each direction the Frobenius norm of its weights.

    The learning rate is then the relative change of the weights in a step.

        U <- ||W||_F U / ||U||_F

    State: none.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them; needs `params`. Zero stays zero; zero weights get no
      update.
    Raises: ValueError for a leaf with fewer than two axes, or if `params` is missing.
    Example:
      >>> import jax.numpy as jnp
      >>> tx, w = relative_update(), {"w": jnp.asarray([[3.0, 4.0]])}
      >>> tx.update({"w": jnp.asarray([[0.0, 0.1]])}, tx.init(w), w)[0]["w"].tolist()
      [[0.0, 5.0]]

    Source: Emerging-Optimizers@fd77292 (relative update); You et al., LARS,
      arXiv:1708.03888.
    """

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del extra
        _check.has_params("relative_update", params)

        def leaf(name: str, u: jax.Array, w: jax.Array) -> jax.Array:
            _check.is_matrix("relative_update", name, u.shape)
            work = work_dtype(wider(u.dtype, w.dtype))
            size = norm(w.astype(work)).astype(work)
            return (size * frobenius()(u.astype(work), local).x).astype(u.dtype)

        return map_named(leaf, updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)
