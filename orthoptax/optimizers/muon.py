# SPDX-License-Identifier: Apache-2.0
"""Muon: momentum, replaced by its nearest semi-orthogonal matrix."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar, ShapeRule
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.scale_by_shape import scale_by_shape
from orthoptax.transforms.weight_decay import decoupled


def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    nesterov: bool = True,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    shape_rule: ShapeRule | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum, replaced by its nearest semi-orthogonal matrix.

    Hidden weight matrices move by matrices whose singular values are all near 1; gains,
    biases, embeddings and heads go to AdamW at the same learning rate.

        M <- b1 M + (1 - b1) G
        U <- b1 M + (1 - b1) G                        Nesterov; else M
        O <- polar(U)
        W <- W - lr (s(rows, cols) O + wd W)          s = 0.2 sqrt(max(rows, cols))

    Args:
      learning_rate: number, array or schedule; AdamW's carries over. Traceable.
      b1: weight of the past, in [0, 1). Traceable.
      nesterov: look one step ahead. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only. Traceable.
      polar: see `orthoptax.matrix`; None: `auto()`; the authors' is `newton_schulz()`,
        Jordan's schedule. Static.
      shape_rule: see `scale_by_shape`; None: `match_rms`. With another rule the rates
        of the two groups differ, and `rest` must be given. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate; for example
        `orthoptax.diagnostics.record()`. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: `MomentumState` (momentum, like the matrices), the links' states, counts.
      rest: the state of `rest`.
      Memory: m*n numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, a shape rule without `rest`, or, in
      `init`, a leaf that the layout cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = muon(0.02)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: the authors' code scales by sqrt(max(1, rows/cols)) (`original`, rate
      near 0.02) and adds 1e-7 to the norm; both by argument. optax.contrib.muon
      corrects the bias of M inside Nesterov: `momentum(bias_correction=True)`.
    Family: Muon.
    Source: Jordan et al., Muon: An optimizer for hidden layers, 2024; code
      KellerJordan/Muon@857d1ad, muon.py. Scale: Liu et al., arXiv:2502.16982.
    """
    _check.learning_rate("muon", learning_rate)
    rest = rest_or_adamw("muon", learning_rate, rest, shape_rule)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        momentum(b1, nesterov=nesterov, mu_dtype=mu_dtype),
        on_matrices(
            orthogonalize(polar),
            scale_by_shape(shape_rule),
            after_or_nothing(after),
            layout=layout,
            place=place,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
