# SPDX-License-Identifier: Apache-2.0
"""NAMO: Muon whose step size is momentum over noise."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar, ShapeRule
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.divide_by_norm import divide_by_norm
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.scale_by_input import scale_by_input_norm
from orthoptax.transforms.scale_by_shape import scale_by_shape
from orthoptax.transforms.weight_decay import decoupled
from orthoptax.transforms.with_statistics import with_statistics


def namo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 0.0,
    nesterov: bool = False,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    shape_rule: ShapeRule | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon whose step size is the norm of the momentum over that of the noise.

    Adam's ratio of first to second moment, taken once a matrix: the step is full while
    gradients agree, and shrinks where they cancel.

        M <- b1 M + (1 - b1) G
        U <- b1 M + (1 - b1) G                        Nesterov; else M
        v <- b2 v + (1 - b2) ||G||_F^2
        a <- ||U||_F / (sqrt(v) + eps)
        W <- W - lr (a s(rows, cols) polar(U) + wd W)     s = 0.2 sqrt(max(rows, cols))

    Args:
      learning_rate: number, array or schedule; AdamW's carries over. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in v, in [0, 1). Traceable.
      eps: added to sqrt(v), absolute; the published code's is 1e-8. Traceable.
      nesterov: look one step ahead. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only. Traceable.
      polar: see `orthoptax.matrix`; None: `auto()`; the authors' is `newton_schulz()`,
        Jordan's schedule. Static.
      shape_rule: see `scale_by_shape`; None: `match_rms`. With another rule the rates
        of the two groups differ, and `rest` must be given. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: M, like the matrices; sqrt(v), one number a matrix; counts.
      rest: the state of `rest`.
      Memory: m*n + 1 numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, a shape rule without `rest`, or, in
      `init`, a leaf that the layout cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = namo(0.02)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: v is not bias-corrected, as in the published code; if b1 = b2 the first
      step is sqrt(1 - b1) of a full one. Its shape scale is by argument.
    Family: Adaptive.
    Source: NAMO, arXiv:2602.17080; code Emerging-Optimizers@fd77292, adaptive_muon.py
      (`namo`). Scale: Liu et al., arXiv:2502.16982.
    """
    _check.learning_rate("namo", learning_rate)
    rest = rest_or_adamw("namo", learning_rate, rest, shape_rule)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        with_statistics(
            momentum(b1, nesterov=nesterov, mu_dtype=mu_dtype),
            on_matrices(
                scale_by_input_norm(orthogonalize(polar)),
                divide_by_norm(b2, eps=eps),
                scale_by_shape(shape_rule),
                after_or_nothing(after),
                layout=layout,
                place=place,
            ),
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
