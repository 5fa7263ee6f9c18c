# SPDX-License-Identifier: Apache-2.0
"""Six forms of weight decay, as links.

`l2` and `decoupled` add the same term, before the momentum and after it; `cautious`
drops it where it would oppose the step; `independent` and `palm` do not scale with the
learning rate as usual, `decay_after` decays what the step arrives at, and so these
three own the rate: they end a chain.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._dtypes import wider, work_dtype
from orthoptax.transforms.learning_rate import rate_at


class WeightDecayState(NamedTuple):
    """count: int32, completed updates; what a schedule is called with."""

    count: jax.Array


def decoupled(
    weight_decay: ArrayLike = 0.01,
) -> optax.GradientTransformationExtraArgs:
    """Adds the decayed parameters to the direction, before the learning rate.

        U <- U + wd W            so that   W <- W - lr U - lr wd W

    Args:
      weight_decay: coefficient, not negative. Traceable.
    State:
      count: int32 scalar, number of completed updates.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError if a Python number is negative or NaN, or `params` is missing.
    Example:
      >>> tx, w = decoupled(0.5), {"w": jnp.ones(1)}
      >>> tx.update({"w": jnp.zeros(1)}, tx.init(w), w)[0]["w"].tolist()
      [0.5]

    Source: Loshchilov and Hutter, arXiv:1711.05101.
    """
    return _decay("decoupled", weight_decay, lambda u, p, wd, lr: u + wd * p)


def l2(weight_decay: ArrayLike = 0.01) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of wd/2 ||W||^2; stands before the momentum.

        G <- G + wd W

    Args:
      weight_decay: coefficient, not negative. Traceable.
    State:
      count: int32 scalar, number of completed updates.
    Returns: a `GradientTransformationExtraArgs` that needs `params`.
    Raises: ValueError if a Python number is negative or NaN, or `params` is missing.
    Example:
      >>> tx, w = l2(0.5), {"w": jnp.ones(1)}
      >>> tx.update({"w": jnp.zeros(1)}, tx.init(w), w)[0]["w"].tolist()
      [0.5]

    Source: Emerging-Optimizers@fd77292, weight decay method `l2`.
    """
    return _decay("l2", weight_decay, lambda u, p, wd, lr: u + wd * p)


def cautious(weight_decay: ArrayLike = 0.01) -> optax.GradientTransformationExtraArgs:
    """Decays only the entries that the step itself does not enlarge.

        U <- U + wd W 1[W U >= 0]        zero products are decayed too

    Args:
      weight_decay: coefficient, not negative. Traceable.
    State:
      count: int32 scalar, number of completed updates.
    Returns: a `GradientTransformationExtraArgs` that needs `params`; stands after every
      link that changes signs, before the learning rate.
    Raises: ValueError if a Python number is negative or NaN, or `params` is missing.
    Example:
      >>> tx, w = cautious(0.5), {"w": jnp.ones(2)}
      >>> tx.update({"w": jnp.array([1.0, -1.0])}, tx.init(w), w)[0]["w"].tolist()
      [1.5, -1.0]

    Source: Chen et al., Cautious Weight Decay, arXiv:2510.12402.
    """
    keep = lambda u, p: (p * u >= 0).astype(p.dtype)
    return _decay(
        "cautious", weight_decay, lambda u, p, wd, lr: u + wd * p * keep(u, p)
    )


def independent(
    weight_decay: ArrayLike = 0.01,
    *,
    learning_rate: optax.ScalarOrSchedule = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """Steps by the learning rate, decays by a number of its own.

        U <- -lr U - wd W

    Args:
      weight_decay: fraction removed each step, not negative. Traceable.
      learning_rate: number, array or schedule. Traceable.
    State:
      count: int32 scalar, number of completed updates.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and ends a chain.
    Raises: ValueError if a Python number is negative or NaN, or `params` is missing.
    Example:
      >>> tx, w = independent(0.5, learning_rate=0.25), {"w": jnp.ones(1)}
      >>> tx.update({"w": jnp.ones(1)}, tx.init(w), w)[0]["w"].tolist()
      [-0.75]

    Source: Emerging-Optimizers@fd77292, weight decay method `independent`.
    """
    _check.learning_rate("independent", learning_rate)
    return _decay(
        "independent",
        weight_decay,
        lambda u, p, wd, lr: -lr * u - wd * p,
        learning_rate,
    )


def palm(
    weight_decay: ArrayLike = 0.01,
    *,
    learning_rate: optax.ScalarOrSchedule = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """Decays with the square of the learning rate.

        U <- -lr U - wd lr^2 W

    Args:
      weight_decay: coefficient, not negative. Traceable.
      learning_rate: number, array or schedule. Traceable.
    State:
      count: int32 scalar, number of completed updates.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and ends a chain.
    Raises: ValueError if a Python number is negative or NaN, or `params` is missing.
    Example:
      >>> tx, w = palm(1.0, learning_rate=0.5), {"w": jnp.ones(1)}
      >>> tx.update({"w": jnp.ones(1)}, tx.init(w), w)[0]["w"].tolist()
      [-0.75]

    Source: Emerging-Optimizers@fd77292, weight decay method `palm`.
    """
    _check.learning_rate("palm", learning_rate)
    return _decay(
        "palm",
        weight_decay,
        lambda u, p, wd, lr: -lr * u - wd * lr**2 * p,
        learning_rate,
    )


def decay_after(
    weight_decay: ArrayLike = 0.01,
    *,
    learning_rate: optax.ScalarOrSchedule = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """Decays what the step arrives at, not what it starts from.

        W <- (1 - lr wd) (W - lr U)

    Args:
      weight_decay: coefficient, not negative. Traceable.
      learning_rate: number, array or schedule. Traceable.
    State:
      count: int32 scalar, number of completed updates.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and ends a chain.
    Raises: ValueError if a Python number is negative or NaN, or `params` is missing.
    Example:
      >>> tx, w = decay_after(0.5, learning_rate=0.5), {"w": jnp.ones(1)}
      >>> tx.update({"w": jnp.ones(1)}, tx.init(w), w)[0]["w"].tolist()
      [-0.625]

    Source: Emerging-Optimizers@fd77292, muown.py, the row norms.
    """
    _check.learning_rate("decay_after", learning_rate)
    return _decay(
        "decay_after",
        weight_decay,
        lambda u, p, wd, lr: -lr * u - lr * wd * (p - lr * u),
        learning_rate,
    )


def _decay(
    where: str,
    weight_decay: ArrayLike,
    form: Callable[..., jax.Array],
    learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The link that maps (update, parameter, wd, lr) leaf by leaf through `form`."""
    _check.in_range(where, "weight_decay", weight_decay)

    def init(params: optax.Params) -> WeightDecayState:
        del params
        return WeightDecayState(jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, WeightDecayState]:
        del extra
        _check.has_params(where, params)
        count = jnp.asarray(optax.safe_increment(state.count))
        rate = 1.0
        if learning_rate is not None:
            rate = rate_at(learning_rate, state.count)
        elif isinstance(weight_decay, float | int) and weight_decay == 0:
            return updates, WeightDecayState(count)  # nothing enters the program

        def leaf(u: jax.Array, p: jax.Array) -> jax.Array:
            work = work_dtype(wider(u.dtype, p.dtype))
            wd, lr = (jnp.asarray(x).astype(work) for x in (weight_decay, rate))
            return form(u.astype(work), p.astype(work), wd, lr).astype(u.dtype)

        return jax.tree.map(leaf, updates, params), WeightDecayState(count)

    return optax.GradientTransformationExtraArgs(init, update)
