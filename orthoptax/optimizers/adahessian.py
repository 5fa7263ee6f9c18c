# SPDX-License-Identifier: Apache-2.0
"""AdaHessian: Adam with curvature in the place of the gradient's square."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._axes import Axes
from orthoptax._types import Estimator, needs
from orthoptax.curvature.hutchinson import hutchinson
from orthoptax.curvature.spatial_average import Average, average_axes
from orthoptax.optimizers._rest import only_floats
from orthoptax.optimizers._windows import window_axes
from orthoptax.transforms.divide_by_curvature_rms import divide_by_curvature_rms
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.weight_decay import decoupled
from orthoptax.transforms.with_curvature import with_curvature


@needs("obj_fn")
def adahessian(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-4,
    power: ArrayLike = 1.0,
    weight_decay: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    average: Average | None = None,
    estimator: Estimator | None = None,
    update_every: int | None = None,
    start: int | None = None,
    axis_name: Axes = None,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum over the root-mean-square of the Hessian's diagonal.

    Adam with curvature in the place of the gradient's square; all leaves alike.

        M <- b1 M + (1 - b1) G
        D <- average(|z * (H z)|)                         z in {-1, +1}
        V <- b2 V + (1 - b2) D * D
        U <- M / (1 - b1^t) / ((sqrt(V) / sqrt(1 - b2^k))^power + eps)
        W <- W - lr (U + wd W)                            k estimates so far

    Args:
      learning_rate: number, array or schedule; the authors' is 0.15. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in V, in [0, 1). Traceable.
      eps: added to the denominator. Traceable.
      power: of the denominator, from 0 (momentum) to 1. Traceable.
      weight_decay: decoupled, of all leaves. Traceable.
      mu_dtype: dtype of M; None: the parameter's. Static.
      average: over entries of D that are alike, see `orthoptax.curvature.average_axes`;
        None: over the window of what `flax()` calls a convolution, (*window, in, out),
        and nothing else. Static.
      estimator: see `orthoptax.curvature`; None: `hutchinson()`. Static.
      update_every: steps from one estimate to the next; None: 1. Static.
      start: the step of the first, from 0; None: 0. Static.
      axis_name: mapped axes over which each device has a loss of its own, see
        `with_curvature`. Static.
      key: typed, the same on every device; None: `jax.random.key(0)`.
    State:
      inner: M and sqrt(V), like the parameters; counts.
      count, key, skipped, estimator: see `with_curvature`.
      Memory: 2*m*n numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and the extra
      argument `obj_fn`, the loss of the step as a function of the parameters.
    Raises: ValueError or TypeError for a number out of range; TypeError in `init` for
      integer leaves; in `update`, either for an `obj_fn` that is missing or no such
      function.
    Example:
      >>> import jax.numpy as jnp
      >>> w, loss = jnp.asarray([2.0, -1.0]), lambda w: jnp.sum(w**2 * w**2)
      >>> tx = adahessian(0.75, eps=0.0)
      >>> u, _ = tx.update(jax.grad(loss)(w), tx.init(w), w, obj_fn=loss)
      >>> u.round(3).tolist()
      [-0.5, 0.25]

    Deviations: the paper has no eps, and averages z * (H z) before it takes the square:
      `divide_by_curvature_rms(abs_first=False)`. Estimates that are not finite are
      dropped. The authors' code on several devices does not sum over them.
    Family: Curvature.
    Source: Yao et al., AdaHessian, arXiv:2006.00719, Algorithm 1; code
      amirgholami/adahessian@85ebc00, image_classification/optim_adahessian.py.
    """
    _check.learning_rate("adahessian", learning_rate)
    chain = optax.chain(
        momentum(b1, nesterov=False, bias_correction=True, mu_dtype=mu_dtype),
        divide_by_curvature_rms(
            b2,
            power=power,
            eps=eps,
            average=average_axes(window_axes) if average is None else average,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    tx = with_curvature(
        chain,
        hutchinson() if estimator is None else estimator,
        update_every=update_every,
        start=start,
        axis_name=axis_name,
        key=key,
    )
    return only_floats("adahessian", tx)
