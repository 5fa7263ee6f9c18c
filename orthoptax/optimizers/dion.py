# SPDX-License-Identifier: Apache-2.0
"""Dion: momentum by its leading singular directions, the rest fed back."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Compressor, Layout, Place, ShapeRule
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.error_feedback import error_feedback
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.low_rank import low_rank
from orthoptax.transforms.scale_by_shape import scale_by_shape, spectral_norm
from orthoptax.transforms.weight_decay import decoupled


def dion(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    rank_fraction: float | None = None,
    compressor: Compressor | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    shape_rule: ShapeRule | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum by its leading singular directions, the rest fed back.

    One power step an update instead of an orthogonalization; what the rank leaves out
    stays in the momentum until it leads.

        B <- M + G                                      tall: transposed if rows < cols
        P <- orthonormal columns of B Q;  R <- B^T P
        M <- B - (1 - b1) P R^T
        Q <- R / ||R_column||
        W <- W - lr (s(rows, cols) P Q^T + wd W)        s = sqrt(rows/cols)

    Args:
      learning_rate: number, array or schedule; the authors use 0.01 to 0.02. Traceable.
      b1: what is kept of the part that went on, in [0, 1). Traceable.
      rank_fraction: rank over min(rows, cols), in (0, 1]; None: 1. Static, named in
        `static_args` under `optax.inject_hyperparams`.
      compressor: another one, in matrix coordinates, for example
        `low_rank(0.25, steps=2, key=...)`; None: `low_rank(rank_fraction)`. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only. Traceable.
      shape_rule: see `scale_by_shape`; None: `spectral_norm`. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: `ErrorFeedbackState` (M, like the matrices; Q, one of min(rows, cols) x
        rank a matrix), the links' states, counts.
      rest: the state of `rest`.
      Memory: m*n + r*min(m, n) numbers a matrix of m rows, n columns, rank r.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range, a rank fraction beside a compressor,
      or, in `init`, a leaf that the layout cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = dion(0.01, rank_fraction=0.5)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> optax.tree.get(state, "basis")["dense/kernel"].shape
      (4, 2)

    Deviations: the authors decay weights by 0.01 and add 1e-8 to the column norms
      (`weight_decay=0.01`, `compressor=low_rank(eps=1e-8)`). Their random sketch
      changes signs that cancel in P Q^T. See also `low_rank`.
    Family: Low rank and sparse.
    Source: Ahn et al., Dion: Distributed Orthonormalized Updates, arXiv:2504.05295,
      Algorithm 1; code microsoft/dion@0a059a4, dion_reference.py.
    """
    _check.learning_rate("dion", learning_rate)
    if compressor is not None and rank_fraction is not None:
        raise ValueError(
            _check.message(
                "dion",
                f"rank_fraction={rank_fraction} beside a compressor is not used",
                "one of them",
                "Pass compressor=low_rank(...) with the fraction inside",
            )
        )
    rest = rest_or_adamw("dion", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    compressor = low_rank(rank_fraction) if compressor is None else compressor
    lifted = on_matrices(
        compressor,
        scale_by_shape(spectral_norm if shape_rule is None else shape_rule),
        after_or_nothing(after),
        layout=layout,
        place=place,
    )
    matrix = optax.chain(
        error_feedback(b1, lifted, mu_dtype=mu_dtype),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
