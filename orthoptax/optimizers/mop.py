# SPDX-License-Identifier: Apache-2.0
"""MOP: PolarGrad with the exact polar factor."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place
from orthoptax.matrix.exact import svd
from orthoptax.optimizers.polargrad import polargrad


def mop(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    nesterov: bool = False,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum orthogonalized by its singular value decomposition, at its nuclear norm.

    PolarGrad with nothing approximated: slow on accelerators, and what the iterations
    are held against.

        M <- b1 M + (1 - b1) G
        U <- b1 M + (1 - b1) G                        Nesterov; else M
        P diag(s) Q^T <- svd(U)
        W <- W - lr (sum(s) P Q^T + wd W)

    Args:
      learning_rate: number, array or schedule; as in `polargrad`, the published code's
        is 3e-4. Traceable.
      b1: weight of the past, in [0, 1). Traceable.
      nesterov: look one step ahead. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only; the published code's is 0.01.
        Traceable.
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
      >>> tx = mop(0.0003, rest=optax.adamw(1e-3))
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: with a shape scale instead of the nuclear norm, which the published code
      has too, it is `muon(polar=svd(), shape_rule=...)`. Its constant factor is
      `after=optax.scale(...)`. Singular directions below rounding are dropped.
    Family: Muon.
    Source: MOP, momentum orthogonalized by polar decomposition, 2025; code
      Emerging-Optimizers@fd77292, mop.py.
    """
    _check.learning_rate("mop", learning_rate)
    return polargrad(
        learning_rate,
        b1=b1,
        nesterov=nesterov,
        mu_dtype=mu_dtype,
        weight_decay=weight_decay,
        polar=svd(),
        place=place,
        after=after,
        rest=rest,
        layout=layout,
    )
