# SPDX-License-Identifier: Apache-2.0
"""The learning rate as a link whose state does not depend on what the rate is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._dtypes import times


class ScaleByLearningRateState(NamedTuple):
    """count: int32, completed updates; what a schedule is called with."""

    count: jax.Array


def scale_by_learning_rate(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by minus the learning rate.

        U <- -lr_t U

    optax's link of this name counts only when the rate is a schedule, so that its state
    changes with the argument; this one always counts.

    Args:
      learning_rate: a number, an array, or a schedule of the int32 count of completed
        updates, which starts at 0. Traceable.
    State:
      count: int32 scalar, number of completed updates.
    Returns: a `GradientTransformationExtraArgs`; updates keep their dtype.
    Raises: ValueError if a Python number is negative or NaN.
    Example:
      >>> tx = scale_by_learning_rate(lambda count: 0.5**count)
      >>> u, state = tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}))
      >>> tx.update(u, state)[0]["w"].tolist()
      [0.5]

    Source: optax 0.2.8 `scale_by_learning_rate`.
    """
    _check.learning_rate("scale_by_learning_rate", learning_rate)

    def init(params: optax.Params) -> ScaleByLearningRateState:
        del params
        return ScaleByLearningRateState(jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ScaleByLearningRateState]:
        del params, extra
        rate = rate_at(learning_rate, state.count)
        updates = jax.tree.map(lambda u: times(u, -rate), updates)
        return updates, ScaleByLearningRateState(
            jnp.asarray(optax.safe_increment(state.count))
        )

    return optax.GradientTransformationExtraArgs(init, update)


def rate_at(learning_rate: optax.ScalarOrSchedule, count: ArrayLike) -> Any:
    """The rate after `count` completed updates, for a number or a schedule."""
    return learning_rate(count) if callable(learning_rate) else learning_rate
