# SPDX-License-Identifier: Apache-2.0
"""DASGO: ASGO with a diagonal preconditioner."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.divide_by_norm import divide_columns
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.rms_align import rms_align
from orthoptax.transforms.weight_decay import decoupled
from orthoptax.transforms.with_statistics import with_statistics


def dasgo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum with its columns evened out, at a fixed root-mean-square.

    ASGO's preconditioner cut to its diagonal: no product of matrices, and one number an
    input.

        M <- b1 M + (1 - b1) G
        c_j <- b2 c_j + (1 - b2) sum_i G_ij^2         one number a column
        U_ij <- M_ij / sqrt(c_j + eps)
        W <- W - lr (0.2 sqrt(rows cols) U / ||U||_F + wd W)

    Args:
      learning_rate: number, array or schedule; AdamW's carries over, the authors' is
        1e-3. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in c, in [0, 1). Traceable.
      eps: under the root, absolute; the authors' is 1e-8. Traceable.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only; the authors' is 0.1. Traceable.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: M, like the matrices; sqrt(c), one number a column; counts.
      rest: the state of `rest`.
      Memory: m*n + n numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, or, in `init`, a leaf that the layout
      cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = dasgo(0.001, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: the authors' eps of 1e-8 is by argument; without it a column whose
      gradients were all zero does not move.
    Family: One-sided.
    Source: An et al., ASGO, arXiv:2503.20762, section on DASGO; code
      infinity-stars/ASGO@d3ef14b, optimizers/dasgo.py.
    """
    _check.learning_rate("dasgo", learning_rate)
    rest = rest_or_adamw("dasgo", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        with_statistics(
            momentum(b1, nesterov=False, mu_dtype=mu_dtype),
            on_matrices(
                divide_columns(b2, eps=eps),
                rms_align(),
                after_or_nothing(after),
                layout=layout,
                place=place,
            ),
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
