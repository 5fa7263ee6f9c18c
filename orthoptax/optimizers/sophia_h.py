# SPDX-License-Identifier: Apache-2.0
"""Sophia-H: momentum over the Hessian's diagonal, clipped."""

import jax
import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._axes import Axes
from orthoptax._types import Estimator, needs
from orthoptax.curvature.hutchinson import hutchinson
from orthoptax.optimizers._rest import only_floats
from orthoptax.transforms.divide_by_curvature_mean import divide_by_curvature_mean
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.weight_decay import decoupled
from orthoptax.transforms.with_curvature import with_curvature


@needs("obj_fn")
def sophia_h(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.965,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    gamma: ArrayLike = 0.01,
    clip_threshold: ArrayLike | None = 1.0,
    weight_decay: ArrayLike = 1e-4,
    mu_dtype: DTypeLike | None = None,
    estimator: Estimator | None = None,
    update_every: int | None = None,
    start: int | None = None,
    axis_name: Axes = None,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum over the mean of the Hessian's diagonal, clipped entry by entry.

    The rule of `optax.contrib.sophia`: where curvature is small or negative, a step of
    the sign. All leaves alike.

        M <- b1 M + (1 - b1) G
        U <- clip(M / (1 - b1^t) / max(gamma H, eps), -tau, tau)
        W <- W - lr (U + wd W)
        H <- b2 H + (1 - b2) z * (H_W z)          every k steps, after its use

    Args:
      learning_rate: number, array or schedule. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in H, in [0, 1). Traceable.
      eps: least denominator. Traceable.
      gamma: factor of H; keep the state's `win_rate` in 0.1 to 0.5 by it. Traceable.
      clip_threshold: tau; None: no clipping. Traceable.
      weight_decay: decoupled, of all leaves. Traceable.
      mu_dtype: dtype of M; None: the parameter's. Static.
      estimator: see `orthoptax.curvature`; None: `hutchinson()`. Static.
      update_every: steps from one estimate to the next; None: 10. Static.
      start: the step of the first, from 0; None: 0. Static.
      axis_name: mapped axes over which each device has a loss of its own, see
        `with_curvature`. Static.
      key: typed, the same on every device; None: `jax.random.key(0)`.
    State:
      inner: M and H, like the parameters; `win_rate`, the fraction of the entries that
        were not clipped; counts.
      count, key, skipped, estimator: see `with_curvature`.
      Memory: 2*m*n + 1 numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and the extra
      argument `obj_fn`, the loss of the step as a function of the parameters.
    Raises: ValueError or TypeError for a number out of range; TypeError in `init` for
      integer leaves; in `update`, either for an `obj_fn` that is missing or no such
      function.
    Example:
      >>> import jax.numpy as jnp
      >>> w, loss = jnp.asarray([2.0, -1.0]), lambda w: jnp.sum(w**2)
      >>> tx = sophia_h(0.5, weight_decay=0.0)
      >>> u, _ = tx.update(jax.grad(loss)(w), tx.init(w), w, obj_fn=loss)
      >>> u.tolist()
      [-0.5, 0.5]

    Deviations: the paper's Algorithm 3 has no bias correction, refreshes before use and
      draws normal probes: `with_curvature(chain(momentum(0.96, nesterov=False),
      divide_by_curvature_mean(refresh_first=True, eps=1e-12), decoupled(0.2),
      scale_by_learning_rate(lr)), hutchinson(probe=normal), update_every=10)`. Unlike
      optax's, estimates that are not finite are dropped.
    Family: Curvature.
    Source: Liu et al., Sophia, arXiv:2305.14342, Algorithms 1 and 3; code optax 0.2.8,
      contrib/_sophia.py.
    """
    _check.learning_rate("sophia_h", learning_rate)
    chain = optax.chain(
        momentum(b1, nesterov=False, bias_correction=True, mu_dtype=mu_dtype),
        divide_by_curvature_mean(
            b2, gamma=gamma, eps=eps, clip_threshold=clip_threshold
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    tx = with_curvature(
        chain,
        hutchinson() if estimator is None else estimator,
        update_every=10 if update_every is None else update_every,
        start=start,
        axis_name=axis_name,
        key=key,
    )
    return only_floats("sophia_h", tx)
