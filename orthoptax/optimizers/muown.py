# SPDX-License-Identifier: Apache-2.0
"""Muown: Muon for the directions of the rows, Adam for their lengths."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar, ShapeRule
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.schedules import QUINTIC
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.scale_by_adam import scale_by_adam
from orthoptax.transforms.scale_by_shape import scale_by_shape
from orthoptax.transforms.weight_decay import decay_after
from orthoptax.transforms.weight_norm import weight_norm


def muown(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    magnitude: optax.GradientTransformation | None = None,
    polar: Polar | None = None,
    shape_rule: ShapeRule | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon for the directions of the rows, Adam for their lengths.

    Each row of a weight matrix is a length g times the direction of a vector v, as in
    weight normalization, but inside the optimizer: the model sees plain weights.

        grad_g <- <G, w / g>;   grad_v <- g / |v| (G - grad_g w / g)         each row
        M <- b1 M + (1 - b1) grad_v
        V <- V - lr s(rows, cols) polar(M)               s = 0.2 sqrt(max(rows, cols))
        g <- (1 - lr wd) (g - lr adam(grad_g))
        w <- g v / |v|                                                       each row

    Args:
      learning_rate: number, array or schedule; AdamW's carries over. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: of the lengths, decoupled and after their step. Traceable.
      magnitude: what makes a direction of grad_g, before rate and decay, on
        {matrix: (..., rows, 1)}; None: `scale_by_adam(0.9, 0.95)`. Static.
      polar: see `orthoptax.matrix`; None: `newton_schulz(QUINTIC)`. Static.
      shape_rule: see `scale_by_shape`; None: `match_rms`. With another rule the rates
        of the two groups differ, and `rest` must be given. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before the rate of V. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: rows: |v| of each row, and the state of `magnitude` (its mean and root
        mean square, a number a row each); direction: `MomentumState` of M, counts.
      rest: the state of `rest`.
      Memory: m*n + 3*m numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, a shape rule without `rest`, or, in
      `init`, a leaf that the layout cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = muown(0.02)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> optax.tree.get(state, "norm")["dense/kernel"].shape
      (8, 1)

    Deviations: the code adds 1e-8 in Adam, `magnitude=scale_by_adam(0.9, 0.95,
      eps=1e-8)`, and its extra factor of the direction is 1 unless told otherwise; the
      0.2 in s is the value reported for it.
    Family: Constrained.
    Source: Muown, Row-Norm Control for Muon Optimization, arXiv:2605.10797; code
      Emerging-Optimizers@fd77292, contrib/muown.py.
    """
    _check.learning_rate("muown", learning_rate)
    rest = rest_or_adamw("muown", learning_rate, rest, shape_rule)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    direction = optax.chain(
        momentum(b1, nesterov=False, mu_dtype=mu_dtype),
        on_matrices(
            orthogonalize(newton_schulz(QUINTIC) if polar is None else polar),
            scale_by_shape(shape_rule),
            after_or_nothing(after),
            layout=layout,
            place=place,
        ),
        scale_by_learning_rate(learning_rate),
    )
    length = optax.chain(
        scale_by_adam(0.9, 0.95) if magnitude is None else magnitude,
        decay_after(weight_decay, learning_rate=learning_rate),
    )
    matrix = weight_norm(direction, length, layout=layout, place=place)
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
