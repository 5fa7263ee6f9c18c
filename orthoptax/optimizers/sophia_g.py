# SPDX-License-Identifier: Apache-2.0
"""Sophia-G: momentum over the Gauss-Newton diagonal, clipped."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax import _check
from orthoptax._axes import Axes
from orthoptax._types import Estimator, needs
from orthoptax.curvature.gauss_newton import gauss_newton_bartlett
from orthoptax.optimizers._rest import only_floats
from orthoptax.transforms.divide_by_curvature_mean import divide_by_curvature_mean
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.momentum import momentum
from orthoptax.transforms.weight_decay import decoupled
from orthoptax.transforms.with_curvature import with_curvature


@needs("logits_fn", "sample_fn", "nll_fn")
def sophia_g(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.965,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-15,
    gamma: ArrayLike = 0.04,
    clip_threshold: ArrayLike | None = 1.0,
    weight_decay: ArrayLike = 0.1,
    mu_dtype: DTypeLike | None = None,
    estimator: Estimator | None = None,
    update_every: int | None = None,
    start: int | None = None,
    axis_name: Axes = None,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum over the mean of the Gauss-Newton diagonal, clipped entry by entry.

    The authors' rule. The curvature is that of labels which the model draws itself, and
    never negative; until the first estimate every step is one of the sign.

        M <- b1 M + (1 - b1) G
        H <- b2 H + (1 - b2) B g * g              at the steps k, 2 k, ... from 0
        U <- clip(M / (gamma H + eps), -tau, tau)
        W <- W - lr (U + wd W)

    Args:
      learning_rate: number, array or schedule. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in H, in [0, 1). Traceable.
      eps: added to the denominator. Traceable.
      gamma: the authors' rho; keep the state's `win_rate` in 0.1 to 0.5 by it; they run
        0.05 for 125M parameters, 0.08 for 355M. Traceable.
      clip_threshold: tau, the authors' is 1; None: no clipping. Traceable.
      weight_decay: decoupled, of all leaves; they run 0.2. Traceable.
      mu_dtype: dtype of M; None: the parameter's. Static.
      estimator: see `orthoptax.curvature`; None: `gauss_newton_bartlett()`. Static.
      update_every: steps from one estimate to the next; None: 10. Static.
      start: the step of the first, from 0; None: `update_every`. Static.
      axis_name: mapped axes over which each device has a loss of its own, see
        `with_curvature`. Static.
      key: typed, the same on every device; None: `jax.random.key(0)`.
    State:
      inner: M and H, like the parameters; `win_rate`, the fraction of the entries that
        were not clipped; counts.
      count, key, skipped, estimator: see `with_curvature`.
      Memory: 2*m*n + 1 numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and the extra
      arguments `logits_fn`, `sample_fn` and `nll_fn`, see `gauss_newton_bartlett`.
    Raises: ValueError or TypeError for a number out of range; TypeError in `init` for
      integer leaves; in `update`, either for an extra argument that is missing or no
      such function.
    Example:
      >>> w, x = jnp.asarray([2.0, -1.0]), jnp.ones((4, 2))
      >>> tx = sophia_g(0.5, weight_decay=0.0)
      >>> u, _ = tx.update(
      ...     w, tx.init(w), w, logits_fn=lambda w: x * w,
      ...     sample_fn=lambda key, m: m + jax.random.normal(key, m.shape),
      ...     nll_fn=lambda m, y: (jnp.mean((m - y) ** 2) / 2, m.size))
      >>> u.tolist()
      [-0.5, 0.5]

    Deviations: the authors estimate at the end of step k, on its batch; here at the
      beginning of the next step, at the same parameters, on the next batch. H holds the
      factor B, which their denominator rho B h has. Their script clips the gradient
      of the sampled labels before it is squared, which is not followed.
    Family: Curvature.
    Source: Liu et al., Sophia, arXiv:2305.14342, Algorithms 2 and 3; code
      Liuhong99/Sophia@a7e1572, sophia.py.
    """
    _check.learning_rate("sophia_g", learning_rate)
    every = 10 if update_every is None else update_every
    chain = optax.chain(
        momentum(b1, nesterov=False, mu_dtype=mu_dtype),
        divide_by_curvature_mean(
            b2,
            gamma=gamma,
            eps=eps,
            clip_threshold=clip_threshold,
            refresh_first=True,
            denominator=jnp.add,
        ),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
    tx = with_curvature(
        chain,
        gauss_newton_bartlett() if estimator is None else estimator,
        update_every=every,
        start=every if start is None else start,
        axis_name=axis_name,
        key=key,
    )
    return only_floats("sophia_g", tx)
