# SPDX-License-Identifier: Apache-2.0
"""The induced metric: momentum, shortened where the loss landscape is steep."""

import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax.optimizers._rest import on_parameters
from orthoptax.transforms.induced_metric import Metric, scale_by_induced_metric
from orthoptax.transforms.learning_rate import scale_by_learning_rate
from orthoptax.transforms.weight_decay import decoupled


def induced_metric(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.8,
    xi: ArrayLike = 0.1,
    metric: Metric | None = None,
    precondition: optax.GradientTransformation | None = None,
    weight_decay: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent measured by the metric of the graph of its loss.

    One number over all leaves clips the step smoothly.

        P <- precondition(G)                              the identity
        e <- b2 e + (1 - b2) xi <G, P>                    over all leaves
        M <- b1 M + (1 - b1) G
        U <- precondition(M / (1 - b1^t)) / (1 + e / (1 - b2^t))
        W <- W - lr (U + wd W)

    `metric=of_log_graph` divides by f + e/f instead of 1 + e, where f is the loss;
    `precondition=divide_by_mean_square(0.99, eps=1e-8, root=True)` is the authors' RMS
    variant, for which their tuned xi is as small as 1e-8.

    Args:
      learning_rate: number, array or schedule; where the loss is flat that of SGD with
        momentum. The authors' is 0.1, with RMS 0.01. Traceable.
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in e, in [0, 1). Traceable.
      xi: how much of the loss is height of the landscape. Traceable.
      metric: see `orthoptax.transforms.scale_by_induced_metric`; None: `of_graph`.
        Static.
      precondition: a diagonal metric, read from `grad`; None: the identity. Static.
      weight_decay: decoupled. Traceable.
    State:
      length: sqrt(e), one number.
      momentum: M, like the parameters.
      inner: the state of `precondition`.
      count: int32 scalars.
      Memory: m*n + 1 numbers a matrix of m rows and n columns; the one is the tree's.
    Returns: a `GradientTransformationExtraArgs` that needs `params`, and `value` where
      the metric asks for the loss.
    Raises: ValueError for a number out of range; TypeError in `init` for integer
      leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = induced_metric(0.1, xi=1.0)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> round(float(updates["dense"]["bias"][0]) * 41, 4)
      -0.1

    Family: Step size.
    Source: The Optimiser Hidden in Plain Sight, arXiv:2509.03594; code
      harveyThomas4692/Induced-Metric-Optimiser@754ae88, optimisers/jax_imp.py.
    """
    _check.learning_rate("induced_metric", learning_rate)
    return on_parameters(
        "induced_metric",
        scale_by_induced_metric(precondition, b1=b1, b2=b2, xi=xi, metric=metric),
        decoupled(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
