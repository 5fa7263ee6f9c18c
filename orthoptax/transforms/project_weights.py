# SPDX-License-Identifier: Apache-2.0
"""Steps whose arrival is a projected weight: the last link of a chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthoptax import _check
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import Projection, matrix_link, step_link
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.matrix.projections import sphere
from orthoptax.matrix.running import norm


class ProjectWeightsState(NamedTuple):
    """norm: {matrix: (..., 1, 1)}, of the weights at the first step; 0 before it."""

    norm: Any


@step_link
@matrix_link
def project_weights(
    projection: Projection | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces a step by the one that ends where a projection puts the weights.

    Stands behind the learning rate, in an `on_matrices` of its own, and ends the chain:
    what comes after it leaves the set again.

        U' <- P(W + U) - W            so that     W + U' = P(W + U)

    Args:
      projection: see `orthoptax.matrix`: `sphere()`, `stiefel()`, `spectral_cap()`,
        `radial_brake()`; None: `sphere()`, which keeps the norm the weights began with.
        Static.
    State:
      norm: one number a matrix, its Frobenius norm at the first step; float32 or wider.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them; needs `params`. In 16 bits the weights are on the set
      up to their own rounding.
    Raises: TypeError if `projection` is not a function; ValueError for a leaf with
      fewer than two axes, or if `params` is missing.
    Example:
      >>> import jax.numpy as jnp
      >>> tx, w = project_weights(), {"w": jnp.asarray([[3.0, 0.0]])}
      >>> u, _ = tx.update({"w": jnp.asarray([[-3.0, 1.0]])}, tx.init(w), w)
      >>> (w["w"] + u["w"]).tolist()
      [[0.0, 3.0]]

    Source: Emerging-Optimizers@fd77292, muon_hyperball.py, spel.py; ours as a link.
    """
    projection = sphere() if projection is None else projection
    _check.is_callable(
        "project_weights", "projection", projection, "orthoptax.matrix.sphere()"
    )

    def init(params: optax.Params) -> ProjectWeightsState:
        for name, leaf in named_leaves(params).items():
            _check.is_matrix("project_weights", name, leaf.shape)
        # Zeros, until the first step: weights may be loaded after this.
        zeros = lambda p: jnp.zeros_like(_size(p))
        return ProjectWeightsState(jax.tree.map(zeros, params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ProjectWeightsState]:
        del extra
        _check.has_params("project_weights", params)
        began = lambda w, start: jnp.where(
            start == 0, _size(w).astype(start.dtype), start
        )
        first = jax.tree.map(began, params, state.norm)

        def leaf(name: str, u: jax.Array, w: jax.Array, start: jax.Array) -> jax.Array:
            _check.is_matrix("project_weights", name, u.shape)
            work = work_dtype(wider(u.dtype, w.dtype))
            old = w.astype(work)
            new = projection(old + u.astype(work), old, start)
            return (new - old).astype(u.dtype)

        results = map_named(leaf, updates, params, first)
        return results, ProjectWeightsState(first)

    return optax.GradientTransformationExtraArgs(init, update)


def _size(w: jax.Array) -> jax.Array:
    """The Frobenius norm of each matrix, (..., 1, 1), float32 or wider."""
    return norm(w.astype(work_dtype(w.dtype)))
