# SPDX-License-Identifier: Apache-2.0
"""Momentum, scaled by the metric that the loss landscape induces on its parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range, is_callable
from orthoptax._dtypes import times
from orthoptax.matrix.running import divide, running, weight_of_past
from orthoptax.transforms import _tree
from orthoptax.transforms.momentum import momentum

Metric = Callable[[jax.Array, Callable[[], jax.Array]], jax.Array]
"""metric(e, loss): the factor of the step for the root of the mean squared length e of
the gradient and a function that returns the loss, and asks for it."""


class InducedMetricState(NamedTuple):
    """State of `scale_by_induced_metric`.

    count: int32, completed updates. length: the root of e. momentum: that of its link.
    inner: the state of the inner link.
    """

    count: jax.Array
    length: jax.Array
    momentum: Any
    inner: Any


def of_graph(length: jax.Array, loss: Callable[[], jax.Array]) -> jax.Array:
    """1 / (1 + e): the metric of the graph of the loss.

    Args:
      length: the root of e.
      loss: not asked for.
    Returns: a scalar in [0, 1].
    Example:
      >>> float(of_graph(jnp.asarray(3.0), lambda: jnp.asarray(1.0)))
      0.10000000149011612

    Source: arXiv:2509.03594.
    """
    del loss
    return 1 / (1 + length * length)


def of_log_graph(length: jax.Array, loss: Callable[[], jax.Array]) -> jax.Array:
    """f / (f^2 + e): the metric of the graph of the logarithm of the loss.

    Grows without bound as the loss and the gradient vanish together.

    Args:
      length: the root of e.
      loss: f, the extra argument `value`; at or below 0 it has no logarithm, and
        nothing moves.
    Returns: a scalar, not negative.
    Example:
      >>> float(of_log_graph(jnp.asarray(1.0), lambda: jnp.asarray(2.0)))
      0.4000000059604645

    Source: arXiv:2509.03594.
    """
    f = jnp.maximum(loss(), 0).astype(length.dtype)
    return divide(f, f * f + length * length)


def scale_by_induced_metric(
    inner: optax.GradientTransformation | None = None,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.8,
    xi: ArrayLike = 0.1,
    metric: Metric | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum over one plus the running squared length of the gradient.

    A smooth clipping: where the loss is steep the step is short, and turns with 1/|G|.

        P <- inner(G)                               the identity
        e <- b2 e + (1 - b2) xi <G, P>              over all leaves
        M <- b1 M + (1 - b1) G
        U <- metric(e / (1 - b2^t)) inner(M / (1 - b1^t))

    Args:
      inner: a link that divides by a diagonal metric of the raw gradient, which it
        reads from the extra argument `grad`: `divide_by_mean_square(root=True)` makes
        it the authors' RMS variant. It is called twice, and steps once. Static.
      b1: weight of the past in M, in [0, 1). Traceable.
      b2: weight of the past in e, in [0, 1). Traceable.
      xi: how much of the loss is height of the landscape. Traceable.
      metric: `of_graph` or `of_log_graph`, which asks for `value`; None: `of_graph`.
        Static.
    State:
      count: int32 scalar, number of completed updates.
      length: sqrt(e), one number, float32 or wider.
      momentum: M, like the parameters, and its count.
      inner: the state of `inner`.
    Returns: a `GradientTransformationExtraArgs` that stands first in a chain. Inside a
      group e is that of the group's leaves. NaN in one leaf reaches all.
    Raises: ValueError for a number out of range, or if `value` is missing for a metric
      that asks for it; TypeError if `metric` is not a function.
    Example:
      >>> tx, g = scale_by_induced_metric(xi=3.0), {"w": jnp.asarray([1.0])}
      >>> tx.update(g, tx.init(g))[0]["w"].round(3).tolist()
      [0.25]

    Source: The Optimiser Hidden in Plain Sight, arXiv:2509.03594; code
      harveyThomas4692/Induced-Metric-Optimiser@754ae88, optimisers/jax_imp.py.
    """
    in_range("scale_by_induced_metric", "b2", b2, 0, 1)
    in_range("scale_by_induced_metric", "xi", xi)
    metric = of_graph if metric is None else metric
    is_callable("scale_by_induced_metric", "metric", metric, "of_graph")
    link = optax.with_extra_args_support(optax.identity() if inner is None else inner)
    mean = momentum(b1, nesterov=False, bias_correction=True)

    def init(params: optax.Params) -> InducedMetricState:
        zero = jnp.zeros((), _tree.real_dtype(params))
        return InducedMetricState(
            jnp.zeros((), jnp.int32), zero, mean.init(params), link.init(params)
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, InducedMetricState]:
        told = {**extra, "grad": updates}
        count = jnp.asarray(optax.safe_increment(state.count))
        divided, after = link.update(updates, state.inner, params, **told)
        widest = state.length.dtype
        d, s, t = _tree.dot(updates, divided, widest)
        weight, b = (jnp.asarray(x).astype(widest) for x in (xi, b2))
        now = jnp.sqrt(weight * jnp.maximum(d, 0)) * (jnp.sqrt(s) * jnp.sqrt(t))
        length = running(state.length, now, b)
        unbiased = length / jnp.sqrt(weight_of_past(b, count))
        loss = lambda: _tree.loss("scale_by_induced_metric", extra, widest)
        factor = metric(unbiased, loss)
        means, moments = mean.update(updates, state.momentum)
        means, _ = link.update(means, state.inner, params, **told)
        return jax.tree.map(lambda u: times(u, factor), means), InducedMetricState(
            count, length, moments, after
        )

    return optax.GradientTransformationExtraArgs(init, update)
