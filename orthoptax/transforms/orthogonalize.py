# SPDX-License-Identifier: Apache-2.0
"""A polar function applied to every matrix."""

from typing import Any

import jax
import optax

from orthoptax._check import is_callable, is_matrix
from orthoptax._types import Polar, matrix_link
from orthoptax.layout.names import named_leaves
from orthoptax.layout.stacks import MAX_BYTES, MAX_LEAVES, map_stacks
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.orientation import flip


@matrix_link
def orthogonalize(
    polar: Polar | None = None,
    *,
    max_leaves: int = MAX_LEAVES,
    max_bytes: int = MAX_BYTES,
) -> optax.GradientTransformationExtraArgs:
    """Replaces every matrix by its nearest semi-orthogonal matrix.

    The direction of steepest descent in the spectral norm: all singular values become 1
    (as near as `polar` brings them), the singular vectors stay.

        O <- polar(M)

    Args:
      polar: maps (..., m, n) with m <= n to the same shape and dtype; taller matrices
        are transposed around it. None: `newton_schulz()`. Static.
      max_leaves: most leaves that share a program; see `map_stacks`. Static.
      max_bytes: most bytes of a stack; see `map_stacks`. Static.
    State: none.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. Zero goes to zero; a NaN stays in its own matrix.
    Raises: TypeError if `polar` is not a function; ValueError for a leaf with fewer
      than two axes.
    Example:
      >>> import jax.numpy as jnp
      >>> tx = orthogonalize()
      >>> u, _ = tx.update({"w": 9 * jnp.eye(2, 3)}, tx.init({}))
      >>> bool(abs(u["w"][0, 0] - 1) < 0.35)
      True

    Source: Jordan et al., Muon, 2024; Carlson et al., 2015 (spectral descent).
    """
    polar = newton_schulz() if polar is None else polar
    is_callable("orthogonalize", "polar", polar, "orthoptax.matrix.newton_schulz()")

    def init(params: optax.Params) -> optax.EmptyState:
        for name, leaf in named_leaves(params).items():
            is_matrix("orthogonalize", name, leaf.shape)
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        for name, leaf in named_leaves(updates).items():
            is_matrix("orthogonalize", name, leaf.shape)
        oriented = map_stacks(
            polar,
            jax.tree.map(flip, updates),
            max_leaves=max_leaves,
            max_bytes=max_bytes,
        )
        back = lambda u, o: o.mT if u.shape != o.shape else o
        return jax.tree.map(back, updates, oriented), state

    return optax.GradientTransformationExtraArgs(init, update)
