# SPDX-License-Identifier: Apache-2.0
"""The diagonal of the Gauss-Newton matrix from labels that the model draws itself."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from orthoptax._axes import names_of
from orthoptax._check import message
from orthoptax._types import Estimator
from orthoptax.curvature.leaves import diagonal_of, split, wide
from orthoptax.curvature.objective import call, required


def gauss_newton_bartlett() -> Estimator:
    """The diagonal of the Gauss-Newton matrix, never negative, for one gradient.

        y ~ p(logits)                       labels of the model's own, not the data's
        g <- gradient of nll_fn(logits_fn(W), y)       the mean over B labels
        d <- B g * g

    Several devices draw different labels: an axis's index enters the key. Averaged over
    the axis, d is the mean of each device's own B g * g.

    State: none.
    Returns: an `Estimator` that needs the extra arguments `logits_fn`, the model's
      outputs on the batch of the step as a function of the parameters,
      `sample_fn(key, logits)`, labels drawn from them, and `nll_fn(logits, labels)`,
      which returns the mean negative log-likelihood and the number B of labels that it
      is the mean of (batch times sequence, less those that were left out).
    Raises: ValueError or TypeError, while tracing, for an argument that is missing or
      no function, a `logits_fn` that fails on masked leaves, or an `nll_fn` that does
      not return two numbers.
    Example:
      >>> x, w, key = jnp.asarray([1.0, 2.0]), jnp.asarray(0.5), jax.random.key(0)
      >>> estimator = gauss_newton_bartlett()
      >>> d, _ = estimator.estimate(
      ...     estimator.init(w), w, None, 0, key, logits_fn=lambda w: w * x,
      ...     sample_fn=lambda key, m: m + jax.random.normal(key, m.shape),
      ...     nll_fn=lambda m, y: (jnp.mean((m - y) ** 2) / 2, m.size))
      >>> bool(d >= 0)
      True

    Source: Liu et al., Sophia, arXiv:2305.14342, Algorithm 2; Bartlett, 1953. The
      authors' code squares the mean over devices, which is unbiased too, varies more
      and waits for the sum before squaring.
    """
    where = "gauss_newton_bartlett"

    def estimate(
        state: Any, params: Any, grads: Any, step: Any, key: jax.Array, **extra: Any
    ) -> tuple[Any, Any]:
        del grads, step
        names = ("logits_fn", "sample_fn", "nll_fn")
        logits_fn, sample_fn, nll_fn = (required(where, n, extra) for n in names)
        for axis in names_of(extra.get("axis_name")):
            key = jax.random.fold_in(key, lax.axis_index(axis))
        floats, join = split(params)

        def loss(leaves: dict[str, Any]) -> tuple[jax.Array, Any]:
            logits = call(where, "logits_fn", logits_fn, join(leaves))
            labels = sample_fn(key, lax.stop_gradient(logits))
            pair = nll_fn(logits, lax.stop_gradient(labels))
            if not (
                isinstance(pair, tuple) and [jnp.shape(x) for x in pair] == [()] * 2
            ):
                came = jax.tree.map(lambda x: str(jnp.shape(x)), pair)
                raise TypeError(
                    message(
                        where,
                        f"nll_fn returned {came}",
                        "two numbers, the mean negative log-likelihood and its count",
                        "Return (jnp.mean(nll), nll.size)",
                    )
                )
            return pair

        g, number = jax.grad(loss, has_aux=True)(floats)
        return fisher(join, params, g, number), state

    return Estimator(lambda params: optax.EmptyState(), estimate)


def empirical_fisher(batch_size: int) -> Estimator:
    """The square of the training gradient: biased, and for comparison only.

        d <- B g * g

    Args:
      batch_size: B, number of losses that the gradient is the mean of. Static.
    State: none.
    Returns: an `Estimator` that needs no extra argument. It squares the updates that
      reach `with_curvature`, so clip them inside it, not before.
    Example:
      >>> estimator, g = empirical_fisher(4), jnp.asarray([1.0, -3.0])
      >>> estimator.estimate(estimator.init(g), g, g, 0, None)[0].tolist()
      [4.0, 36.0]

    Source: the first version of optax's Sophia; Kunstner et al., arXiv:1905.12558, on
      what is wrong with it.
    """

    def estimate(
        state: Any, params: Any, grads: Any, step: Any, key: Any, **extra: Any
    ) -> tuple[Any, Any]:
        del step, key, extra
        _, join = split(params)
        return fisher(join, params, split(grads)[0], batch_size), state

    return Estimator(lambda params: optax.EmptyState(), estimate)


def fisher(join: Any, params: Any, grads: dict[str, jax.Array], number: Any) -> Any:
    """number * g * g as a tree like the parameters, zero for integers."""
    squares = {}
    for path, g in grads.items():
        g = g.astype(wide(g.dtype))
        squares[path] = jnp.asarray(number).astype(g.dtype) * g * g
    return diagonal_of(join, params, squares)
