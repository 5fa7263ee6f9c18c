# SPDX-License-Identifier: Apache-2.0
"""Hybrid AuON: Muon's direction under AuON's scale."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.energy_scale import energy_scale
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.weight_decay import decoupled


def hybrid_auon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    gamma: ArrayLike = 1.5,
    nesterov: bool = True,
    normalize: bool = False,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon's direction under AuON's scale, without a factor of the shape.

        M <- b1 M + (1 - b1) G
        U <- b1 M + (1 - b1) G                        Nesterov; else M
        O <- polar(U)
        X <- O / ||O||_F
        r <- sqrt(mean(cosh(gamma X)^2))              nearly 1
        W <- W - lr (O / r + wd W)                    X / r if normalize

    Args:
      learning_rate: number, array or schedule; the authors' default is 0.24, beside
        AdamW's 0.003. Traceable.
      b1: weight of the past, in [0, 1). Traceable.
      gamma: of the cosh, not negative; the paper's is 1. Traceable.
      nesterov: look one step ahead; the paper does not. Static.
      normalize: step along X, as in the paper. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only. Traceable.
      polar: see `orthoptax.matrix`; None: `auto()`; the paper's is one step of
        Jordan's schedule, `newton_schulz(JORDAN[:1])`. Static.
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
    Raises: ValueError for a number out of range, or, in `init`, a leaf that the layout
      cannot decide; TypeError for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = hybrid_auon(0.24, rest=optax.adamw(0.003))
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: as those of `auon`: statistics of one matrix, no epsilons.
    Family: Muon.
    Source: Maity, AuON, arXiv:2509.24320; code ryyzn9/AuON@bba2e82, auon/optimizer.py.
    """
    _check.learning_rate("hybrid_auon", learning_rate)
    rest = rest_or_adamw("hybrid_auon", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        momentum(b1, nesterov=nesterov, mu_dtype=mu_dtype),
        on_matrices(
            orthogonalize(polar),
            energy_scale(gamma, normalize=normalize),
            after_or_nothing(after),
            layout=layout,
            place=place,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
