# SPDX-License-Identifier: Apache-2.0
"""Momentum: heavy ball or moving average, with or without Nesterov's look-ahead."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax._check import in_range, message
from orthoptax._dtypes import wider, work_dtype, zeros_beside


class MomentumState(NamedTuple):
    """count: int32, completed updates. momentum: like the parameters, or `mu_dtype`."""

    count: jax.Array
    momentum: optax.Updates


def momentum(
    b1: ArrayLike = 0.95,
    *,
    ema: bool = True,
    nesterov: bool = True,
    bias_correction: bool = False,
    first_gradient: bool = False,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient by its decaying sum or average.

        M <- b1 M + F        F = (1 - b1) G if ema, else G
        U <- b1 M + F        if nesterov, else M

    The two forms differ by the factor 1 - b1, which a scale-invariant link after it
    removes.

    Args:
      b1: weight of the past, in [0, 1). Traceable.
      ema: average instead of sum. Static.
      nesterov: look one step ahead. Static.
      bias_correction: divide M by 1 - b1^t, as optax does: with `nesterov` M counts as
        of the next step, b1 M/(1 - b1^(t+1)) + (1 - b1) G/(1 - b1^t). Needs `ema`.
      first_gradient: an average that starts at the first gradient, not at zero; as in
        analyses, and without `bias_correction`. A sum starts there anyway. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
    State:
      count: int32 scalar, number of completed updates.
      momentum: like the parameters, in their dtype or `mu_dtype`.
    Returns: a `GradientTransformationExtraArgs`; updates keep their dtype, the sum is
      computed in float32 or wider.
    Raises: ValueError if `b1` is a Python number outside [0, 1), or for two corrections
      of the start at once.
    Example:
      >>> tx = momentum(0.5, nesterov=False)
      >>> u, _ = tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))
      >>> u["w"].tolist()
      [0.5, 0.5]

    Source: Polyak, 1964; Nesterov, 1983; code KellerJordan/Muon@857d1ad (ema),
      microsoft/dion@0a059a4 (sum); bias correction optax 0.2.8 contrib.muon.
    """
    in_range("momentum", "b1", b1, 0, 1)
    if bias_correction and first_gradient:
        raise ValueError(
            message(
                "momentum",
                "bias_correction and first_gradient both correct the start",
                "one of them",
                "Drop bias_correction, since nothing is biased",
            )
        )

    def init(params: optax.Params) -> MomentumState:
        zeros = lambda p: zeros_beside(p, mu_dtype or p.dtype)
        return MomentumState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, MomentumState]:
        del params, extra
        count = jnp.asarray(optax.safe_increment(state.count))

        def leaf(g: jax.Array, m: jax.Array) -> tuple[jax.Array, jax.Array]:
            work = work_dtype(wider(g.dtype, m.dtype))
            b = jnp.asarray(b1).astype(work)
            if first_gradient and ema:
                b = jnp.where(state.count == 0, 0, b)
            fresh = (1 - b) * g.astype(work) if ema else g.astype(work)
            m = b * m.astype(work) + fresh
            past, now = m, fresh
            if bias_correction:
                t = count.astype(jnp.finfo(work).dtype)
                past = m / (1 - b ** (t + 1 if nesterov else t)).astype(work)
                now = fresh / (1 - b**t).astype(work)
            return (b * past + now if nesterov else past), m

        pairs = jax.tree.map(leaf, updates, state.momentum)
        pick = lambda i, like: jax.tree.map(
            lambda x, pair: pair[i].astype(x.dtype), like, pairs
        )
        return pick(0, updates), MomentumState(count, pick(1, state.momentum))

    return optax.GradientTransformationExtraArgs(init, update)
