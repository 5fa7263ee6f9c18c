# SPDX-License-Identifier: Apache-2.0
"""Wrapper: steps to where the quadratic model of the loss reaches its minimum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from orthoptax._check import in_range
from orthoptax._dtypes import times
from orthoptax._types import needs
from orthoptax.transforms import _tree


class PolyakStepState(NamedTuple):
    """State of `polyak_step`.

    count: int32, completed updates. step_size: the last lambda, in [0, 1]. inner: the
    state of the inner link.
    """

    count: jax.Array
    step_size: jax.Array
    inner: Any


@needs("value")
def polyak_step(
    inner: optax.GradientTransformation | None = None, *, f_star: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Scales a direction so that the quadratic model along it reaches the least loss.

    Polyak's step size for a gradient divided by a metric B: the shortest step, measured
    by B, after which the model of the loss is f_star.

        S <- inner(G)                                    B^-1 G
        v <- 2 (f - f_star) / <G, S>                     f: extra argument `value`
        lambda <- 1 - sqrt(1 - v) if v <= 1, else 1      at least 0
        U <- lambda S                                    <G, S> over all leaves

    Args:
      inner: a link that divides by a positive definite metric; None: the identity. It
        may read any extra argument. Static.
      f_star: the least value of the loss of a batch, 0 for a model that can fit all of
        it; where that is negative, pass a shifted `value`. Traceable.
    State:
      count: int32 scalar, number of completed updates.
      step_size: the last lambda, float32 or wider.
      inner: the state of `inner`.
    Returns: a `GradientTransformationExtraArgs` that needs `value`, the loss of the
      batch that the gradient is of. Inside a group <G, S> is that of the group's
      leaves, and the group steps as if it had to undo the whole loss alone. NaN in one
      leaf makes lambda NaN, and with it all.
    Raises: ValueError for a number out of range, or if `value` is missing.
    Example:
      >>> tx, g = polyak_step(), {"w": jnp.asarray([2.0])}
      >>> tx.update(g, tx.init(g), value=jnp.asarray(1.5))[0]["w"].tolist()
      [1.0]

    Deviations: the authors' code lets lambda be negative where f < f_star.
    Source: Abdukhakimov et al., SANIA, arXiv:2312.17369; code fxrshed/SANIA@ce6662f.
    """
    in_range("polyak_step", "f_star", f_star)
    link = optax.with_extra_args_support(optax.identity() if inner is None else inner)

    def init(params: optax.Params) -> PolyakStepState:
        zero = jnp.zeros((), _tree.real_dtype(params))
        return PolyakStepState(jnp.zeros((), jnp.int32), zero, link.init(params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, PolyakStepState]:
        directions, after = link.update(updates, state.inner, params, **extra)
        widest = _tree.real_dtype((updates, directions, state.step_size))
        f = _tree.loss("polyak_step", extra, widest)
        d, s, t = _tree.dot(updates, directions, widest)
        size = _length(f - jnp.asarray(f_star).astype(widest), d, s, t)
        return jax.tree.map(lambda u: times(u, size), directions), PolyakStepState(
            jnp.asarray(optax.safe_increment(state.count)),
            size.astype(state.step_size.dtype),
            after,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _length(gap: jax.Array, d: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
    """The lambda of `polyak_step` for a gap f - f_star and <G, S> = d s t."""
    v = 2 * gap / jnp.where(d == 0, 1, d) / s / t
    v = jnp.maximum(jnp.where(d == 0, jnp.inf, v), 0)  # of NaN it is NaN
    root = jnp.sqrt(jnp.maximum(1 - v, 0))
    # v / (1 + sqrt(1 - v)) is 1 - sqrt(1 - v), and cancels nothing.
    return jnp.where(v > 1, 1, v / (1 + root))
