# SPDX-License-Identifier: Apache-2.0
"""A factor read off each matrix's shape, and the published rules for it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax

from orthoptax._check import is_callable, is_matrix
from orthoptax._dtypes import times
from orthoptax._types import OnParts, ShapeRule, matrix_link
from orthoptax.layout.names import map_named
from orthoptax.matrix.part import Part


def match_rms(rows: int, cols: int, shape: tuple[int, ...]) -> float:
    """0.2 sqrt(max(rows, cols)): root-mean-square 0.2, so AdamW's rate carries over.

    An orthogonal matrix has entries of root-mean-square 1/sqrt(max(rows, cols)).
    Source: Liu et al., Muon is Scalable for LLM Training, arXiv:2502.16982; torch's
    `match_rms_adamw`, Emerging-Optimizers' `rms_norm`.
    """
    del shape
    return 0.2 * math.sqrt(max(rows, cols))


def original(rows: int, cols: int, shape: tuple[int, ...]) -> float:
    """sqrt(max(1, rows/cols)): Jordan's rule, for learning rates near 0.02.

    Source: KellerJordan/Muon@857d1ad; Emerging-Optimizers' `shape_scaling`.
    """
    del shape
    return math.sqrt(max(1.0, rows / cols))


def original_last_two(rows: int, cols: int, shape: tuple[int, ...]) -> float:
    """Jordan's rule on the last two axes of the leaf, as his code does.

    A convolution kernel stored (out, in, height, width) then has the factor
    sqrt(max(1, height/width)), usually 1. For parity with that code.
    Source: KellerJordan/Muon@857d1ad, muon.py.
    """
    del rows, cols
    return math.sqrt(max(1.0, shape[-2] / shape[-1]))


def spectral_norm(rows: int, cols: int, shape: tuple[int, ...]) -> float:
    """sqrt(rows/cols): unit operator norm between root-mean-square vector norms.

    Source: Bernstein and Newhouse, arXiv:2409.20325; microsoft/dion's `spectral_norm`,
    Emerging-Optimizers' `unit_rms_norm`.
    """
    del shape
    return math.sqrt(rows / cols)


def spectral(rows: int, cols: int, shape: tuple[int, ...]) -> float:
    """sqrt(max(rows, cols)): entries of root-mean-square 1.

    Source: Emerging-Optimizers@fd77292, `spectral`; times 0.2 it is `match_rms`.
    """
    del shape
    return math.sqrt(max(rows, cols))


def unscaled(rows: int, cols: int, shape: tuple[int, ...]) -> float:
    """1: the polar factor as it is."""
    del rows, cols, shape
    return 1.0


@matrix_link
def scale_by_shape(
    rule: ShapeRule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies each matrix by a factor that depends on its shape alone.

        U <- s(rows, cols) U

    Args:
      rule: maps (rows, cols, shape of the whole leaf) to a factor; of a fused leaf,
        rows are the block's own. None: `match_rms`. Static.
    State: none.
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves;
      reads the extra argument `leaf_shapes` that `on_matrices` passes, and without it
      takes a leaf's own shape.
    Raises: TypeError if `rule` is not a function; ValueError for a leaf with fewer than
      two axes.
    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_shape(original)
      >>> tx.update({"w": jnp.ones((4, 1))}, tx.init({}))[0]["w"][0].tolist()
      [2.0]

    Source: see the rules.
    """
    rule = match_rms if rule is None else rule
    is_callable("scale_by_shape", "rule", rule, "orthoptax.transforms.match_rms")

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        leaf_shapes: dict[str, tuple[int, ...]] | None = None,
        parts: Mapping[str, Part] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        whole = {} if leaf_shapes is None else leaf_shapes

        def leaf(name: str, u: jax.Array) -> jax.Array:
            is_matrix("scale_by_shape", name, u.shape)
            rows, cols = u.shape[-2:] if parts is None else parts[name].shape
            return times(u, rule(rows, cols, whole.get(name, u.shape)))

        return map_named(leaf, updates), state

    return OnParts(init, update)
