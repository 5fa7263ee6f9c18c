# SPDX-License-Identifier: Apache-2.0
"""Steps whose arrival is a projected weight: the last link of a chain."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from orthoptax import _check
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import OnParts, Projection, matrix_link, step_link
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.matrix.part import Part, norms
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
        *,
        parts: Mapping[str, Part] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ProjectWeightsState]:
        del extra
        _check.has_params("project_weights", params)
        steps, weights = named_leaves(updates), named_leaves(params)
        old, new = {}, {}
        for name, u in steps.items():
            _check.is_matrix("project_weights", name, u.shape)
            w = weights[name]
            old[name] = w.astype(work_dtype(wider(u.dtype, w.dtype)))
            new[name] = old[name] + u.astype(old[name].dtype)
        known: dict[Any, jax.Array] = {}
        if parts is not None:  # of cut matrices all norms at once
            work = lambda x: x.astype(work_dtype(x.dtype))
            trees = {"new": new, "step": steps, "old": weights}
            asked = {(k, n): work(x) for k, t in trees.items() for n, x in t.items()}
            known = norms(asked, {key: parts[key[1]] for key in asked})

        def began(name: str, w: jax.Array, start: jax.Array) -> jax.Array:
            size = known["old", name] if known else _size(w)
            return jnp.where(start == 0, size.astype(start.dtype), start)

        first = map_named(began, params, state.norm)
        starts = named_leaves(first)

        def leaf(name: str, u: jax.Array) -> jax.Array:
            given = new[name], old[name], starts[name]
            if known:
                sizes = known["new", name], known["step", name]
                end = by_norm(*given, *sizes)
            else:
                end = projection(*given)
            return (end - old[name]).astype(u.dtype)

        return map_named(leaf, updates), ProjectWeightsState(first)

    by_norm: Any = getattr(projection, "by_norm", None)
    kind = optax.GradientTransformationExtraArgs if by_norm is None else OnParts
    return kind(init, update)


def _size(w: jax.Array) -> jax.Array:
    """The Frobenius norm of each matrix, (..., 1, 1), float32 or wider."""
    return norm(w.astype(work_dtype(w.dtype)))
