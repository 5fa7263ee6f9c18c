# SPDX-License-Identifier: Apache-2.0
"""Wrapper: a link's output at the Frobenius norm of its input."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import count, in_range, is_matrix
from orthoptax._types import matrix_link
from orthoptax.layout.names import named_leaves
from orthoptax.matrix.running import divide, norm
from orthoptax.transforms.with_input import with_input


@matrix_link
def keep_norm(
    inner: optax.GradientTransformation | None = None,
    *,
    eps: ArrayLike = 0.0,
    floor: ArrayLike = 0.0,
    shards: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Rescales what a link makes of each matrix to the norm the matrix came with.

    The link then moves weight between the entries and leaves the length of the step to
    the links before it.

        W  <- inner(U)
        U' <- W ||U||_F / (max(||W||_F, floor) + eps)

    Args:
      inner: a link; None: the identity. Static.
      eps: added to the norm divided by, for parity with an author's code. Traceable.
      floor: least norm divided by, likewise. Traceable.
      shards: rows are cut into so many, ceil(rows / shards) each, and every shard keeps
        its own norm, as sharded code of the authors does. The result then depends on
        the number of devices they had; 1 is exact. Static.
    State: that of `inner`.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. A zero W stays zero.
    Raises: ValueError for a number out of range, or a leaf with fewer than two axes.
    Example:
      >>> tx = keep_norm(optax.scale_by_sign())
      >>> u, _ = tx.update({"w": jnp.asarray([[7.0, 0.0, 1.0]])}, tx.init({}))
      >>> u["w"].round(3).tolist()
      [[5.0, 0.0, 5.0]]

    Source: Li et al., NorMuon, arXiv:2510.05491; code zichongli5/NorMuon@d45c9a4
      (eps 1e-10), microsoft/dion@0a059a4 (floor 1e-8).
    """
    in_range("keep_norm", "eps", eps)
    in_range("keep_norm", "floor", floor)
    count("keep_norm", "shards", shards)

    def shard(before: jax.Array, after: jax.Array) -> jax.Array:
        size = norm(after)
        least, extra = (jnp.asarray(x).astype(size.dtype) for x in (floor, eps))
        divisor = (jnp.maximum(size, least) + extra).astype(after.dtype)
        return divide(after, divisor) * norm(before).astype(after.dtype)

    def rescale(before: jax.Array, after: jax.Array) -> jax.Array:
        if shards == 1:
            return shard(before, after)
        rows = before.shape[-2]
        length = math.ceil(rows / shards)
        cuts = [slice(i, i + length) for i in range(0, rows, length)]
        parts = [shard(before[..., c, :], after[..., c, :]) for c in cuts]
        return jnp.concatenate(parts, axis=-2)

    link = with_input(inner, rescale)

    def checked(tree: Any) -> Any:
        for name, leaf in named_leaves(tree).items():
            is_matrix("keep_norm", name, leaf.shape)
        return tree

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        return link.update(checked(updates), state, params, **extra)

    return optax.GradientTransformationExtraArgs(
        lambda params: link.init(checked(params)), update
    )
