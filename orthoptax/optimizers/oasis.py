# SPDX-License-Identifier: Apache-2.0
"""OASIS: curvature decides each entry's rate, the last step the common one."""

import jax
import optax
from jax.typing import ArrayLike

from orthoptax._axes import Axes
from orthoptax._types import Estimator, needs
from orthoptax.curvature.hutchinson import hutchinson
from orthoptax.optimizers._rest import only_floats
from orthoptax.transforms.secant_step import secant_step
from orthoptax.transforms.with_curvature import with_curvature

WARM_UP = 10  # probes of the first estimate


@needs("obj_fn")
def oasis(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b2: ArrayLike = 0.99,
    floor: ArrayLike = 1e-2,
    full_batch: bool = False,
    estimator: Estimator | None = None,
    update_every: int | None = None,
    start: int | None = None,
    axis_name: Axes = None,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The gradient over the Hessian's diagonal, with a step size that finds itself.

    No rate is tuned: from the second step on, the length of a step follows from how the
    gradient changed over the one before.

        D <- b2 D + (1 - b2) z * (H z)                    at first a mean of ten
        Dh <- max(|D|, floor)
        e <- ||W - W'||_Dh / (2 ||G - G'||_(1/Dh))        W' the weights before, G' the
        eta' <- min(sqrt(1 + theta) eta, e)               gradient there, of this batch
        theta <- eta' / eta,  W <- W - eta' G / Dh

    Args:
      learning_rate: the length of the first step ONLY; small. A number, array or
        schedule, which is called with 0; later ones do not depend on it. Traceable.
      b2: weight of the past in D, in [0, 1); 0.95 to 0.999. Traceable.
      floor: least curvature, 1e-7 to 0.1. Traceable.
      full_batch: the loss is the same function at every step: keep the gradient instead
        of computing G' again. Static.
      estimator: see `orthoptax.curvature`; None:
        `hutchinson(first_samples=10)`. Static.
      update_every: steps from one estimate to the next; None: 1. Static.
      start: the step of the first, from 0; None: 0. Static.
      axis_name: mapped axes over which each device has a loss of its own, see
        `with_curvature`. Static.
      key: typed, the same on every device; None: `jax.random.key(0)`.
    State:
      inner: D, W' and, with `full_batch`, G', like the parameters; eta and theta.
      count, key, skipped, estimator: see `with_curvature`.
      Memory: 2*m*n + 2 numbers a matrix of m rows and n columns, one m*n more with
      `full_batch`.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and the extra
      argument `obj_fn`, the loss of the step as a function of the parameters; it takes
      `grad_fn`, the gradient of that loss, which is else taken of `obj_fn`. Before the
      first estimate nothing moves.
    Raises: ValueError or TypeError for a number out of range; TypeError in `init` for
      integer leaves; in `update`, either for an `obj_fn` that is missing or no such
      function.
    Example:
      >>> import jax.numpy as jnp
      >>> w, loss = jnp.asarray([4.0, -1.0]), lambda w: w[0] ** 2 + 4 * w[1] ** 2
      >>> tx = oasis(0.5)
      >>> u, _ = tx.update(jax.grad(loss)(w), tx.init(w), w, obj_fn=loss)
      >>> u.tolist()
      [-2.0, 0.5]

    Deviations: none from Algorithm 1. Where the last step moved nothing, step size and
      ratio stay; a secant that is no finite number is passed over. Decay is left to the
      loss. With a rate of your own, and with momentum, recombine:
      `with_curvature(chain(momentum(0.9, nesterov=False),
      divide_by_curvature_abs_floor(), scale_by_learning_rate(lr)), hutchinson())`.
    Family: Curvature.
    Source: Jahani et al., OASIS, arXiv:2109.05198, Algorithm 1.
    """
    tx = with_curvature(
        secant_step(
            learning_rate,
            b2=b2,
            floor=floor,
            full_batch=full_batch,
            axis_name=axis_name,
        ),
        hutchinson(first_samples=WARM_UP) if estimator is None else estimator,
        update_every=update_every,
        start=start,
        axis_name=axis_name,
        key=key,
    )
    return only_floats("oasis", tx)
