# SPDX-License-Identifier: Apache-2.0
"""ROOT: Muon without outliers, its polynomial chosen by the matrix's shape."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar, ShapeRule
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix.by_shape import by_shape
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.scale_by_shape import scale_by_shape
from orthoptax.transforms.soft_threshold import soft_threshold
from orthoptax.transforms.weight_decay import decoupled


def root(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    quantile: ArrayLike = 0.9,
    eps: ArrayLike = 0.0,
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
    """Muon without outliers, its polynomial chosen by the matrix's shape.

    A few huge entries of the momentum would decide its singular vectors; they are cut
    off at a quantile first.

        M <- b1 M + G
        U <- b1 M + G                                 Nesterov; else M
        tau <- quantile of |U| over the matrix, + eps
        B <- clip(U, -tau, tau)
        O <- polar(B)
        W <- W - lr (0.2 sqrt(max(rows, cols)) O + wd W)

    Args:
      learning_rate: number, array or schedule; AdamW's carries over, the authors' is
        1e-3. Traceable.
      b1: weight of the past, in [0, 1). Traceable.
      quantile: share of the entries that is not cut, in [0, 1). Traceable.
      eps: added to the quantile; the authors' is 1e-9. Traceable.
      nesterov: look one step ahead. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only; the authors' is 0.1. Traceable.
      polar: see `orthoptax.matrix`; None: `by_shape()`, the authors' table. Static.
      shape_rule: see `scale_by_shape`; None: `match_rms`, the authors'. With another
        rule the rates of the two groups differ, and `rest` must be given. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: M, like the matrices; counts.
      rest: the state of `rest`.
      Memory: m*n numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, a shape rule without `rest`, or, in
      `init`, a leaf that the layout cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = root(1e-3, weight_decay=0.1)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: the paper's algorithm has a fixed threshold and neither Nesterov, decay
      nor shape scale: `soft_threshold(threshold=...)` in place of the quantile. A
      matrix with more zeros than the quantile is cut at its smallest nonzero entry,
      where the authors cut at 1e-9. Theirs decays the other leaves too.
    Family: Muon.
    Source: He et al., ROOT, arXiv:2511.20626; code huawei-noah/noah-research@aa0f80c,
      ROOT/examples/example_train.py.
    """
    _check.learning_rate("root", learning_rate)
    rest = rest_or_adamw("root", learning_rate, rest, shape_rule)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        momentum(b1, ema=False, nesterov=nesterov, mu_dtype=mu_dtype),
        on_matrices(
            soft_threshold(quantile, eps=eps),
            orthogonalize(by_shape() if polar is None else polar),
            scale_by_shape(shape_rule),
            after_or_nothing(after),
            layout=layout,
            place=place,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
