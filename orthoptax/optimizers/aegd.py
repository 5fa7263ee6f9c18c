# SPDX-License-Identifier: Apache-2.0
"""AEGD: gradient descent whose steps an energy, begun at the loss, keeps in bounds."""

import optax
from jax.typing import ArrayLike

from orthoptax import _check
from orthoptax._types import needs
from orthoptax.optimizers._rest import on_parameters
from orthoptax.transforms.energy_step import energy_step


@needs("value")
def aegd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    c: ArrayLike = 1.0,
    weight_decay: ArrayLike = 0.0,
    coupled: bool = False,
    metric: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent with an energy that falls at every step, whatever the rate.

        l <- sqrt(f + c)                            f: the loss, extra argument `value`
        D <- G / (2 l)                              + wd W if coupled
        S <- metric(D)
        r <- r / (1 + 2 lr D S)                     r = l before the first step
        W <- W - 2 lr r S                           - lr wd W if not coupled

    Without a metric every entry has an energy; with one, <D, S> over all leaves feeds a
    single one. A loss that is not above -c, or not finite, skips the step.

    Args:
      learning_rate: number, array or schedule; the authors' is 0.1. While the energy is
        near l, a step is lr G; each shortens the next, more so at a high rate, and
        nothing lengthens it again. Traceable.
      c: makes f + c positive. Traceable.
      weight_decay: see above. Traceable.
      coupled: decay as part of the gradient of l, which the energy then scales too, as
        in the authors' AEGD; else apart from it, as in their AEGDW. Static.
      metric: a link that divides by a positive definite metric; in a chain of its own
        it sees D, not G. None: the identity, and an energy an entry. Static.
    State:
      count, skipped: int32 scalars, calls and how many of them took no step.
      energy: r, like the parameters in float32 or wider; one number with a metric.
      inner: the state of `metric`.
      Memory: m*n numbers a matrix of m rows and n columns.
    Returns: a `GradientTransformationExtraArgs` that needs `params` and `value`.
    Raises: ValueError for a number out of range or a missing `value`; TypeError in
      `init` for integer leaves.
    Example:
      >>> import jax.numpy as jnp
      >>> params = {"dense": {"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)}}
      >>> tx = aegd(0.1)
      >>> state = tx.init(params)
      >>> updates, state = tx.update(params, state, params, value=jnp.asarray(3.0))
      >>> round(float(updates["dense"]["bias"][0]), 4)
      -0.0988

    Family: Step size.
    Source: Liu and Tian, AEGD, arXiv:2010.05109; code txping/AEGD@50347c6, aegd.py.
      With a metric: Liu et al., arXiv:2310.06733.
    """
    _check.learning_rate("aegd", learning_rate)
    _check.in_range("aegd", "weight_decay", weight_decay)
    return on_parameters(
        "aegd",
        energy_step(
            metric,
            learning_rate=learning_rate,
            c=c,
            l2=weight_decay if coupled else 0.0,
            weight_decay=0.0 if coupled else weight_decay,
            shared=metric is not None,
        ),
    )
