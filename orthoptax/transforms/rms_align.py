# SPDX-License-Identifier: Apache-2.0
"""A fixed root-mean-square for every matrix."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_matrix
from orthoptax._dtypes import work_dtype
from orthoptax._types import OnParts, matrix_link
from orthoptax.layout.names import map_named, named_leaves
from orthoptax.matrix.part import Part, norms
from orthoptax.matrix.running import divide


@matrix_link
def rms_align(
    target: ArrayLike = 0.2, *, eps: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Scales each matrix to entries of one root-mean-square.

    At 0.2, about what Adam's updates have, AdamW's learning rate carries over.

        U <- U target sqrt(rows cols) / (||U||_F + eps)

    Args:
      target: root-mean-square of the result, not negative. Traceable.
      eps: added to the norm, for parity with an author's code. Traceable.
    State: none.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. Zero stays zero.
    Raises: ValueError for a number out of range, or a leaf with fewer than two axes.
    Example:
      >>> tx = rms_align(0.5)
      >>> tx.update({"w": jnp.full((2, 3), -7.0)}, tx.init({}))[0]["w"][0].tolist()
      [-0.5, -0.5, -0.5]

    Source: Liu et al., arXiv:2502.16982 (the 0.2); code Chongjie-Si/AdaMuon@369f0b3
      (eps 1e-8).
    """
    in_range("rms_align", "target", target)
    in_range("rms_align", "eps", eps)

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        parts: Mapping[str, Part] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        xs = {}
        for name, u in named_leaves(updates).items():
            is_matrix("rms_align", name, u.shape)
            xs[name] = u.astype(work_dtype(u.dtype))
        sizes = norms(xs, parts)

        def leaf(name: str, u: jax.Array) -> jax.Array:
            x, size = xs[name], sizes[name]
            size = size + jnp.asarray(eps).astype(size.dtype)
            shape = u.shape[-2:] if parts is None else parts[name].shape
            wanted = math.sqrt(math.prod(shape)) * jnp.asarray(target)
            unit = divide(x, size.astype(x.dtype))
            return (unit * wanted.astype(x.dtype)).astype(u.dtype)

        return map_named(leaf, updates), state

    return OnParts(init, update)
