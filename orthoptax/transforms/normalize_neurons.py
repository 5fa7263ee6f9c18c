# SPDX-License-Identifier: Apache-2.0
"""Every row over the running root-mean-square of its entries."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax._check import in_range, is_callable, is_matrix
from orthoptax._dtypes import wider, work_dtype
from orthoptax._types import matrix_link
from orthoptax.layout.names import map_named
from orthoptax.matrix.running import divide, norm
from orthoptax.transforms.second_moment import moving_square

Axis = Callable[[int, int], int]
"""axis(rows, cols): the axis to average over, -1 (one number a row) or -2."""


class NormalizeNeuronsState(NamedTuple):
    """second_moment: for each matrix (..., rows, 1), or (..., 1, cols) by `axis`."""

    second_moment: optax.Updates


@matrix_link
def normalize_neurons(
    b2: ArrayLike = 0.95,
    *,
    eps: ArrayLike = 0.0,
    floor: ArrayLike = 0.0,
    axis: Axis | None = None,
    nu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides each row by the running root-mean-square of its entries.

    Rows are output neurons: those that keep getting large updates are slowed down.

        V_i  <- b2 V_i + (1 - b2) mean_j U_ij^2            V_i = 0 at first
        U_ij <- U_ij / (sqrt(max(V_i, floor)) + eps)

    V is not bias-corrected: the correction is one factor of the whole matrix, which
    `keep_norm` and `rms_align` remove.

    Args:
      b2: weight of the past, in [0, 1). Traceable.
      eps: added to the root, for parity with an author's code. Traceable.
      floor: least V, likewise. Traceable.
      axis: maps (rows, cols) to the axis averaged over; None: always -1, the inputs.
        `lambda rows, cols: -1 if rows >= cols else -2`: the shorter one. Static.
      nu_dtype: dtype of V; None: the leaf's. Static.
    State:
      second_moment: V, one number a row: (..., rows, 1).
    Returns: a `GradientTransformationExtraArgs` for trees of (..., rows, cols) leaves,
      as `on_matrices` makes them. A row that was always zero stays zero.
    Raises: ValueError for a number out of range, or a leaf with fewer than two axes;
      TypeError if `axis` is not a function.
    Example:
      >>> tx, w = normalize_neurons(0.75), {"w": jnp.asarray([[4.0, -4.0], [0.0, 0.0]])}
      >>> tx.update(w, tx.init(w))[0]["w"].round(3).tolist()
      [[2.0, -2.0], [0.0, 0.0]]

    Source: Li et al., NorMuon, arXiv:2510.05491; code zichongli5/NorMuon@d45c9a4 (eps
      1e-10), microsoft/dion@0a059a4 (eps 1e-8), KellerJordan/modded-nanogpt@f411b3d
      (floor 1e-10, the shorter axis), Emerging-Optimizers@fd77292 (floor 1e-8, same).
    """
    in_range("normalize_neurons", "b2", b2, 0, 1)
    in_range("normalize_neurons", "eps", eps)
    in_range("normalize_neurons", "floor", floor)
    axis = (lambda rows, cols: -1) if axis is None else axis
    is_callable("normalize_neurons", "axis", axis, "lambda rows, cols: -1")

    def init(params: optax.Params) -> NormalizeNeuronsState:
        def leaf(name: str, p: jax.Array) -> jax.Array:
            is_matrix("normalize_neurons", name, p.shape)
            shape = list(p.shape)
            shape[axis(*p.shape[-2:])] = 1
            return jnp.zeros(shape, nu_dtype or jnp.finfo(p.dtype).dtype)

        return NormalizeNeuronsState(map_named(leaf, params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, NormalizeNeuronsState]:
        del params, extra

        def leaf(name: str, u: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            is_matrix("normalize_neurons", name, u.shape)
            work = work_dtype(wider(u.dtype, v.dtype))
            along = axis(*u.shape[-2:])
            rms = norm(u.astype(work), along) / math.sqrt(max(1, u.shape[along]))
            root, new = moving_square(v, rms, b2)
            extra, least = (jnp.asarray(x).astype(rms.dtype) for x in (eps, floor))
            divisor = (jnp.maximum(root, jnp.sqrt(least)) + extra).astype(work)
            return divide(u.astype(work), divisor).astype(u.dtype), new

        pairs = map_named(leaf, updates, state.second_moment)
        pick = lambda i: jax.tree.map(lambda _, pair: pair[i], updates, pairs)
        return pick(0), NormalizeNeuronsState(pick(1))

    return optax.GradientTransformationExtraArgs(init, update)
