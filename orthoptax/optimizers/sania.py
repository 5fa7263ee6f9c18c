# SPDX-License-Identifier: Apache-2.0
"""SANIA: Polyak's step size for a gradient divided by the mean of its squares."""

import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._types import needs
from orthoptax.optimizers._rest import on_parameters
from orthoptax.transforms.divide_by_square import divide_by_mean_square
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.polyak_step import polyak_step

FLOOR = 0.1  # of the authors' package; large, and below it scale is seen after all


@needs("value")
def sania(
    learning_rate: optax.ScalarOrSchedule,
    *,
    f_star: ArrayLike = 0.0,
    metric: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Polyak's step size for a gradient divided by a metric, by default Adam's square.

    The loss itself sets the length of the step, so there is no rate to tune, and
    rescaling a parameter, or the loss with its least value, changes nothing.

        V <- b2 V + (1 - b2) G * G;  B <- max(V / (1 - b2^t), floor)       Adam-SQR
        S <- B^-1 G
        v <- 2 (f - f_star) / <G, S>                f: the loss, extra argument `value`
        lambda <- 1 - sqrt(1 - v) if v <= 1, else 1
        W <- W - lr lambda S

    The authors' other metrics, as `metric`:

        divide_by_sum_of_squares(floor=0.1)                         AdaGrad-SQR
        divide_by_mean_square(0.999, floor=0.1, root=True)          Adam's own
        newton_direction()                                          Newton, by PCG
        with_curvature(divide_by_curvature_abs_floor(0.999, floor=0.1))
                                                                    Hutchinson

    Args:
      learning_rate: number, array or schedule that MULTIPLIES lambda: 1 is the method,
        and other optimizers' rates are not its rates. Traceable.
      f_star: the least value of the loss of a batch; see `polyak_step`. Traceable.
      metric: a link that divides by a positive definite metric; None:
        `divide_by_mean_square(0.999, floor=0.1)`. Static.
    State:
      step_size: the last lambda.
      inner: the state of `metric`, by default `size`, the square root of V.
      count: int32 scalars.
      Memory: m*n + 1 numbers a matrix of m rows and n columns; the one is the tree's.
    Returns: a `GradientTransformationExtraArgs` that needs `value`, and what `metric`
      needs, for the last two `params` and `obj_fn`. <G, S> is over all leaves, inside a
      group over those of the group.
    Raises: ValueError for a number out of range or a missing `value`; TypeError in
      `init` for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = sania(1.0)
      >>> state = tx.init(params)
      >>> updates, state = tx.update(params, state, params, value=jnp.asarray(15.0))
      >>> round(float(updates["dense"]["bias"][0]), 4)
      -0.5

    Deviations: the authors' package overwrites the rate by lambda, so that it has no
      effect, and lets lambda be negative below f_star.
    Family: Step size.
    Source: Abdukhakimov et al., SANIA, arXiv:2312.17369; code fxrshed/SANIA@ce6662f,
      sania_adam_sqr.py.
    """
    _check.learning_rate("sania", learning_rate)
    metric = divide_by_mean_square(floor=FLOOR) if metric is None else metric
    return on_parameters(
        "sania",
        polyak_step(metric, f_star=f_star),
        scale_by_learning_rate(learning_rate),
    )
