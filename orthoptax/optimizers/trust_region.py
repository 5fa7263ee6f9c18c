# SPDX-License-Identifier: Apache-2.0
"""Trust region: momentum, and the best step of a given length in a norm of choice."""

import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._types import Ball, Layout, Place, ShapeRule
from orthoptax.layout.tables import flax
from orthoptax.layout.wrap import by_layout, on_matrices
from orthoptax.optimizers._rest import after_or_nothing, rest_or_adamw
from orthoptax.sharding.automatic import automatic
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.lmo import lmo
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.scale_by_shape import scale_by_shape, unscaled
from orthoptax.transforms.weight_decay import decoupled


def trust_region(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    nesterov: bool = False,
    first_gradient: bool = False,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ArrayLike = 0.0,
    norm: Ball | None = None,
    shape_rule: ShapeRule | None = None,
    place: Place | None = None,
    after: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum, and the best step of a given length in a norm of choice.

    One optimizer, three names: Muon with `spectral_ball`, normalized gradient descent
    with momentum with `frobenius_ball`, signSGD with momentum with `sign_ball`. The
    step minimizes the linear model <M, W'> over the ball |W' - (1 - lr wd) W| <= lr s.

        M <- b1 M + (1 - b1) G                        from 0, or from the first gradient
        D <- argmax <M, D>  over  |D| <= 1            the norm's
        W <- (1 - lr wd) W - lr s(rows, cols) D

    Weights that start in the ball |W| <= s / wd stay in it, so decay is a constraint:
    for a radius r pass weight_decay=1 / r.

    Args:
      learning_rate: radius of the trust region: number, array or schedule. Traceable.
      b1: weight of the past, in [0, 1); the paper's 1 - alpha. Traceable.
      nesterov: look one step ahead. Static.
      first_gradient: start M at the first gradient. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
      weight_decay: decoupled, of the matrices only; the paper's beta / lr. Traceable.
      norm: a `Ball` of `orthoptax.matrix`; None: `spectral_ball()`. Another norm for
        other leaves: one `on_matrices(lmo(...), layout=...)` each. Static.
      shape_rule: see `scale_by_shape`; None: `unscaled`, the norm's own ball. Static.
      place: where the matrix links run, see `orthoptax.sharding`; None: `automatic`.
        Static.
      after: a link of yours in matrix coordinates, before decay and rate. Static.
      rest: the optimizer of all other leaves; None:
        `optax.adamw(learning_rate, weight_decay=0.0)`. Static.
      layout: which leaves are which matrices; None: `flax()`. Static.
    State:
      matrix: `MomentumState` (momentum, like the matrices), the links' states, counts.
      rest: the state of `rest`.
      Memory: m*n numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError for a number out of range or, in `init`, a leaf that the layout
      cannot decide; TypeError for a norm that is not a function or integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> from orthoptax.matrix import sign_ball
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = trust_region(0.5, norm=sign_ball())
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> float(updates["dense"]["kernel"][0, 0])
      -0.5

    Deviations: the polar factor of the default is `auto()`, the paper's is exact:
      pass `spectral_ball(orthoptax.matrix.svd())`. Its form with extrapolation needs
      gradients at other points and is not here.
    Family: Trust region.
    Source: Kovalev, Understanding Gradient Orthogonalization for Deep Learning via
      Non-Euclidean Trust-Region Optimization, arXiv:2503.12645, Algorithm 1.
    """
    _check.learning_rate("trust_region", learning_rate)
    rest = rest_or_adamw("trust_region", learning_rate, rest)
    layout = flax() if layout is None else layout
    place = automatic if place is None else place
    matrix = optax.chain(
        momentum(
            b1, nesterov=nesterov, first_gradient=first_gradient, mu_dtype=mu_dtype
        ),
        on_matrices(
            lmo(norm),
            scale_by_shape(unscaled if shape_rule is None else shape_rule),
            after_or_nothing(after),
            layout=layout,
            place=place,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    return by_layout(matrix=matrix, rest=rest, layout=layout, place=place)
