# SPDX-License-Identifier: Apache-2.0
"""PolarGrad: Muon's direction at gradient descent's length."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Layout, Place, Polar
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.matrix.newton_schulz import newton_schulz
from orthoptax.matrix.schedules import POLAR_EXPRESS_8
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.orthogonalize import orthogonalize
from orthoptax.transforms.scale_by_input import scale_by_dual_norm
from orthoptax.transforms.weight_decay import decoupled


def polargrad(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    nesterov: bool = False,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    polar: Polar | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon's direction times the nuclear norm of the momentum: steepest descent.

    Muon steps as far near a minimum as away from it; here the step shrinks with the
    gradient, as in gradient descent.

        M <- b1 M + (1 - b1) G
        U <- b1 M + (1 - b1) G                        Nesterov; else M
        O <- polar(U)
        W <- W - lr (<U, O> O + wd W)                 <U, O> = sum of singular values

    Args:
      learning_rate: number, array or schedule; of gradient descent, so in units of the
        loss, and AdamW's does not carry over: give `rest` its own. The authors' is
        0.02. Traceable.
      b1: weight of the past, in [0, 1). Traceable.
      nesterov: look one step ahead; the authors do not. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only. Traceable.
      polar: see `orthoptax.matrix`; None: `newton_schulz(POLAR_EXPRESS_8)`, whose
        singular values end at 1. Static.
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
      >>> tx = polargrad(0.02, rest=optax.adamw(1e-3))
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> updates["dense"]["kernel"].shape
      (4, 8)

    Deviations: the authors' polar factor is two steps of QDWH (`qdwh`), NVIDIA's five
      quintic stages (`newton_schulz(QUINTIC)`, decay 0.01); both by argument. Their
      "polar first", M <- b1 M + (1 - b1) polar(G) and W <- W - lr <G, polar(G)> M, is
      `on_matrices(scale_by_dual_norm(orthogonalize(polar), then=momentum(0.95,
      nesterov=False)))` before decay and rate. A constant factor of the step, which
      NVIDIA's has, is `after=optax.scale(...)`.
    Family: Muon.
    Source: Lau et al., PolarGrad, arXiv:2505.21799; code timlautk/polargrad@79f3c6f,
      polar_grad.py; Emerging-Optimizers@fd77292, polargrad.py.
    """
    _check.learning_rate("polargrad", learning_rate)
    rest = rest_or_adamw("polargrad", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    polar = newton_schulz(POLAR_EXPRESS_8) if polar is None else polar
    matrix = optax.chain(
        momentum(b1, nesterov=nesterov, mu_dtype=mu_dtype),
        on_matrices(
            scale_by_dual_norm(orthogonalize(polar)),
            after_or_nothing(after),
            layout=layout,
            place=place,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
