# SPDX-License-Identifier: Apache-2.0
"""Momentum that keeps what a compressor could not pass on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from orthoptax._check import in_range, message
from orthoptax._dtypes import wider, work_dtype, zeros_beside
from orthoptax._types import Compressed, Compressor


class ErrorFeedbackState(NamedTuple):
    """State of `error_feedback`.

    count: int32, completed updates. momentum: like the parameters, or `mu_dtype`.
    compressor: the compressor's state.
    """

    count: jax.Array
    momentum: optax.Updates
    compressor: Any


def whole() -> Compressor:
    """The compressor that passes everything: `error_feedback` is then heavy ball.

    State: none.
    Returns: a `Compressor`.
    Example:
      >>> import jax.numpy as jnp
      >>> pair, _ = whole().update(jnp.ones(2), optax.EmptyState())
      >>> pair.out is pair.kept
      True

    Source: ours.
    """

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[Compressed, optax.EmptyState]:
        del params, extra
        return Compressed(updates, updates), state

    return Compressor(lambda params: optax.EmptyState(), update)


def error_feedback(
    b1: ArrayLike = 0.95,
    compressor: optax.GradientTransformation | None = None,
    *,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Accumulates gradients and lets go only of what the compressor took.

    One link, three optimizers: `whole()` makes it heavy-ball momentum, a low-rank
    compressor Dion, one that selects rows Dion2.

        B <- M + G
        U, K <- compressor(B)                  what goes on, and the part it stands for
        M <- B - (1 - b1) K                    all the rest stays, undecayed

    Args:
      b1: what is kept of the part that went on, in [0, 1). Traceable.
      compressor: a transform that returns `Compressed(out, kept)`, in parameter
        coordinates: matrix compressors inside `on_matrices`. None: `whole()`. Static.
      mu_dtype: dtype of M; None: the parameter's. Static.
    State:
      count: int32 scalar, number of completed updates.
      momentum: M, like the parameters, in their dtype or `mu_dtype`.
      compressor: the compressor's state.
    Returns: a `GradientTransformationExtraArgs`; updates keep their dtype, sums are in
      float32 or wider.
    Raises: ValueError if `b1` is a Python number outside [0, 1); TypeError in `update`
      for a transform that is no compressor.
    Example:
      >>> tx = error_feedback(0.5)
      >>> u, state = tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}))
      >>> tx.update({"w": jnp.ones(1)}, state)[0]["w"].tolist()
      [1.5]

    Source: Ahn et al., Dion, arXiv:2504.05295, Algorithm 1; code
      microsoft/dion@0a059a4, dion_reference.py, dion2.py.
    """
    in_range("error_feedback", "b1", b1, 0, 1)
    inner = optax.with_extra_args_support(whole() if compressor is None else compressor)

    def init(params: optax.Params) -> ErrorFeedbackState:
        zeros = lambda p: zeros_beside(p, mu_dtype or p.dtype)
        return ErrorFeedbackState(
            jnp.zeros((), jnp.int32), jax.tree.map(zeros, params), inner.init(params)
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ErrorFeedbackState]:
        def add(g: jax.Array, m: jax.Array) -> jax.Array:
            work = work_dtype(wider(g.dtype, m.dtype))
            return m.astype(work) + g.astype(work)

        total = jax.tree.map(add, updates, state.momentum)
        result: Any = inner.update(total, state.compressor, params, **extra)
        pair, inner_state = result
        if not jax.tree.leaves(total):  # masked whole: there was nothing to compress
            pair = Compressed(total, total)
        if not isinstance(pair, Compressed):
            raise TypeError(
                message(
                    "error_feedback",
                    f"the compressor returned a {type(pair).__name__}",
                    "Compressed(out, kept)",
                    "Pass for example on_matrices(low_rank())",
                )
            )

        def left(m: jax.Array, b: jax.Array, kept: jax.Array) -> jax.Array:
            gone = (1 - jnp.asarray(b1)).astype(b.dtype)
            return (b - gone * kept.astype(b.dtype)).astype(m.dtype)

        out = jax.tree.map(lambda g, u: u.astype(g.dtype), updates, pair.out)
        return out, ErrorFeedbackState(
            jnp.asarray(optax.safe_increment(state.count)),
            jax.tree.map(left, state.momentum, total, pair.kept),
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)
